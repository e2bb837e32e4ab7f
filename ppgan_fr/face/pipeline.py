"""From a photo to a photo: detect, align, restore, paste. Pure; knows no engine and no file."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np

from ppgan_fr.face.align import FFHQ_512, AlignError, Template, align, already_aligned, to_8_bit
from ppgan_fr.face.paste import enlarge, face_mask, parsing_mask, paste, paste_reference, paste_sgpn
from ppgan_fr.face.types import AlignedFace, Detect, Face, Restore, Restored, RestoredFace

Parse = Callable[[np.ndarray], np.ndarray]
"""(512, 512, 3) uint8 BGR crop -> (512, 512) class of each pixel, facexlib's 19."""

TONED = 2.5
"""A face whose colours stray from a curve over brightness by at most this many levels is a toned print."""
NOT_A_NUMBER = "the network's answer is not a number"


def restore_image(
    image: np.ndarray,
    detect: Detect | None,
    restore: Restore,
    *,
    mask: str = "face",
    template: Template = FFHQ_512,
    scale: float = 1.0,
    only_center: bool = False,
    min_eye_distance: float = 0.0,
    parse: Parse | None = None,
    on_face: Callable[[int, int], None] | None = None,
) -> Restored:
    """Restores every face of a picture and leaves the rest of it alone.

    Args:
        image: (H, W, 3) uint8 or uint16 BGR, upright.
        detect: finds the faces. None: the picture is one aligned face.
        restore: the network, see `restore.image_restorer`.
        mask: what of a restored crop is pasted: "face" (an ellipse), "square" and "parsing" (facexlib's), "sgpn".
        template: alignment that the network was trained with.
        scale: size of the result against the picture; the background is enlarged by interpolation.
        only_center: restore only the face nearest to the middle.
        min_eye_distance: faces whose eyes are closer than this many pixels are left alone.
        parse: face parsing network, for the mask "parsing".
        on_face: told (done, all) after each face.

    Returns:
        The picture and what became of each face, the largest first. With no face the picture comes back unchanged.

    Raises:
        ValueError: a mask of unknown name, or "parsing" without `parse`.
    """
    if mask not in ("face", "square", "parsing", "sgpn"):
        raise ValueError(f"there is no mask {mask!r}; available: face, square, parsing, sgpn")
    if mask == "parsing" and parse is None:
        raise ValueError("the mask 'parsing' needs a parsing network")
    seconds = dict.fromkeys(("detect", "align", "restore", "paste"), 0.0)

    start = time.perf_counter()
    if detect is None:
        aligned = [(_whole_picture(image), already_aligned(image, template))]
        seconds["align"] = time.perf_counter() - start
    else:
        faces = _wanted(detect(image), image.shape, only_center, min_eye_distance)
        seconds["detect"] = time.perf_counter() - start
        start = time.perf_counter()
        aligned = _align_all(image, faces, template)
        seconds["align"] = time.perf_counter() - start

    start = time.perf_counter()
    restored = [_restore_one(face, crop, restore, on_face, i, len(aligned)) for i, (face, crop) in enumerate(aligned)]
    seconds["restore"] = time.perf_counter() - start

    start = time.perf_counter()
    if detect is None:
        result = _only_the_face(image, restored[0], scale)
    else:
        result = _paste_all(image, [one for one in restored if one.image is not None], mask, scale, parse)
    seconds["paste"] = time.perf_counter() - start
    return Restored(result, tuple(restored), seconds)


def _wanted(faces: list[Face], shape: tuple[int, ...], only_center: bool, min_eye_distance: float) -> list[Face]:
    faces = [face for face in faces if np.hypot(*(face.landmarks[1] - face.landmarks[0])) >= min_eye_distance]
    if only_center and faces:
        middle = np.array([shape[1] / 2, shape[0] / 2])
        return [min(faces, key=lambda face: float(np.hypot(*(face.box[:2] + face.box[2:] / 2 - middle))))]
    return sorted(faces, key=lambda face: -float(face.box[2] * face.box[3]))


def _align_all(image: np.ndarray, faces: list[Face], template: Template) -> list[tuple[Face, AlignedFace]]:
    aligned = []
    for face in faces:
        try:
            aligned.append((face, align(image, face, template)))
        except AlignError:  # five points on one spot: whatever was found, it is not a face that can be restored
            continue
    return aligned


