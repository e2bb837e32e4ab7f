"""A 3 x 3 convolution of a picture that was just doubled, without doubling it first.

Interpolation acts on every channel alike and a convolution on every pixel alike, so their order may change. Doubling is
the insertion of zeros followed by a filter; a convolution of the picture with zeros is a transposed one of stride 2,
which multiplies by each weight once for every *small* pixel: 9 products instead of 36.

- Bilinear: ``[1, 3, 3, 1] / 4`` along each axis, afterwards, on each channel by itself. That is how StyleGAN2 itself
  doubles (Karras et al. 2020, section 3); networks with bilinear doubling differ from it at the border only.
- Nearest: ``[1, 1]``, which the kernel takes up: 4 x 4 weights, 16 products.

Both are exact up to rounding. Paddle's transposed convolution has no second derivative, hence `upsample2x` and a plain
convolution while gradients are recorded.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import paddle
from paddle.nn import functional as F

SMALLEST = 16
"""Pixels a side from which the bilinear form is faster: below, its border is most of the picture."""
_HALF_FILTER = np.float32([1, 3, 3, 1]) / 4
_NEAREST = np.float32([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])


def conv_of_bilinear2x(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """``conv2d(interpolate(x, 2x, "bilinear", align_corners=False), weight, padding=1)``.

    Args:
        x: (N, C, H, W); H and W at least 4 and known.
        weight: (O, C, 3, 3).

    Returns:
        (N, O, 2H, 2W).
    """
    outputs, height, width = weight.shape[0], 2 * x.shape[2], 2 * x.shape[3]
    kernel = turned(weight).transpose([1, 0, 2, 3])
    spread = F.conv2d_transpose(x, kernel, stride=2, padding=1)
    smooth = paddle.to_tensor(np.outer(_HALF_FILTER, _HALF_FILTER), dtype=x.dtype)
    inner = F.conv2d(spread, smooth.reshape([1, 1, 4, 4]).tile([outputs, 1, 1, 1]), groups=outputs)
    # Interpolation repeats the edge, and the convolution sees zeros beyond it: the outer two rows and columns differ.
    # At stride 1 a transposed convolution with the turned kernel is the convolution; so one copy of it serves all.
    top = F.conv2d_transpose(_doubled(x[:, :, :2])[:, :, :3], kernel, padding=[1, 2, 1, 1])
    bottom = F.conv2d_transpose(_doubled(x[:, :, -2:])[:, :, 1:], kernel, padding=[2, 1, 1, 1])
    left = F.conv2d_transpose(_doubled(x[:, :, :, :2])[:, :, :, :3], kernel, padding=[1, 1, 1, 2])
    right = F.conv2d_transpose(_doubled(x[:, :, :, -2:])[:, :, :, 1:], kernel, padding=[1, 1, 2, 1])
    middle = paddle.concat([left[:, :, 2 : height - 2], inner, right[:, :, 2 : height - 2]], axis=3)
    return paddle.concat([top, middle, bottom], axis=2).reshape([-1, outputs, height, width])


def conv_of_nearest2x(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor | None = None,
    border: Literal["zeros", "reflect"] = "zeros",
) -> paddle.Tensor:
    """``conv2d(pad(interpolate(x, 2x, "nearest"), 1, border), weight, bias)``.

    Args:
        x: (N, C, H, W).
        weight: (O, C, 3, 3).
        bias: (O,) or None.
        border: what the convolution sees beyond the edge of the doubled picture.

    Returns:
        (N, O, 2H, 2W).
    """
    gather = paddle.to_tensor(_NEAREST, dtype=weight.dtype)
    kernel = paddle.matmul(gather, paddle.matmul(weight, gather, transpose_y=True)).transpose([1, 0, 2, 3])
    if border == "zeros":
        return F.conv2d_transpose(x, kernel, bias, stride=2, padding=1)
    # a doubled picture reflected is the picture with its edge repeated, doubled
    return F.conv2d_transpose(F.pad(x, [1, 1, 1, 1], mode="replicate"), kernel, bias, stride=2, padding=3)


def turned(kernel: paddle.Tensor) -> paddle.Tensor:
    """The last two axes reversed, by gathering, which every engine and converter reads."""
    for axis in (kernel.ndim - 2, kernel.ndim - 1):
        order = paddle.to_tensor(np.arange(kernel.shape[axis])[::-1].copy())
        kernel = paddle.gather(kernel, order, axis=axis)
    return kernel


def _doubled(x: paddle.Tensor) -> paddle.Tensor:
    return F.interpolate(x, size=[2 * x.shape[2], 2 * x.shape[3]], mode="bilinear", align_corners=False)
