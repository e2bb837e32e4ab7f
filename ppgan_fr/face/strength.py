"""How much a face needs restoring, seen from its picture alone: a small blind estimator, and what follows from it.

A few dozen statistics of the aligned crop (Haar bands, spectrum, noise in the smoothest places, block edges) go through
a network of one hidden layer, some thousands of numbers in `strength.npz`. Its labels cost nothing: sharp faces are
degraded by known amounts (`tools/calibrate.py strength`).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from ppgan_fr.face.types import Quality

WEIGHTS = Path(__file__).with_name("strength.npz")
SIDE = 512
WINDOW = slice(112, 432), slice(96, 416)
"""Rows and columns of the crop that are face in nearly every picture."""
LABELS = ("blur", "noise", "jpeg", "scale", "psnr", "recognisable")
BOUNDS = {
    "blur": (0.0, 16.0),
    "noise": (0.0, 40.0),
    "jpeg": (10.0, 100.0),
    "scale": (1.0, 24.0),
    "psnr": (10.0, 50.0),
    "recognisable": (-0.2, 1.0),
}
"""Nothing beyond was seen in training; estimates stay inside."""
SHARP, DAMAGED = 38.0, 34.0
"""Estimated PSNR in dB from which a face is left alone, and below which it is restored in full."""
_FLOOR = 0.02
"""Levels of 255 below which a statistic says no more."""


def statistics(crop: np.ndarray) -> np.ndarray:
    """What the estimator sees of a face.

    Args:
        crop: (S, S, 3) uint8 BGR, aligned to the FFHQ template.

    Returns:
        (n,) float64.
    """
    if crop.shape[:2] != (SIDE, SIDE):
        crop = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    part = crop[WINDOW].astype(np.float32)
    luma = part @ np.array([0.114, 0.587, 0.299], np.float32)
    found = [*_haar_statistics(luma, 5)]
    for chroma in (part[..., 0] - luma, part[..., 2] - luma):
        found += [_log(np.median(np.abs(band))) for band in _haar(chroma)[1][2:]]
        found.append(_log(chroma.std()))
    found += [*_spectrum(luma), *_gradients(luma), *_smoothest(luma)]
    found += [*_blocks(luma), _log(luma.std()), luma.mean() / 255]
    return np.array(found, np.float64)


def estimate(crop: np.ndarray) -> Quality:
    """Guesses what has happened to a face, (S, S, 3) uint8 BGR, aligned."""
    return Quality(**dict(zip(LABELS, map(float, predict(statistics(crop)[None], _weights())[0]))))


def automatic_strength(quality: Quality) -> tuple[float, float]:
    """What a face of this quality is given.

    Returns:
        The network's fidelity, and how much of the restoration is used: 0 for a face that is sharp already, then more
        until everything from `DAMAGED` on.
    """
    level = float(np.clip((SHARP - quality.psnr) / (SHARP - DAMAGED), 0, 1))
    return 1.0, level * level * (3 - 2 * level)


def predict(seen: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """(N, n) statistics -> (N, 6) estimates in the units of `Quality`."""
    hidden = np.tanh(((seen - weights["mean"]) / weights["deviation"]) @ weights["w1"] + weights["b1"])
    values = from_targets(hidden @ weights["w2"] + weights["b2"])
    low, high = np.array([BOUNDS[name] for name in LABELS]).T
    return np.clip(values, low, high)


def to_targets(labels: np.ndarray) -> np.ndarray:
    """Labels, (N, 6) in the order of `LABELS`, as the network learns them: all of the order of 1, even in effect."""
    blur, noise, jpeg, scale, psnr, recognisable = np.asarray(labels, np.float64).T
    quality = np.log1p((100 - jpeg) / 10)
    return np.stack([np.log1p(blur), np.log1p(noise) / 1.5, quality, np.log(scale), psnr / 8, 3 * recognisable], -1)


def from_targets(targets: np.ndarray) -> np.ndarray:
    """The inverse of `to_targets`."""
    blur, noise, quality, scale, psnr, recognisable = np.asarray(targets, np.float64).T
    jpeg = 100 - 10 * np.expm1(quality)
    return np.stack([np.expm1(blur), np.expm1(1.5 * noise), jpeg, np.exp(scale), 8 * psnr, recognisable / 3], -1)


@lru_cache(maxsize=1)
def _weights() -> dict[str, np.ndarray]:
    with np.load(WEIGHTS, allow_pickle=False) as file:
        return {name: file[name].astype(np.float64) for name in file.files}


def _haar(plane: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One level of the Haar transform: half the mean of four, and the differences across, down and both."""
    a, b, c, d = plane[0::2, 0::2], plane[0::2, 1::2], plane[1::2, 0::2], plane[1::2, 1::2]
    return (a + b + c + d) / 4, ((a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2)


def _haar_statistics(plane: np.ndarray, levels: int) -> list[float]:
    found = []
    for _ in range(levels):
        plane, bands = _haar(plane)
        for band in bands:
            size = np.abs(band)
            found += [_log(np.median(size)), _log(np.sqrt(np.mean(size * size)))]
    return found


def _spectrum(luma: np.ndarray, rings: int = 16) -> list[float]:
    """Mean log power in rings of equal width, from the lowest frequencies to the finest."""
    height, width = luma.shape
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    power = np.abs(np.fft.rfft2((luma - luma.mean()) * window)) ** 2 / luma.size
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    ring = np.minimum((radius * 2 * rings).astype(int), rings)  # the corners beyond are one ring more
    sums = np.bincount(ring.ravel(), power.ravel(), rings + 1) / np.bincount(ring.ravel(), minlength=rings + 1)
    return [float(np.log(value + 1e-3)) for value in sums]


def _gradients(luma: np.ndarray) -> list[float]:
    """How steep the steepest places are at three scales, next to the usual place: blur flattens exactly these."""
    found = []
    for step in (1, 2, 4):
        across, down = np.abs(luma[::2, step:] - luma[::2, :-step]), np.abs(luma[step:, ::2] - luma[:-step, ::2])
        both = np.concatenate([across.ravel(), down.ravel()])
        found += [_log(value) for value in np.percentile(both, (50, 90, 99, 99.9))]
        found.append(_log(across.mean()) - _log(down.mean()))
    return found


def _smoothest(luma: np.ndarray, block: int = 16) -> list[float]:
    """Deviation of fine detail in the smoothest blocks: what is left there is noise."""
    found = []
    for plane in (luma, cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)):
        detail = plane - cv2.GaussianBlur(plane, (0, 0), 1.5)
        height, width = (side // block * block for side in detail.shape)
        tiles = detail[:height, :width].reshape(height // block, block, width // block, block)
        found += [_log(value) for value in np.percentile(tiles.std((1, 3)), (5, 25, 50, 90))]
    return found


def _blocks(luma: np.ndarray) -> list[float]:
    """Regular edges: JPEG leaves a grid of 8 pixels times the enlargement that followed."""
    found = []
    for axis in (0, 1):
        steps = np.abs(np.diff(luma, 2, axis=1 - axis)).mean(axis)
        steps = np.log(steps + _FLOOR)
        steps -= np.convolve(steps, np.ones(17) / 17, "same")
        steps = steps[12:-12]
        power = np.abs(np.fft.rfft(steps * np.hanning(len(steps)), 512)) ** 2
        grid = power[4:70] / (np.median(power[4:]) + 1e-9)  # periods of 7.3 to 128 pixels
        peak = int(grid.argmax())
        eight = power[60:69].max() / (np.median(power[4:]) + 1e-9)
        found += [float(np.log(grid[peak] + 1)), peak / 66, float(np.log(eight + 1)), float(np.log(steps.std() + 1e-3))]
    return found


def _log(value: float) -> float:
    return float(np.log(max(float(value), _FLOOR)))
