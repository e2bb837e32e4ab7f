"""Finds and reads the reference fixtures: the folder `PPGAN_FIXTURES` names, or the selection in tests/golden/.

`manifest.json` of each area says how a fixture was made; sizes, seeds and constructor arguments come from there only.
A fixture whose arrays are absent is not collected. Weights are rebuilt from their fill recipe (numpy only), so a
selection needs no checkpoint.
"""

from __future__ import annotations

import json
import os
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def root() -> Path:
    """The folder of all areas."""
    return Path(os.environ.get("PPGAN_FIXTURES") or GOLDEN)


@cache
def manifest(area: str) -> dict:
    """The manifest of an area (``gfpgan``, ...), or an empty dictionary."""
    path = root() / area / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def names(area: str, accept) -> list[str]:
    """Fixtures of an area for which `accept(name, entry)` holds and whose arrays are present."""
    entries = {name: entry for name, entry in manifest(area).items() if isinstance(entry, dict) and accept(name, entry)}
    return [name for name, entry in entries.items() if (root() / area / entry.get("npz", f"{name}.npz")).exists()]


def parametrize(area: str, accept, argument: str = "fixture"):
    """Runs a test once per fixture that is present; the test id is the fixture's name."""
    return once_per(argument, [pytest.param((area, name), id=name) for name in names(area, accept)])


def once_per(arguments, parameters: list):
    """``pytest.mark.parametrize``, except that a test without parameters is not collected instead of skipped."""
    return pytest.mark.parametrize(arguments, parameters) if parameters else lambda _test: None


class Fixture:
    """One entry of a manifest with its arrays.

    Attributes:
        meta: the manifest's entry.
        seed: of the fill recipe.
    """

    def __init__(self, area: str, name: str):
        self.area, self.name = area, name
        self.meta = manifest(area)[name]
        self.folder = root() / area
        self.arrays = np.load(self.folder / self.meta.get("npz", f"{name}.npz"), allow_pickle=False)
        self.seed = self.meta.get("seed")

    def __contains__(self, key: str) -> bool:
        return key in self.arrays.files

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def keys(self, prefix: str = "") -> list[str]:
        """Names of the arrays that begin with `prefix`."""
        return [key for key in self.arrays.files if key.startswith(prefix)]

    def checkpoint(self) -> Path | None:
        """The fixture's PyTorch file, where it has one and it is present."""
        path = self.folder / self.meta.get("pth", f"{self.name}.pth")
        return path if path.exists() else None

    def state(self) -> dict[str, np.ndarray]:
        """The parameters under their reference names, from the recipe."""
        return fill(self.meta["fill_spec"], self.seed)

    def kwargs(self, drop: tuple[str, ...] = ()) -> dict:
        """The reference constructor's arguments."""
        return {key: value for key, value in self.meta["kwargs"].items() if key not in drop}

    def normal(self, key: str, shape) -> np.ndarray:
        """The seeded normal numbers of a key, float32."""
        return normal(self.seed, key, shape).astype(np.float32)


def _random_state(seed: int, key: str) -> np.random.RandomState:
    return np.random.RandomState((zlib.crc32(key.encode()) ^ ((seed * 2654435761) & 0xFFFFFFFF)) & 0xFFFFFFFF)


def normal(seed: int, key: str, shape) -> np.ndarray:
    """Normal numbers that depend on the seed and the key only, float64."""
    return _random_state(seed, key).standard_normal(tuple(shape))


def fill(spec: dict, seed: int) -> dict[str, np.ndarray]:
    """The parameters of a recipe: name -> [kind, shape, offset, scale], kinds normal, |normal| and constant."""
    state = {}
    for key, (kind, shape, offset, scale) in spec.items():
        if kind == "c":
            state[key] = np.full(tuple(shape), int(offset), np.int64)
            continue
        values = normal(seed, key, shape)
        state[key] = (offset + scale * (np.abs(values) if kind == "abs" else values)).astype(np.float32)
    return state


def uniform_image(seed: int, key: str, shape, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """The fixtures' synthetic test picture, NCHW float32: waves and grain, drawn channel by channel."""
    batch, channels, height, width = shape
    rng = _random_state(seed, key)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    picture = np.zeros(shape)
    for i in range(batch):
        for j in range(channels):
            a, p = rng.uniform(1, 6, 4), rng.uniform(0, 6.28, 4)
            waves = np.sin(a[0] * 3 * x + p[0]) * np.cos(a[1] * 3 * y + p[1]) + 0.5 * np.sin(a[2] * 9 * (x + y) + p[2])
            picture[i, j] = waves + 0.15 * rng.standard_normal((height, width))
    picture = np.clip(picture / 1.6, -1, 1)
    return ((picture + 1) / 2 * (high - low) + low).astype(np.float32)


def sample_feature(feature: np.ndarray, shape) -> np.ndarray:
    """The part of a feature map that a fixture keeps: the first samples and the first channels."""
    return feature[: shape[0], : shape[1]] if feature.ndim >= 2 else feature[: shape[0]]
