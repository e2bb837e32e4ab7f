"""SFace: the shipped weights against the original graph, which ONNX Runtime ran once (see `golden_crop`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppgan_fr import weights
from ppgan_fr.archs import sface

ROOT = Path(__file__).resolve().parents[2]


def golden_crop() -> np.ndarray:
    """The pictures behind the numbers in tests/golden/face/sface.npz: (2, 3, 112, 112) float32 of 0 to 255."""
    y, x = np.mgrid[0:112, 0:112] / 112
    waves = [np.sin(5 * x + 3 * y), np.cos(7 * x - 2 * y), np.sin(9 * x * y)]
    first = 127.5 + 100 * np.stack(waves)
    return np.stack([first, first[::-1, :, ::-1]]).astype(np.float32).copy()


@pytest.fixture(scope="module")
def network() -> sface.SFace:
    with np.load(ROOT / "weights" / "sface.npz", allow_pickle=False) as archive:
        state = sface.expand(dict(archive))
    built = sface.build(sface.Config())
    weights.from_torch(built, state)
    built.eval()
    return built


def test_it_equals_the_original_graph(network):
    with np.load(ROOT / "tests" / "golden" / "face" / "sface.npz", allow_pickle=False) as archive:
        expected = archive["embedding"]
    with paddle.no_grad():
        got = network(paddle.to_tensor(golden_crop())).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_picture_is_most_similar_to_itself(network):
    crops = paddle.to_tensor(golden_crop())
    with paddle.no_grad():
        same = network.similarity(crops, crops).numpy()
        other = network.similarity(crops, crops[::-1]).numpy()
    np.testing.assert_allclose(same, 1, atol=1e-5)
    assert (other < 0.999).all()


def test_gradients_reach_the_picture(network):
    crops = paddle.to_tensor(golden_crop())
    crops.stop_gradient = False
    network(crops).sum().backward()
    assert np.isfinite(crops.grad.numpy()).all()
    assert np.abs(crops.grad.numpy()).max() > 0


def test_blocks_expand_to_scaled_differences():
    state = {
        "a.weight:q": np.array([[1, 2, 3, 4], [-1, -2, 5, 6]], np.int8),
        "a.weight:scale": np.array([[1.0, 0.5], [2.0, 1.0]], np.float32),
        "a.weight:zero": np.array([[1, 0], [0, 5]], np.int8),
        "a.bias": np.array([7.0], np.float32),
    }
    out = sface.expand(state)
    np.testing.assert_array_equal(out["a.weight"], [[0, 1, 1.5, 2], [-2, -4, 0, 1]])
    np.testing.assert_array_equal(out["a.bias"], [7])
    assert set(out) == {"a.weight", "a.bias"}
