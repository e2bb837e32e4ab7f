"""The few things that travel through the face pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

IDENTITY = ("off", "warn", "gate")
"""What happens when a restored face is no longer the person: nothing, a verdict, or the input is mixed back in."""
COLOUR = ("auto", "keep")
"""Where the colours of a restored face come from, see `colour.keep_colour`."""

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
    fidelity: float | None = None
    """What the network is asked for this face, 0 to 1; None: what its restorer was made with."""


@dataclass(frozen=True)
class Quality:
    """How a face has suffered, estimated from its picture alone; in pixels of the aligned crop of 512."""

    blur: float
    """Standard deviation of the Gaussian that would blur as much, in pixels."""
    noise: float
    """Standard deviation of the noise, in levels of 255."""
    jpeg: float
    """JPEG quality, 100 for none."""
    scale: float
    """How many times smaller the face was before it was enlarged to the crop."""
    psnr: float
    """PSNR of the picture against the sharp original that nobody has, in dB."""
    recognisable: float
    """Similarity of the picture to that original in the eyes of a face recogniser, 0 to 1."""


@dataclass(frozen=True)
class Verdict:
    """Whether a restored face is still the person of its input."""

    similarity: float
    """Of the face as the network restored it to its input, -1 to 1."""
    threshold: float
    """Below it the two are taken for different people; lower for inputs in which less can be seen."""
    passed: bool
    kept: float = 0.0
    """How much of the input was mixed back in: 0 nothing, 1 the face was left alone."""
    final_similarity: float | None = None
    """Of what was kept to the input; None: as `similarity`."""


@dataclass(frozen=True)
class RestoredFace:
    """What became of one face."""

    face: Face
    aligned: AlignedFace
    image: np.ndarray | None
    """(size, size, 3) uint8 BGR, or None when the network gave no usable answer."""
    error: str | None = None
    """Why `image` is None."""
    left_alone: str | None = None
    """Why the photo keeps its bytes here and `image` is the input: "small", "sharp" or "identity"."""
    amount: float = 1.0
    """How much of the restoration the automatic strength lets through, 0 to 1."""
    quality: Quality | None = None
    identity: Verdict | None = None

    def remarks(self) -> dict[str, Any]:
        """What there is to say in `results.jsonl` beyond box, landmarks, similarity and fidelity; numbers rounded."""
        said: dict[str, Any] = {}
        if self.left_alone is not None:
            said["left_alone"] = self.left_alone
        if self.amount != 1:
            said["amount"] = round(self.amount, 4)
        for name, value in (("quality", self.quality), ("identity", self.identity)):
            if value is not None:
                said[name] = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(value).items()}
        return said


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
