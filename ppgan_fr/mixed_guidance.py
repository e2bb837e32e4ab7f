"""Restoring a face with a second one as part of its guide: Fig. 5 of the HiFaceGAN paper, for `tools/predict.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppgan_fr.config import Config, ConfigError
from ppgan_fr.export import load_network, spec_of
from ppgan_fr.face.image_io import read_image
from ppgan_fr.face.restore import to_tensor
from ppgan_fr.face.spec import ModelSpec
from ppgan_fr.face.types import Run

MODES = ("progressive", "one_plug", "one_ablate")


@dataclass(frozen=True)
class Guide:
    """The second picture, and which of the 8 levels see which."""

    path: str | Path
    """An aligned face crop; resized to the network's size."""
    level: int = 4
    mode: str = "progressive"
    """`progressive`: the first `level` levels see the picture to restore, the others the guide. `one_plug`: only level
    number `level` sees the picture. `one_ablate`: only that one sees the guide."""


def guided_run(config: Config, weights: Path, guide: Guide) -> tuple[Run, ModelSpec]:
    """The eager generator as a `Run` that mixes every crop with the guide.

    Raises:
        ConfigError: the generator takes no second picture, or the level or mode does not exist.
        ImageError: the guide cannot be read.
        WeightsError: the weights are missing or do not fit.
    """
    import paddle

    network: Any = load_network(config.generator, weights)
    if not hasattr(network, "mixed_guidance"):
        raise ConfigError(f"--guide: {config.generator.arch} takes no second picture; hifacegan does")
    if guide.mode not in MODES or guide.level < 0:
        raise ConfigError(f"--guide-mode is one of {', '.join(MODES)} and --guide-level at least 0")
    spec = spec_of(config, network, weights)
    crop = cv2.resize(read_image(guide.path), (spec.size, spec.size), interpolation=cv2.INTER_AREA)
    second = to_tensor([crop], spec)

    def run(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        first = arrays[spec.input_names[0]]
        with paddle.no_grad():
            other = paddle.to_tensor(np.repeat(second, len(first), axis=0))
            return [network.mixed_guidance(paddle.to_tensor(first), other, guide.level, guide.mode)[0].numpy()]

    return run, spec