def _whole_picture(image: np.ndarray) -> Face:
    height, width = image.shape[:2]
    points = FFHQ_512.array() * (width / 512, height / 512)
    return Face(np.array([0, 0, width, height], np.float32), points.astype(np.float32), 1.0)


def _restore_one(
    face: Face,
    crop: AlignedFace,
    restore: Restore,
    on_face: Callable[[int, int], None] | None,
    index: int,
    count: int,
) -> RestoredFace:
    answer = restore([crop])[0]
    if on_face is not None:
        on_face(index + 1, count)
    if not np.isfinite(answer).all():
        return RestoredFace(face, crop, None, NOT_A_NUMBER)
    pixels = np.rint(answer).astype(np.uint8)
    if is_gray(crop.image):
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    elif (tone := toning(crop)) is not None:
        pixels = toned(pixels, tone)
    return RestoredFace(face, crop, pixels)


def is_gray(image: np.ndarray, tolerance: float = 1.0) -> bool:
    """Whether a BGR picture is black and white: its channels differ by at most `tolerance` levels on average."""
    image = image.astype(np.int16)
    return float((image.max(2) - image.min(2)).mean()) <= tolerance


def toning(crop: AlignedFace) -> np.ndarray | None:
    """How a toned print (sepia, blue, faded black and white) gives each brightness its tint; None for a colour photo.

    In a toned print the two colour channels of the face follow its brightness; in a colour photo lips, eyes and skin go
    their own ways. Measured around a quadratic: sepia prints as JPEG stray by up to 2.1 levels, colour faces by 3.2 and
    more.

    Returns:
        (3, 2): offset, slope and curve of Cr and Cb over luminance in [0, 1].
    """
    inside = face_mask(crop.landmarks, len(crop.image)) > 0.5
    channels = cv2.cvtColor(crop.image, cv2.COLOR_BGR2YCrCb)[inside].astype(np.float64)
    if len(channels) < 64:
        return None
    powers = _powers(channels[:, 0])
    curve = np.linalg.lstsq(powers, channels[:, 1:], rcond=None)[0]
    strays = np.sqrt(((channels[:, 1:] - powers @ curve) ** 2).mean(0).sum())
    return curve if strays <= TONED else None


def toned(pixels: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """Gives a restored crop, (H, W, 3) uint8 BGR, the tint of the print it came from."""
    luminance = cv2.cvtColor(pixels, cv2.COLOR_BGR2YCrCb)[..., 0]
    tints = np.clip(np.rint(_powers(np.arange(256)) @ tone), 0, 255).astype(np.uint8)
    return cv2.cvtColor(np.dstack([luminance, tints[luminance]]), cv2.COLOR_YCrCb2BGR)


def _powers(luminance: np.ndarray) -> np.ndarray:
    level = luminance / 255.0
    return np.stack([np.ones_like(level), level, level * level], -1)


def _only_the_face(image: np.ndarray, one: RestoredFace, scale: float) -> np.ndarray:
    """The restored crop itself, at the size of the picture times `scale`."""
    if one.image is None:
        return enlarge(image, scale)
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    result = one.image
    if result.shape[1::-1] != size:
        smaller = size[0] * size[1] < result.shape[0] * result.shape[1]
        result = cv2.resize(result, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return result.astype(np.uint16) * 257 if image.dtype == np.uint16 else result


def _paste_all(
    image: np.ndarray, faces: list[RestoredFace], mask: str, scale: float, parse: Parse | None
) -> np.ndarray:
    result = enlarge(image, scale)
    if mask in ("face", "parsing"):
        for one in faces:
            labels = parse(one.image) if mask == "parsing" and parse is not None else None
            soft = face_mask(one.aligned.landmarks, len(one.image)) if labels is None else parsing_mask(labels)
            paste(result, one.image, one.aligned.to_template, soft, scale, out=result)
        return result
    result = to_8_bit(result)
    for one in faces:
        if mask == "sgpn":
            result = paste_sgpn(result, one.image, one.aligned)
        else:
            result = paste_reference(result, one.image, one.aligned.to_template, None, round(scale))
    result = result.astype(np.uint8)
    return result.astype(np.uint16) * 257 if image.dtype == np.uint16 else result
