"""R1 and path length: their gradients equal finite differences in float64, for every discriminator and generator."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppgan_fr import losses
from ppgan_fr.archs import (
    _stylegan2,
    component_discriminator,
    gfpgan,
    patch_discriminator,
    stylegan2_discriminator,
    stylegan2_generator,
)

TINY = {"out_size": 16, "num_style_feat": 6, "narrow": 1 / 64, "num_mlp": 2}


def in_float64(network):
    """Double precision and moved parameters, so that nothing is zero by initialisation."""
    network.to(dtype="float64")
    network.eval()
    for parameter in network.parameters():
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape, dtype="float64"))
    return network


def check_against_finite_differences(network, penalty, count: int = 6, step: float = 1e-6):
    """Compares the derivative of `penalty()` along random directions of the largest parameter gradients."""
    value = penalty()
    value.backward()
    trained = [p for p in network.parameters() if p.grad is not None]
    trained = sorted(trained, key=lambda p: -p.grad.abs().max().item())[:count]
    assert trained and np.isfinite(value.item())
    for parameter in trained:
        direction = paddle.randn(parameter.shape, dtype="float64")
        start, slope = parameter.clone().detach(), (parameter.grad * direction).sum().item()
        ends = []
        for sign in (1, -1):
            parameter.set_value(start + sign * step * direction)
            ends.append(penalty().item())
        parameter.set_value(start)
        assert slope != 0
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=2e-4, atol=1e-7 * abs(value.item()))


def predictions(output):
    """The sum of every prediction of a discriminator, whatever it returns."""
    if isinstance(output, paddle.Tensor):
        return output.sum()
    last = output[-1] if isinstance(output[-1], paddle.Tensor) else None
    return last.sum() if last is not None else sum(predictions(item) for item in output if item is not None)


DISCRIMINATORS = {
    "stylegan2": (stylegan2_discriminator, {"out_size": 16, "narrow": 1 / 64}, (3, 16, 16)),
    "component": (component_discriminator, {}, (3, 16, 16)),
    "patch": (patch_discriminator, {"ndf": 2, "n_layers_D": 2}, (6, 16, 16)),
}


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_r1_of_every_discriminator(name):
    paddle.seed(0)
    module, kwargs, shape = DISCRIMINATORS[name]
    network = in_float64(module.build(module.Config(**kwargs)))
    x = paddle.randn([2, *shape], dtype="float64")
    x.stop_gradient = False
    check_against_finite_differences(network, lambda: losses.r1_penalty(predictions(network(x)), x))


@pytest.mark.parametrize("variant", ["clean", "original", "bilinear"])
def test_path_length_of_every_generator(variant):
    paddle.seed(0)
    config = stylegan2_generator.Config(variant=variant, **TINY)
    network = in_float64(stylegan2_generator.build(config))
    z, noise = paddle.randn([2, 6], dtype="float64"), paddle.randn([2, 3, 16, 16], dtype="float64")

    def penalty():
        image, latents = network(z, return_latents=True)
        return losses.path_length(image, latents, 0.3, noise=noise)[0]

    check_against_finite_differences(network, penalty)


@pytest.mark.parametrize("variant", ["clean", "original", "bilinear"])
def test_the_squared_input_gradient_of_every_gfpgan(variant):
    paddle.seed(0)
    network = in_float64(gfpgan.build(gfpgan.Config(variant=variant, **TINY)))
    x = paddle.randn([1, 3, 16, 16], dtype="float64")
    x.stop_gradient = False
    check_against_finite_differences(network, lambda: losses.r1_penalty(network(x)[0], x))


@pytest.mark.parametrize("limit", [0, 64], ids=["slices", "matrices"])
def test_doubling_has_a_second_derivative_in_both_of_its_ways(limit, monkeypatch):
    monkeypatch.setattr(_stylegan2, "MATRIX_LIMIT", limit)
    x = paddle.randn([1, 2, 3, 5], dtype="float64")
    with paddle.no_grad():
        plain = _stylegan2.upsample2x(x)
    x.stop_gradient = False
    doubled = _stylegan2.upsample2x(x)
    np.testing.assert_allclose(doubled.numpy(), plain.numpy(), rtol=0, atol=1e-14)
    (slope,) = paddle.grad((doubled**3).sum(), x, create_graph=True)
    (curvature,) = paddle.grad(slope.sum(), x)
    ones, step = paddle.ones_like(x), 1e-6
    ends = []
    for sign in (1, -1):
        moved = (x + sign * step * ones).detach()
        moved.stop_gradient = False
        ends.append(paddle.grad((_stylegan2.upsample2x(moved) ** 3).sum(), moved)[0].numpy())
    np.testing.assert_allclose(curvature.numpy(), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)
