"""Metrics against HiFaceGAN's metric package."""

from __future__ import annotations

import numpy as np
import pytest

from ppgan_fr import metrics
from tests.parity.reference import once_per, root
from tests.parity.tolerances import check

pytestmark = pytest.mark.parity

FILES = [path for path in (root() / "metrics" / "metrics.npz",) if path.exists()]
METRICS = {
    "psnr": metrics.psnr,
    "ssim": metrics.ssim,
    "ms_ssim": lambda a, b: metrics.ms_ssim(a, b, as_published=True),
    "ms_ssim_usual_definition": metrics.ms_ssim,
}


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def parametrize(*keys: str):
    """Runs a test for each of the keys that a file holds."""
    found = [(path, key) for path in FILES for key in keys if key in arrays(path)]
    return once_per(("path", "key"), [pytest.param(path, key, id=f"metrics-{key}") for path, key in found])


def pictures(batch: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(picture.transpose(1, 2, 0)) for picture in batch]


@parametrize(*METRICS)
def test_full_reference_metrics(path, key):
    stored = arrays(path)
    got = [METRICS[key](a, b) for a, b in zip(pictures(stored["fake"]), pictures(stored["real"]), strict=True)]
    check(got, stored[key], "metric", key)


@parametrize("niqe")
def test_niqe_as_published(path, key):
    stored = arrays(path)
    got = [metrics.niqe(picture, as_published=True) for picture in pictures(stored["fake"])]
    check(got, stored[key], "niqe", key)


@parametrize("fid")
def test_frechet_distance(path, key):
    stored = arrays(path)
    check(metrics.frechet_distance(stored["fid_act_a"], stored["fid_act_b"]), stored[key], "metric", key)
