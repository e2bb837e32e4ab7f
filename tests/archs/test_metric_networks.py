"""LPIPS, Inception and MobileNetV2: the parameter names and counts of the published files, and what comes out."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppgan_fr import metrics, weights
from ppgan_fr.archs import inception, lpips, mobilenet_v2


def learned(network) -> int:
    return sum(
        int(np.prod(parameter.shape))
        for name, parameter in network.named_parameters()
        if not name.endswith(("_mean", "_variance"))
    )


def test_inception_has_the_parameters_of_the_published_file():
    network = inception.build(inception.Config())
    # torchvision's count without the auxiliary head, and 1008 instead of 1000 classes
    assert learned(network) == 23_834_568 + 8 * 2049
    names = set(network.state_dict())
    assert {
        "Mixed_5b.branch5x5_2.conv.weight",
        "Mixed_6e.branch7x7dbl_5.bn.bias",
        "Mixed_7c.branch_pool.conv.weight",
    } <= names


def test_mobilenet_has_torchvisions_parameters():
    network = mobilenet_v2.build(mobilenet_v2.Config())
    assert learned(network) == 3_504_872
    with paddle.no_grad():
        assert network(paddle.zeros([2, 3, 50, 60])).shape == [2, 1280]


def test_lpips_of_a_picture_with_itself_is_zero_and_grows_with_noise():
    paddle.seed(0)
    network = lpips.build(lpips.Config())
    image = paddle.rand([1, 3, 64, 64]) * 2 - 1
    noise = paddle.randn(image.shape)
    heads = [np.abs(head) for head in network.heads()]

    def distance(strength: float) -> float:
        with paddle.no_grad():
            pair = [[f.numpy() for f in network(x)] for x in (image, image + strength * noise)]
        return metrics.lpips(*pair, heads)

    assert distance(0.0) == pytest.approx(0, abs=1e-12)
    assert 0 < distance(0.05) < distance(0.5)


def test_a_state_of_the_lpips_package_loads_with_its_heads_named_twice():
    rng = np.random.default_rng(0)
    network = lpips.build(lpips.Config())
    state = {name: rng.uniform(0.1, 1, value.shape).astype(np.float32) for name, value in network.state_dict().items()}
    for number in range(5):
        state[f"lins.{number}.model.1.weight"] = state[f"lin{number}.model.1.weight"]
    weights.from_torch(network, state)
    np.testing.assert_array_equal(network.heads()[2], state["lin2.model.1.weight"].ravel())
