"""Whose colours a restored face has: gray stays gray, a toned print keeps its tint, and on request a colour photo keeps
its skin tone and eye colour.
"""

from __future__ import annotations

import cv2
import numpy as np

from ppgan_fr.face.paste import face_mask
from ppgan_fr.face.types import AlignedFace

TONED = 2.5
"""A face whose colours stray from a curve over brightness by at most this many levels is a toned print."""
CHROMA_SIGMA = 8.0
LIGHT_SIGMA = 40.0
"""Deviation in pixels of a crop of 512 below which colour (an iris is 25 wide) and brightness (cheeks) follow the
input."""


def settle_colours(pixels: np.ndarray, crop: AlignedFace, policy: str = "auto") -> np.ndarray:
    """Gives a restored crop the colours it should have.

    Args:
        pixels: (size, size, 3) uint8 BGR, as the network left it.
        crop: what went in.
        policy: "auto": a gray face stays gray, a toned print keeps its tint, others have the network's colours; "keep":
            a colour photo keeps its own as well.

    Returns:
        (size, size, 3) uint8 BGR.
    """
    if is_gray(crop.image):
        return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if (tone := toning(crop)) is not None:
        return toned(pixels, tone)
    return keep_colour(pixels, crop) if policy == "keep" else pixels


def keep_colour(pixels: np.ndarray, crop: AlignedFace) -> np.ndarray:
    """Moves local means of Lab inside the face to those of the input: colour finely, brightness coarsely.

    The mean and not the deviation: what is between the means (pores, lashes) is the restoration, noise of the input is
    averaged away.
    """
    size = len(pixels)
    mask = face_mask(crop.landmarks, size)
    wanted, got = (
        cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_BGR2Lab) for image in (_fit(crop.image, size), pixels)
    )
    difference = (wanted - got) * mask[..., None]
    for channels, sigma in ((slice(0, 1), LIGHT_SIGMA), (slice(1, 3), CHROMA_SIGMA)):
        sigma = sigma * size / 512
        weight = _soften(mask, sigma)[..., None]
        moved = _soften(difference[..., channels], sigma).reshape(size, size, -1) / np.maximum(weight, 1e-3)
        got[..., channels] += moved * mask[..., None]
    moved = cv2.cvtColor(got, cv2.COLOR_Lab2BGR)
    return np.clip(np.rint(moved * 255), 0, 255).astype(np.uint8)


def lab_shift(pixels: np.ndarray, crop: AlignedFace) -> float:
    """How far the mean Lab colour of the face has moved from the input's, in units of Delta E (1976)."""
    mask = face_mask(crop.landmarks, len(pixels))[..., None]
    means = [
        (cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_BGR2Lab) * mask).sum((0, 1)) / mask.sum()
        for image in (_fit(crop.image, len(pixels)), pixels)
    ]
    return float(np.linalg.norm(means[0] - means[1]))


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


def _soften(plane: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def _fit(image: np.ndarray, size: int) -> np.ndarray:
    return image if len(image) == size else cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
