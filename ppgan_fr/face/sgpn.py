"""What SGPN needs around its networks: the shape network's crop, the rendering put back, the pipeline's restorer.

Zhu et al., "Blind Face Restoration via Integrating Face Shape and Generative Priors", CVPR 2022. Written from a
description of the behaviour of its demo. Here a crop may have any side; the demo is tied to 512. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppgan_fr.face.align import SGPN_512, AlignError, align, similarity
from ppgan_fr.face.face_model import FaceModel, read_face_model
from ppgan_fr.face.paste import paste_sgpn
from ppgan_fr.face.shape3d import COEFFICIENTS, IMAGE_SIZE, render
from ppgan_fr.face.spec import ModelSpec
from ppgan_fr.face.types import AlignedFace, Detect, Face, Restore, Run

STANDARD_LANDMARKS = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.0032534988, -0.046179324, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ],
    np.float32,
)
"""(5, 3) decimetres: eyes, nose tip, mouth corners of the average face; from Deep3DFaceRecon's
similarity_Lm3D_all.mat (MIT)."""
RESCALE = 102.0
"""Pixels of a 224-pixel crop per decimetre of the face."""
GRAY_OUTSIDE = 0.5
"""What the shape network sees outside the crop: 0 in [-1, 1]."""

INPUTS = ("rendered", "coefficients")
"""Inputs beside the picture that tell a generator to be guided by a shape."""
NO_SHAPE = "none"
"""As face model: restore without a shape, as a generator of `recipe.use_shape=false` was trained."""


class GuideError(ValueError):
    """A crop that cannot be restored with the help of its shape."""


@dataclass(frozen=True)
class GuidedFace:
    """Everything SGPN made of one crop."""

    restored: np.ndarray
    """(S, S, 3) float32 RGB, clamped to [-1, 1]."""
    rendered: np.ndarray
    """(S, S, 3) float32 RGB in [-1, 1], -1 where there is no face."""
    coefficients: np.ndarray
    """(257,) float32."""


def standard_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """(5, 3): eyes (means of two corners each), nose tip and mouth corners out of 68 points in space."""
    points = np.asarray(landmarks)
    eyes = points[[36, 39]].mean(axis=0), points[[42, 45]].mean(axis=0)
    return np.stack([*eyes, points[30], points[48], points[54]]).astype(np.float32)


def shape_crop_points(landmarks: np.ndarray, size: int = 512) -> np.ndarray:
    """Where the five landmarks of a crop of side `size` go in the 224-pixel crop of the shape network; (5, 2) float64.

    An affine camera is fitted to the average face's landmarks by least squares; its scale and shift make the crop.
    Chen et al.'s similarity normalisation, as in Deep3DFaceRecon: only scale and shift, the face is not turned
    upright.

    Raises:
        AlignError: no camera fits.
    """
    points = np.asarray(landmarks, np.float64).copy()
    points[:, 1] = size - 1 - points[:, 1]
    design = np.hstack([STANDARD_LANDMARKS.astype(np.float64), np.ones((5, 1))])
    if not np.isfinite(points).all():
        raise AlignError("the landmarks are not finite")
    camera = np.linalg.lstsq(design, points, rcond=None)[0]
    scale = np.linalg.norm(camera[:3], axis=0).mean()
    if scale < 1e-6:
        raise AlignError("the landmarks are degenerate")
    ratio = RESCALE / scale
    side = int(size * ratio)
    moved = (points - camera[3] + size / 2) * ratio - (side / 2 - IMAGE_SIZE / 2)
    moved[:, 1] = IMAGE_SIZE - 1 - moved[:, 1]
    return moved


def shape_crop(crop: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shape network's view of a crop.

    Args:
        crop: (S, S, 3) float32 RGB in [-1, 1].
        landmarks: (5, 2) in pixels of the crop.

    Returns:
        (224, 224, 3) float32 RGB in [0, 1], and the matrix (2, 3) that maps its pixels back to the crop's.
    """
    landmarks = np.asarray(landmarks, np.float64)
    target = shape_crop_points(landmarks, crop.shape[0])
    view = warp_affine(crop, similarity(landmarks, target, "umeyama"), IMAGE_SIZE)
    # Fitted anew instead of inverted: least squares the other way round is another matrix when the points do not
    # match exactly.
    return view * 0.5 + GRAY_OUTSIDE, similarity(target, landmarks, "umeyama")


