"""The few things that travel through the face pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
"""An engine that runs one network: named arrays in, list of arrays out. Everything before and after it is numpy."""


@dataclass(frozen=True)
class Face:
    """A detected face, in pixels of the whole picture; the centre of the first pixel is (0, 0)."""

    box: np.ndarray
    """(4,) float32: x, y of the upper left corner, width, height."""
    landmarks: np.ndarray
    """(5, 2) float32 (x, y): left eye as seen in the picture, right eye, nose tip, left and right mouth corner."""
    score: float
    """Confidence in [0, 1]."""


@dataclass(frozen=True)
class AlignedFace:
    """A face cut out so that its landmarks match a template."""

    image: np.ndarray
    """(size, size, 3) uint8 BGR."""
    landmarks: np.ndarray
    """(5, 2) float32, in pixels of the crop."""
    to_template: np.ndarray
    """(2, 3) float64: maps pixels of the whole picture to pixels of the crop."""


@dataclass(frozen=True)
class RestoredFace:
    """What became of one face."""

    face: Face
    aligned: AlignedFace
    image: np.ndarray | None
    """(size, size, 3) uint8 BGR, or None when the network gave no usable answer."""
    error: str | None = None
    """Why `image` is None."""


@dataclass(frozen=True)
class Restored:
    """A whole picture after restoration."""

    image: np.ndarray
    """(scale * H, scale * W, 3), dtype of the input, BGR."""
    faces: tuple[RestoredFace, ...]
    seconds: dict[str, float]
    """Time spent per stage: detect, align, restore, paste."""


Detect = Callable[[np.ndarray], list[Face]]
"""(H, W, 3) uint8 BGR -> faces, the most confident first."""

Restore = Callable[[list[AlignedFace]], list[np.ndarray]]
"""Crops -> as many restored crops, (size, size, 3) float32 BGR in [0, 255]; NaN where the network gave no number."""
