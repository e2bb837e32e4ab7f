"""Losses: simple values, gradients against finite differences, and errors."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from ppgan_fr import losses


def tensor(*values: float) -> paddle.Tensor:
    return paddle.to_tensor(np.array(values, np.float32))


def test_adversarial_losses_of_a_perfect_discriminator_are_small():
    sure_real, sure_fake = tensor(30.0, 40.0), tensor(-30.0, -40.0)
    for kind in ("vanilla", "wgan_softplus", "hinge"):
        assert losses.gan_loss(sure_real, kind, "real").item() < 1e-6
        assert losses.gan_loss(sure_fake, kind, "fake").item() < 1e-6
        assert losses.gan_loss(sure_fake, kind, "generator").item() > 10
    assert losses.lsgan_real(tensor(1.0)).item() == 0
    assert losses.lsgan_fake(tensor(0.0)).item() == 0


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match="unknown GAN loss 'wgangp'; there are vanilla"):
        losses.gan_loss(tensor(0.0), "wgangp", "real")


def test_binary_cross_entropy_equals_softplus():
    prediction = tensor(-3.0, 0.1, 2.0)
    assert losses.bce_real(prediction).item() == pytest.approx(losses.softplus_real(prediction).item(), rel=1e-6)
    assert losses.bce_fake(prediction).item() == pytest.approx(losses.softplus_fake(prediction).item(), rel=1e-6)


def test_a_weight_of_one_changes_nothing_and_a_mask_selects():
    a, b = paddle.rand([2, 3, 4, 4]), paddle.rand([2, 3, 4, 4])
    ones = paddle.ones([2, 1, 4, 4])
    assert losses.l1(a, b, ones).item() == pytest.approx(losses.l1(a, b).item(), rel=1e-5)
    mask = paddle.zeros([2, 1, 4, 4])
    mask[:, :, :2] = 1
    assert losses.mse(a, b, mask).item() == pytest.approx(losses.mse(a[:, :, :2], b[:, :, :2]).item(), rel=1e-5)


def test_charbonnier_is_smooth_where_l1_is_not():
    same = paddle.ones([1, 1, 2, 2])
    assert losses.charbonnier(same, same, eps=1e-6).item() == pytest.approx(1e-3, rel=1e-4)
    assert losses.l1(same, same).item() == 0


def test_total_variation_of_a_ramp_is_its_slope():
    ramp = paddle.arange(5, dtype="float32").reshape([1, 1, 1, 5]).expand([1, 1, 4, 5])
    assert losses.total_variation(ramp).item() == pytest.approx(1)


def test_a_pyramid_goes_from_coarse_to_fine():
    levels = losses.pyramid(paddle.rand([1, 3, 32, 32]), 3)
    assert [level.shape[2] for level in levels] == [8, 16, 32]
    assert losses.pyramid_loss(levels, levels[-1])[0].item() == 0


def test_gram_matrices_are_symmetric_means_of_products():
    features = paddle.ones([2, 3, 4, 5]) * tensor(1.0, 2.0, 3.0).reshape([1, 3, 1, 1])
    gram = losses.gram(features).numpy()
    np.testing.assert_allclose(gram[0], np.outer([1, 2, 3], [1, 2, 3]) / 3, rtol=1e-6)


class _Quadratic(nn.Layer):
    """D(x) = sum of squares of a convolution: a gradient that is easy to differentiate twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(2, 3, 3, padding=1)

    def forward(self, x):
        return (self.conv(x) ** 2).sum(axis=[1, 2, 3])


