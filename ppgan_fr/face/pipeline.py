"""From a photo to a photo: detect, align, restore, paste. Pure; knows no engine and no file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ppgan_fr.face.align import FFHQ_512, AlignError, Template, align, already_aligned, to_8_bit
from ppgan_fr.face.colour import settle_colours
from ppgan_fr.face.identity import Embed, check, mix
from ppgan_fr.face.paste import enlarge, face_mask, parsing_mask, paste, paste_reference, paste_sgpn
from ppgan_fr.face.strength import automatic_strength, estimate
from ppgan_fr.face.types import COLOUR, IDENTITY, AlignedFace, Detect, Face, Restore, Restored, RestoredFace

Parse = Callable[[np.ndarray], np.ndarray]
"""(512, 512, 3) uint8 BGR crop -> (512, 512) class of each pixel, facexlib's 19."""

SMALLEST = 20.0
"""Faces narrower and lower than this many pixels of the photo are left alone: there is nothing to restore them from."""
NOT_A_NUMBER = "the network's answer is not a number"


@dataclass(frozen=True)
class Policies:
    """What is decided for each face beyond running the network. The defaults change nothing but black-and-white faces
    and toned prints, which keep their colours.
    """

    colour: str = "auto"
    """See `colour.settle_colours`."""
    identity: str = "off"
    """"warn" and "gate" need `embed`, see `identity.check`."""
    embed: Embed | None = None
    automatic: bool = False
    """The network's fidelity follows the estimated quality, and sharp faces are left alone."""
    smallest: float = SMALLEST

    def __post_init__(self) -> None:
        """Refuses what there is not.

        Raises:
            ValueError: a policy of unknown name, or a check of identity without a recogniser.
        """
        for name, value, allowed in (("colour", self.colour, COLOUR), ("identity", self.identity, IDENTITY)):
            if value not in allowed:
                raise ValueError(f"{name}: must be one of {', '.join(allowed)}, got {value!r}")
        if self.identity != "off" and self.embed is None:
            raise ValueError(f"identity {self.identity}: needs a face recogniser")


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
    policies: Policies = Policies(),  # noqa: B008 - frozen
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
        policies: colours, identity and strength.

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
    restored = []
    for face, crop in aligned:
        restored.append(_restore_one(face, crop, restore, policies, whole=detect is not None))
        if on_face is not None:
            on_face(len(restored), len(aligned))
    seconds["restore"] = time.perf_counter() - start

    start = time.perf_counter()
    if detect is None:
        result = _only_the_face(image, restored[0], scale)
    else:
        changed = [one for one in restored if one.image is not None and one.left_alone is None]
        result = _paste_all(image, changed, mask, scale, parse)
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


def _restore_one(face: Face, crop: AlignedFace, restore: Restore, policies: Policies, whole: bool) -> RestoredFace:
    if whole and max(float(face.box[2]), float(face.box[3])) < policies.smallest:
        return RestoredFace(face, crop, crop.image, left_alone="small")
    watched = policies.identity != "off"
    quality = estimate(crop.image) if policies.automatic or watched else None
    amount = 1.0
    if policies.automatic and quality is not None:
        fidelity, amount = automatic_strength(quality)
        crop = replace(crop, fidelity=fidelity)
        if amount == 0:
            return RestoredFace(face, crop, crop.image, left_alone="sharp", amount=0.0, quality=quality)
    answer = restore([crop])[0]
    if not np.isfinite(answer).all():
        return RestoredFace(face, crop, None, NOT_A_NUMBER)
    pixels = settle_colours(np.rint(answer).astype(np.uint8), crop, policies.colour)
    if amount < 1:
        pixels = mix(pixels, crop.image, 1 - amount)
    if not watched or policies.embed is None or quality is None:
        return RestoredFace(face, crop, pixels, amount=amount, quality=quality)
    pixels, verdict = check(crop, pixels, quality.recognisable, policies.embed, policies.identity)
    left_alone = "identity" if verdict.kept == 1 else None
    return RestoredFace(face, crop, pixels, None, left_alone, amount, quality, verdict)


def _only_the_face(image: np.ndarray, one: RestoredFace, scale: float) -> np.ndarray:
    """The restored crop itself, at the size of the picture times `scale`."""
    if one.image is None or one.left_alone is not None:
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