def rendered_crop(picture: np.ndarray, mask: np.ndarray, to_crop: np.ndarray, size: int) -> np.ndarray:
    """Puts a rendering back into the crop.

    Args:
        picture: (224, 224, 3) RGB in [0, 255].
        mask: (224, 224), 1 on the face.
        to_crop: (2, 3) from `shape_crop`.
        size: side of the crop.

    Returns:
        (size, size, 3) float32 RGB in [-1, 1]. Picture and mask are both soft at the rim, which is darkened twice,
        as in the original.
    """
    both = np.concatenate([picture / 255.0, mask[:, :, None]], axis=2).astype(np.float32)
    both = warp_affine(both, to_crop, size)
    return both[:, :, :3] * both[:, :, 3:] * 2 - 1


def warp_affine(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Bilinear warp in full precision (OpenCV's has 5 bits of position).

    Args:
        image: (H, W, C) float32.
        matrix: (2, 3), maps pixels of `image` to pixels of the result; pixel centres at integers.
        size: side of the result.

    Returns:
        (size, size, C) float32; each of the four taps outside the image counts as 0.
    """
    height, width = image.shape[:2]
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    along = np.arange(size)
    x = inverse[0, 0] * along + (inverse[0, 1] * along[:, None] + inverse[0, 2])
    y = inverse[1, 0] * along + (inverse[1, 1] * along[:, None] + inverse[1, 2])
    # A border of zeros makes every outside tap a lookup; what lies further out than that is moved onto the border.
    padded = np.pad(image.astype(np.float32, copy=False), ((1, 2), (1, 2), (0, 0)))
    x, y = np.clip(x, -1, width) + 1, np.clip(y, -1, height) + 1
    left, top = x.astype(np.intp), y.astype(np.intp)
    dx, dy = (x - left).astype(np.float32)[..., None], (y - top).astype(np.float32)[..., None]
    stride = padded.shape[1]
    flat, at = padded.reshape(-1, padded.shape[2]), top * stride + left
    upper = flat[at] * (1 - dx) + flat[at + 1] * dx
    lower = flat[at + stride] * (1 - dx) + flat[at + stride + 1] * dx
    return upper * (1 - dy) + lower * dy


def guide(crop: np.ndarray, landmarks: np.ndarray, run_shape: Run, model: FaceModel) -> tuple[np.ndarray, np.ndarray]:
    """Fits and draws the face of a crop.

    Args:
        crop: (S, S, 3) float32 RGB in [-1, 1].
        landmarks: (5, 2) in pixels of the crop.
        run_shape: the shape network, {"image": (1, 3, 224, 224) RGB in [0, 1]} -> [(1, 257)].
        model: the face model.

    Returns:
        The rendering (S, S, 3) float32 RGB in [-1, 1], and the coefficients (257,) float32.
    """
    view, to_crop = shape_crop(crop, landmarks)
    coefficients = run_shape({"image": view.transpose(2, 0, 1)[None]})[0][0].astype(np.float32)
    if not np.isfinite(coefficients).all():
        return np.full_like(crop, np.nan), coefficients
    return rendered_crop(*render(model, coefficients), to_crop, crop.shape[0]), coefficients


def restore_crop(
    crop: np.ndarray, landmarks: np.ndarray, run_shape: Run, run_image: Run, model: FaceModel
) -> GuidedFace:
    """The whole of SGPN on one crop.

    Args:
        crop: (S, S, 3) uint8 BGR.
        landmarks: (5, 2) in pixels of the crop: left eye as seen in the picture, right eye, nose, left and
            right mouth corner.
        run_shape: see `guide`.
        run_image: the generator, {"lq", "rendered": (1, 3, S, S) RGB in [-1, 1], "coefficients": (1, 257)} ->
            [(1, 3, S, S), ...].
        model: the face model.
    """
    picture = crop[:, :, ::-1].astype(np.float32) / 127.5 - 1
    rendered, coefficients = guide(picture, landmarks, run_shape, model)
    return GuidedFace(_generate(picture, rendered, coefficients, run_image), rendered, coefficients)


def _generate(picture: np.ndarray, rendered: np.ndarray, coefficients: np.ndarray, run_image: Run) -> np.ndarray:
    """The generator's answer, (S, S, 3) float32 RGB clamped to [-1, 1]."""
    inputs = {"lq": picture, "rendered": rendered}
    arrays = {name: np.ascontiguousarray(value.transpose(2, 0, 1)[None]) for name, value in inputs.items()}
    restored = run_image({**arrays, "coefficients": coefficients[None]})[0][0].transpose(1, 2, 0)
    return np.clip(restored, -1, 1)


def unguided_restorer(run_image: Run) -> Restore:
    """For a generator trained without the shape (`recipe.use_shape=false`): an empty drawing and zero coefficients."""

    def restore(faces: list[AlignedFace]) -> list[np.ndarray]:
        results = []
        for face in faces:
            picture = face.image[:, :, ::-1].astype(np.float32) / 127.5 - 1
            nothing = np.zeros(COEFFICIENTS, np.float32)
            restored = _generate(picture, np.full_like(picture, -1), nothing, run_image)
            results.append((restored[:, :, ::-1] + 1) * 127.5)
        return results

    return restore


def shape_guided_restorer(
    run_shape: Run,
    run_image: Run,
    model: FaceModel,
    *,
    size: int = 512,
    locate: Detect | None = None,
    observe: Callable[[GuidedFace], None] | None = None,
) -> Restore:
    """SGPN as the pipeline's restorer.

    Args:
        run_shape: engine of the shape network, see `guide`.
        run_image: engine of the generator, see `restore_crop`.
        model: the face model.
        size: side of the crops the generator takes.
        locate: finds the landmarks of a crop anew; for crops that were not cut by their landmarks.
        observe: called with every result, for pages that show the rendering.

    Returns:
        A function from aligned faces to (size, size, 3) float32 BGR in [0, 255]; NaN where a network gave no number. It
        raises `GuideError` for a crop of another size and where `locate` finds no face.
    """

    def restore(faces: list[AlignedFace]) -> list[np.ndarray]:
        results = []
        for face in faces:
            if face.image.shape != (size, size, 3):
                height, width = face.image.shape[:2]
                raise GuideError(f"this generator takes crops of {size} x {size} pixels, got {width} x {height}")
            landmarks = face.landmarks if locate is None else _best_landmarks(locate(face.image))
            guided = restore_crop(face.image, landmarks, run_shape, run_image, model)
            if observe is not None:
                observe(guided)
            results.append((guided.restored[:, :, ::-1] + 1) * 127.5)
        return results

    return restore


def wants_shape(spec: ModelSpec) -> bool:
    """Whether the generator has SGPN's inputs."""
    return all(name in spec.input_names for name in INPUTS)


def exported_restorer(
    folder: Path, spec: ModelSpec, run_image: Run, open_run: Callable[[Path], Run], locate: Detect | None = None
) -> Restore:
    """SGPN out of an export folder, with the shape network and the face model that lie in it.

    Args:
        folder: export folder of the generator.
        spec: its `inference.yml`.
        run_image: engine of the generator.
        open_run: loads another export folder.
        locate: see `shape_guided_restorer`.

    Raises:
        GuideError: the folder was exported without a shape network.
        FaceModelError: the face model is missing or damaged.
    """
    if spec.companions.get("face_model") == NO_SHAPE:
        return unguided_restorer(run_image)
    missing = [name for name in ("shape", "face_model") if name not in spec.companions]
    if missing:
        raise GuideError(
            f"{folder}: exported without {' and '.join(missing)}, which {spec.arch} needs to restore; export it again "
            "with pipeline.shape_weights and pipeline.face_model (docs/sgpn.md, section 4)"
        )
    model = read_face_model(folder / spec.companions["face_model"])
    run_shape = open_run(folder / spec.companions["shape"])
    return shape_guided_restorer(run_shape, run_image, model, size=spec.size or 512, locate=locate)


def _best_landmarks(faces: list[Face]) -> np.ndarray:
    if not faces:
        raise GuideError("no face was found in this crop, so there is no shape to be guided by")
    return max(faces, key=lambda face: face.score).landmarks


def restore_in_turn(image: np.ndarray, faces: list[Face], restore: Restore) -> np.ndarray:
    """The demo's own way through a photo, kept to compare with it: each face is cut from what those before it left.

    `ppgan_fr.face.pipeline.restore_image` cuts all faces from the untouched photo instead, so that neighbours do
    not eat into each other, and rounds where the demo truncates.

    Args:
        image: (H, W, 3) uint8 BGR.
        faces: in the order in which they are restored.
        restore: see `shape_guided_restorer`.

    Returns:
        A new (H, W, 3) uint8 BGR picture.
    """
    for face in faces:
        aligned = align(image, face, SGPN_512)
        image = paste_sgpn(image, restore([aligned])[0], aligned)
    return image