def test_the_r1_penalty_and_its_gradient_equal_finite_differences():
    paddle.seed(0)
    network = _Quadratic()
    network.to(dtype="float64")
    image = paddle.rand([2, 2, 5, 5], dtype="float64")

    def penalty() -> paddle.Tensor:
        x = image.clone().detach()
        x.stop_gradient = False
        return losses.r1_penalty(network(x), x)

    value = penalty()
    step = 1e-5
    numeric = 0.0
    for index in np.ndindex(*image.shape):
        for sign in (1, -1):
            moved = image.numpy().copy()
            moved[index] += sign * step
            if sign == 1:
                high = network(paddle.to_tensor(moved)).sum().item()
        numeric += ((high - network(paddle.to_tensor(moved)).sum().item()) / (2 * step)) ** 2
    assert value.item() == pytest.approx(numeric / 2, rel=1e-6)

    value.backward()
    analytic = network.conv.weight.grad.numpy()[0, 0, 1, 1]
    kept = network.conv.weight.numpy()
    results = []
    for sign in (1, -1):
        moved = kept.copy()
        moved[0, 0, 1, 1] += sign * step
        network.conv.weight.set_value(moved)
        results.append(penalty().item())
    assert analytic == pytest.approx((results[0] - results[1]) / (2 * step), rel=1e-6)


def test_the_path_length_of_a_linear_map_is_its_norm():
    latents = paddle.ones([2, 1, 3])
    latents.stop_gradient = False
    image = (latents * tensor(1.0, 2.0, 2.0)).sum(axis=2).reshape([2, 1, 1, 1])
    penalty, length, mean = losses.path_length(image, latents, 0.0, decay=0.5, noise=paddle.ones([2, 1, 1, 1]))
    assert length.item() == pytest.approx(3)
    assert mean.item() == pytest.approx(1.5)
    assert penalty.item() == pytest.approx(2.25)


class _Layers(nn.Layer):
    def forward(self, x):
        return {"a": x * 2, "b": x[:, :, ::2, ::2]}


def test_the_perceptual_loss_weights_its_layers():
    image, target = paddle.rand([1, 3, 8, 8]), paddle.rand([1, 3, 8, 8])
    loss = losses.Perceptual(_Layers(), {"a": 0.5, "b": 2.0})
    content, style = loss(image, target)
    expected = 0.5 * losses.l1(image * 2, target * 2) + 2 * losses.l1(image[:, :, ::2, ::2], target[:, :, ::2, ::2])
    assert content.item() == pytest.approx(expected.item(), rel=1e-5)
    assert style.item() > 0
    assert loss(image, target, style=False)[1] is None
    with pytest.raises(ValueError, match="unknown perceptual criterion"):
        losses.Perceptual(_Layers(), {"a": 1.0}, criterion="cosine")


def test_the_target_gets_no_gradient():
    image, target = paddle.rand([1, 3, 8, 8]), paddle.rand([1, 3, 8, 8])
    image.stop_gradient = target.stop_gradient = False
    losses.Perceptual(_Layers(), {"a": 1.0})(image, target)[0].backward()
    assert image.grad is not None
    assert target.grad is None


def test_feature_matching_leaves_out_the_prediction():
    same, far = paddle.zeros([1, 2, 3, 3]), paddle.ones([1, 2, 3, 3])
    assert losses.feature_matching([[far, same]], [[same, far]]).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one feature"):
        losses.feature_matching([[same]], [[same]])


def test_a_crop_on_whole_pixels_averages_them():
    image = paddle.arange(64, dtype="float32").reshape([1, 1, 8, 8])
    crop = losses.roi_align(image, paddle.to_tensor([[2.0, 2.0, 6.0, 6.0]]), 2)
    # torchvision's unaligned convention: samples at 2.5, 3.5 of pixels 0..7
    np.testing.assert_allclose(crop.numpy()[0, 0], [[27.0, 29.0], [43.0, 45.0]], rtol=1e-6)


def test_the_identity_loss_of_equal_pictures_is_zero():
    class Mean(nn.Layer):
        def forward(self, gray):
            assert gray.shape[1:] == [1, 128, 128]
            return gray.mean(axis=[2, 3])

    image = paddle.rand([2, 3, 64, 64])
    loss = losses.Identity(Mean())
    assert loss(image, image).item() == 0
    assert loss(image, image + 0.1).item() == pytest.approx(0.1 * 0.9999, rel=1e-3)
