"""The identity gate: is a restored face still the person who went in?

A face recogniser (SFace) compares input and result. How alike an honest result can be depends on how much of the person
the input still shows, so the threshold follows the estimator's `recognisable`; the table `identity.json` comes from
measured pairs, honest ones and ones whose result is somebody else (`tools/calibrate.py identity`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ppgan_fr.face.align import Template, align
from ppgan_fr.face.types import AlignedFace, Run, Verdict

TABLE = Path(__file__).with_name("identity.json")
SFACE_112 = Template(
    "sface_112",
    ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)),
    112,
    solver="umeyama",
    border=(0, 0, 0),
)
"""Where SFace wants eyes, nose tip and mouth corners."""
STEPS = (0.25, 0.5, 0.75)
"""Shares of the input that the gate tries to mix back in, in order."""

Embed = Callable[[Sequence[np.ndarray], np.ndarray], np.ndarray]
"""Crops of one face, (size, size, 3) uint8 BGR, and its landmarks in them -> (n, 128) vectors of length 1."""


def embedder(run: Run) -> Embed:
    """SFace on crops of the restorer's template."""

    def embed(crops: Sequence[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
        small = [align(crop, landmarks, SFACE_112).image[..., ::-1].transpose(2, 0, 1) for crop in crops]
        vectors = run({"image": np.stack(small).astype(np.float32)})[0]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return embed


def threshold(recognisable: float) -> float:
    """The smallest similarity of input and result that passes, for an input that shows so much of the person."""
    levels, thresholds = _table()
    return float(np.interp(recognisable, levels, thresholds))


def check(
    crop: AlignedFace, pixels: np.ndarray, recognisable: float, embed: Embed, mode: str = "warn"
) -> tuple[np.ndarray, Verdict]:
    """Looks at one restored face and, in the mode "gate", mixes the input back in until it passes.

    Args:
        crop: the input.
        pixels: (size, size, 3) uint8 BGR, restored.
        recognisable: of the input, see `types.Quality`.
        embed: see `embedder`.
        mode: "warn" or "gate".

    Returns:
        What to use (the input itself when nothing passes) and the verdict.
    """
    needed = threshold(recognisable)
    before, after = embed([crop.image, pixels], crop.landmarks)
    similarity = float(before @ after)
    if similarity >= needed or mode != "gate":
        return pixels, Verdict(similarity, needed, similarity >= needed)
    for kept in STEPS:
        mixed = mix(pixels, crop.image, kept)
        alike = float(before @ embed([mixed], crop.landmarks)[0])
        if alike >= needed:
            return mixed, Verdict(similarity, needed, False, kept, alike)
    return crop.image, Verdict(similarity, needed, False, 1.0, 1.0)


def mix(restored: np.ndarray, original: np.ndarray, kept: float) -> np.ndarray:
    """`kept` of the original and the rest of the restored crop, uint8."""
    return np.rint(original * np.float32(kept) + restored * np.float32(1 - kept)).astype(np.uint8)


@lru_cache(maxsize=1)
def _table() -> tuple[list[float], list[float]]:
    table = json.loads(TABLE.read_text(encoding="utf-8"))["table"]
    return [row["recognisable"] for row in table], [row["threshold"] for row in table]
