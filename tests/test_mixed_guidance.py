from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from ppgan_fr import weights
from ppgan_fr.archs import hifacegan
from ppgan_fr.config import ConfigError, make_config
from ppgan_fr.mixed_guidance import Guide, guided_run

SECTION = {"arch": "hifacegan", "variant": "lipspade", "ngf": 2, "crop_size": 32, "test_mode": "batch_stats"}


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """Weights, and a guide of another size."""
    paddle.seed(0)
    network = hifacegan.build(hifacegan.Config(**SECTION))
    for parameter in network.parameters():
        fan_in = max(int(np.prod(parameter.shape[1:])), 1)
        parameter.set_value(paddle.randn(parameter.shape) * (1.3 / fan_in**0.5 if parameter.ndim > 1 else 0.2))
    weights.save(network, tmp_path / "g.pdparams")
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "guide.png"), rng.integers(0, 256, (64, 64, 3), np.uint8))
    return tmp_path / "g.pdparams", tmp_path / "guide.png"


def answer(files, guide: Guide, seed: int) -> np.ndarray:
    run, spec = guided_run(make_config({"name": "x", "generator": SECTION}), files[0], guide)
    assert (spec.mean, spec.std, spec.size) == (0.0, 255.0, 32)
    return run({"lq": np.random.default_rng(seed).uniform(0, 1, (2, 3, 32, 32)).astype(np.float32)})[0]


def test_with_no_level_left_the_guide_decides_alone_and_with_all_it_has_no_part(files):
    only_guide = [answer(files, Guide(files[1], 0), seed) for seed in (1, 2)]
    np.testing.assert_array_equal(*only_guide)
    without = [answer(files, Guide(files[1], 8), seed) for seed in (1, 2)]
    assert (without[0] != without[1]).any()
    assert (answer(files, Guide(files[1], 4), 1) != without[0]).any()


def test_other_networks_levels_and_modes_are_refused_in_one_line(files):
    for guide in (Guide(files[1], -1), Guide(files[1], 1, "backwards")):
        with pytest.raises(ConfigError, match="guide-level"):
            answer(files, guide, 0)
    with pytest.raises(ValueError, match=r"missing\.png"):
        answer(files, Guide(files[1].with_name("missing.png")), 0)
