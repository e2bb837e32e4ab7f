"""Metrics against HiFaceGAN's metric package."""

from __future__ import annotations

import numpy as np
import pytest

from ppgan_fr import metrics
from tests.parity.reference import root
from tests.parity.tolerances import check

pytestmark = pytest.mark.parity

AREAS = [n for n in ("metrics",) if (root() / n / f"{n}.npz").exists()]


@pytest.fixture(params=AREAS)
def arrays(request):
    with np.load(root() / request.param / f"{request.param}.npz", allow_pickle=False) as archive:
        return dict(archive)


def pictures(batch: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(picture.transpose(1, 2, 0)) for picture in batch]


@pytest.mark.parametrize(
    ("key", "metric"),
    [
        ("psnr", metrics.psnr),
        ("ssim", metrics.ssim),
        ("ms_ssim", lambda a, b: metrics.ms_ssim(a, b, as_published=True)),
        ("ms_ssim_usual_definition", metrics.ms_ssim),
    ],
)
def test_full_reference_metrics(arrays, key, metric):
    got = [metric(a, b) for a, b in zip(pictures(arrays["fake"]), pictures(arrays["real"]), strict=True)]
    check(got, arrays[key], "metric", key)


def test_niqe_as_published(arrays):
    got = [metrics.niqe(picture, as_published=True) for picture in pictures(arrays["fake"])]
    check(got, arrays["niqe"], "niqe", "niqe")


def test_frechet_distance(arrays):
    check(metrics.frechet_distance(arrays["fid_act_a"], arrays["fid_act_b"]), arrays["fid"], "metric", "fid")
