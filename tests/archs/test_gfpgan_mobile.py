"""gfpgan_mobile: identity at the start, the meaning of fidelity, a frozen prior."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppgan_fr.archs import gfpgan_mobile
from ppgan_fr.weights import WeightsError


@pytest.fixture(scope="module")
def network():
    paddle.seed(0)
    network = gfpgan_mobile.build(gfpgan_mobile.Config(out_size=64, narrow=0.1, num_style_feat=32))
    network.eval()
    return network


@pytest.fixture(scope="module")
def lq():
    return paddle.rand([2, 3, 64, 64]) * 2 - 1


def test_an_untrained_network_restores_nothing_yet_and_loses_nothing(network, lq):
    _, out_rgbs = network(lq)
    np.testing.assert_allclose(out_rgbs[-1].numpy(), lq.numpy(), atol=1e-5)


def test_the_pyramid_goes_from_8_pixels_to_the_full_size(network, lq):
    _, out_rgbs = network(lq)
    assert [rgb.shape[-1] for rgb in out_rgbs] == [8, 16, 64]


def test_without_fidelity_only_the_style_reaches_the_picture(network, lq):
    style, styles, *_ = network.encode(lq)
    alone = network.to_bands(network.decoder.features(styles), styles[:, -1])
    image, _ = network(lq, 0.0)
    np.testing.assert_allclose(image.numpy(), gfpgan_mobile.inverse_haar(alone).numpy(), atol=1e-5)


def test_fidelity_may_be_a_tensor_per_picture(network, lq):
    both, _ = network(lq, paddle.to_tensor([0.0, 1.0]).reshape([2, 1, 1, 1]))
    np.testing.assert_allclose(both[0].numpy(), network(lq, 0.0)[0][0].numpy(), atol=1e-5)
    np.testing.assert_allclose(both[1].numpy(), network(lq, 1.0)[0][1].numpy(), atol=1e-5)


def test_the_knob_rises_from_nothing_to_all_and_is_quick_in_the_middle():
    weights_of_knob = [gfpgan_mobile.weight_of(step / 100) for step in range(101)]
    assert weights_of_knob[0] == 0 and weights_of_knob[100] == 1
    assert all(a < b for a, b in zip(weights_of_knob, weights_of_knob[1:], strict=False))
    np.testing.assert_allclose([weights_of_knob[25], weights_of_knob[50]], [0.103516, 0.5], atol=1e-6)


def test_the_prior_does_not_learn(network, lq):
    image, _ = network(lq)
    image.mean().backward()
    assert all(parameter.grad is None for parameter in network.decoder.parameters())
    assert network.stem.weight.grad is not None
    network.clear_gradients()


def test_a_prior_from_another_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(WeightsError, match="not MobileStyleGAN weights"):
        gfpgan_mobile.build(gfpgan_mobile.Config(decoder_weights=str(tmp_path / "other.npz")))


def test_the_shipped_size_stays_within_the_budget_of_parameters():
    network = gfpgan_mobile.build(gfpgan_mobile.Config())
    assert sum(parameter.size for parameter in network.parameters()) <= 20_000_000
