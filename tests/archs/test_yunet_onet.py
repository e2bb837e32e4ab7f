"""The two detection networks compute what their ONNX originals compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppgan_fr.archs import onet, yunet
from ppgan_fr.weights import from_torch

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "face" / "detection_networks.npz"


def network(module, name):
    layer = module.build(module.Config())
    with np.load(WEIGHTS / f"{name}.npz", allow_pickle=False) as state:
        from_torch(layer, {key: state[key] for key in state.files})
    layer.eval()
    return layer


@pytest.mark.parametrize(("module", "name"), [(yunet, "yunet"), (onet, "onet")])
def test_the_shipped_weights_give_the_numbers_of_the_onnx_graph(module, name):
    with np.load(GOLDEN, allow_pickle=False) as golden:
        with paddle.no_grad():
            answers = network(module, name)(paddle.to_tensor(golden[f"{name}_input"].astype(np.float32)))
        for i, answer in enumerate(answers):
            expected = golden[f"{name}_output_{i}"]
            # 32-bit sums in another order: 1e-5 seen, 1e-4 asked for
            np.testing.assert_allclose(answer.numpy(), expected, atol=1e-4, rtol=1e-4)


def test_yunet_takes_any_size_that_is_a_multiple_of_32():
    with paddle.no_grad():
        answers = network(yunet, "yunet")(paddle.zeros([1, 3, 64, 96]))
    assert [tuple(answer.shape) for answer in answers[:3]] == [(1, 96, 1), (1, 24, 1), (1, 6, 1)]
    assert len(answers) == len(yunet.OUTPUTS)
