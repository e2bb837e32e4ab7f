"""A convolution before doubling equals the one after it."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from ppgan_fr.archs import _doubled_conv, _stylegan2

SIZES = [(4, 4), (5, 9), (16, 24)]


def picture_and_weight(height, width, taps=3):
    paddle.seed(0)
    x = paddle.randn([2, 6, height, width], dtype="float64")
    return x, paddle.randn([5, 6, taps, taps], dtype="float64")


def doubled(x, mode):
    options = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(x, size=[2 * x.shape[2], 2 * x.shape[3]], mode=mode, **options)


def assert_equal(got, expected):
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=0, atol=1e-12)  # float64: nothing but rounding


@pytest.mark.parametrize("size", SIZES)
def test_after_bilinear_doubling_up_to_the_last_pixel_of_the_border(size):
    x, weight = picture_and_weight(*size)
    expected = F.conv2d(doubled(x, "bilinear"), weight, padding=1)
    assert_equal(_doubled_conv.conv_of_bilinear2x(x, weight), expected)


@pytest.mark.parametrize("border", ["zeros", "reflect"])
@pytest.mark.parametrize("size", SIZES)
def test_after_nearest_doubling_with_either_border(size, border):
    x, weight = picture_and_weight(*size)
    bias = paddle.randn([5], dtype="float64")
    mode = {"zeros": "constant", "reflect": "reflect"}[border]
    expected = F.conv2d(F.pad(doubled(x, "nearest"), [1, 1, 1, 1], mode=mode), weight, bias)
    assert_equal(_doubled_conv.conv_of_nearest2x(x, weight, bias, border), expected)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_with_and_without_gradients_the_answer_is_the_same(size, taps, mode):
    x, weight = picture_and_weight(*size, taps)
    expected = F.conv2d(doubled(x, mode), weight, padding=taps // 2)
    with paddle.no_grad():
        assert_equal(_stylegan2.conv_of_doubled(x, weight, mode), expected)
    x.stop_gradient = False
    assert_equal(_stylegan2.conv_of_doubled(x, weight, mode), expected)


def test_the_turned_kernel_is_reversed_along_both_of_its_last_axes():
    kernel = paddle.arange(24, dtype="float32").reshape([2, 3, 4])
    np.testing.assert_array_equal(_doubled_conv.turned(kernel).numpy(), kernel.numpy()[:, ::-1, ::-1])
