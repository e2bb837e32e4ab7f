"""Layers of StyleGAN2 shared by the GFP-GAN generators, SGPN and the StyleGAN2 discriminator.

Paper: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
Read from: BasicSR ``basicsr/archs/stylegan2_arch.py`` (Apache-2.0) and GFPGAN
``gfpgan/archs/stylegan2_{clean,bilinear}_arch.py`` (Apache-2.0); parameter names are theirs, the code is ours.

Three families of the same network exist, and a `Family` names the one a layer belongs to:

=========  ==========================  =============================  ====================================
family     weights                     up- and downsampling           bias and activation of a style layer
=========  ==========================  =============================  ====================================
original   equalised learning rate     FIR filter (``upfirdn2d``)     ``activate.bias``, leaky ReLU, sqrt 2
bilinear   equalised learning rate     bilinear                       ``activate.bias``, leaky ReLU, sqrt 2
clean      plain                       bilinear                       ``bias`` (1, C, 1, 1), leaky ReLU
=========  ==========================  =============================  ====================================

Differences from the originals:

- A modulated convolution scales the *activations* by the style, convolves with one weight for the whole batch, and
  scales the output by the demodulation ``rsqrt((s * s) @ sum(W ** 2) + eps)``. It equals the weight modulation with a
  grouped convolution, exports with a dynamic batch, and is the faster form on every CPU engine that was measured.
- No custom CUDA operators: the FIR filter is a depthwise convolution.
- Several fast operators of Paddle have no second derivative (bilinear ``interpolate``, ``conv2d_transpose``, depthwise
  convolution on CPU). While gradients are being recorded, equal forms that do have one are used, so that path-length
  regularisation and R1 work without a switch; inference and export take the fast operators.
- Inference convolves before it doubles (`_doubled_conv`): a quarter of the products, equal up to rounding.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.nn.initializer import Constant, Normal, Uniform

from ppgan_fr.archs._doubled_conv import SMALLEST, conv_of_bilinear2x, conv_of_nearest2x, turned

Family = Literal["clean", "original", "bilinear"]
SampleMode = Literal["upsample", "downsample"]
Interpolation = Literal["bilinear", "nearest"]

SQRT2 = math.sqrt(2.0)
SLOPE = 0.2


def channels_by_size(channel_multiplier: float, narrow: float) -> dict[int, int]:
    """The number of feature channels at each spatial size, 4 to 1024, as in StyleGAN2.

    Args:
        channel_multiplier: factor of the channels from size 64 upwards (2 in the large networks).
        narrow: factor of all channels (1 in the released networks).

    Returns:
        Size -> channels. Each count is truncated to an integer, as in the originals.
    """
    counts = {size: int(512 * narrow) for size in (4, 8, 16, 32)}
    for size, base in ((64, 256), (128, 128), (256, 64), (512, 32), (1024, 16)):
        counts[size] = int(base * channel_multiplier * narrow)
    return counts


def log2_size(out_size: int) -> int:
    """The exponent of a power of two between 8 and 1024.

    Raises:
        ValueError: for any other size, because the levels of the network would not meet.
    """
    exponent = int(out_size).bit_length() - 1
    if 2**exponent != out_size or not 3 <= exponent <= 10:
        raise ValueError(f"out_size must be a power of two from 8 to 1024, got {out_size}")
    return exponent


def _gradients_are_recorded() -> bool:
    return paddle.in_dynamic_mode() and paddle.is_grad_enabled()


# --- resampling ------------------------------------------------------------------------------------------------------


def upsample2x(x: paddle.Tensor, mode: Interpolation = "bilinear") -> paddle.Tensor:
    """Doubles height and width, pixel centres kept (``align_corners=False``).

    Args:
        x: (N, C, H, W).
        mode: ``bilinear`` or ``nearest``.

    Returns:
        (N, C, 2H, 2W); twice differentiable while gradients are recorded.
    """
    if _gradients_are_recorded() and not x.stop_gradient:
        if mode == "bilinear" and max(x.shape[2:]) <= MATRIX_LIMIT:
            rows, columns = (_doubling_matrix(length, x.dtype) for length in x.shape[2:])
            return paddle.matmul(rows, paddle.matmul(x, columns, transpose_y=True))
        return _double_axis(_double_axis(x, 3, mode), 2, mode)
    size = [2 * x.shape[2], 2 * x.shape[3]]
    if mode == "nearest":
        return F.interpolate(x, size=size, mode="nearest")
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def conv_of_doubled(x: paddle.Tensor, weight: paddle.Tensor, mode: Interpolation = "bilinear") -> paddle.Tensor:
    """A convolution that keeps the size, of the doubled picture.

    Args:
        x: (N, C, H, W).
        weight: (O, C, K, K), K odd.
        mode: how the picture is doubled.

    Returns:
        (N, O, 2H, 2W); twice differentiable while gradients are recorded.
    """
    taps = weight.shape[2]
    if taps == 1:
        return upsample2x(F.conv2d(x, weight), mode)
    if taps == 3 and not _gradients_are_recorded():
        if mode == "nearest":
            return conv_of_nearest2x(x, weight)
        if min(x.shape[2:]) >= SMALLEST:
            return conv_of_bilinear2x(x, weight)
    return F.conv2d(upsample2x(x, mode), weight, padding=taps // 2)


MATRIX_LIMIT = 64
"""Pixels a side up to which two matrix products interpolate faster than slices; their cost grows with the side."""


def _doubling_matrix(length: int, dtype) -> paddle.Tensor:
    """(2 L, L): row 2 i leans to the left neighbour of i, row 2 i + 1 to the right one, edges repeat."""
    i = np.arange(length)
    matrix = np.zeros([2 * length, length])
    np.add.at(matrix, (2 * i, i), 0.75)
    np.add.at(matrix, (2 * i, np.maximum(i - 1, 0)), 0.25)
    np.add.at(matrix, (2 * i + 1, i), 0.75)
    np.add.at(matrix, (2 * i + 1, np.minimum(i + 1, length - 1)), 0.25)
    return paddle.to_tensor(matrix, dtype=dtype)


def _double_axis(x: paddle.Tensor, axis: int, mode: Interpolation) -> paddle.Tensor:
    """Interpolates along one axis: even outputs lean to the left neighbour, odd ones to the right, edges repeat."""
    length = x.shape[axis]
    even = odd = x
    if mode == "bilinear":
        first = paddle.slice(x, [axis], [0], [1])
        last = paddle.slice(x, [axis], [length - 1], [length])
        padded = paddle.concat([first, x, last], axis=axis)
        even = 0.75 * x + 0.25 * paddle.slice(padded, [axis], [0], [length])
        odd = 0.75 * x + 0.25 * paddle.slice(padded, [axis], [2], [length + 2])
    shape = list(x.shape)
    shape[axis] = 2 * length
    return paddle.stack([even, odd], axis=axis + 1).reshape(shape)


def downsample2x(x: paddle.Tensor, mode: Interpolation = "bilinear") -> paddle.Tensor:
    """Halves height and width, rounding down; bilinear at scale 1/2 is exactly the mean of 2 x 2 pixels.

    Args:
        x: (N, C, H, W).
        mode: ``bilinear`` or ``nearest`` (the upper left of each 2 x 2 pixels).

    Returns:
        (N, C, H // 2, W // 2).
    """
    if mode == "nearest":
        return F.interpolate(x, size=[x.shape[2] // 2, x.shape[3] // 2], mode="nearest")
    return F.avg_pool2d(x, kernel_size=2, stride=2)


def resample_kernel_2d(taps: list[float] | tuple[float, ...], gain: float = 1.0) -> paddle.Tensor:
    """The outer product of a 1-D filter with itself, normalised to a sum of `gain`; (K, K) float32."""
    kernel = paddle.to_tensor([float(t) for t in taps], dtype="float32")
    kernel = kernel.unsqueeze(0) * kernel.unsqueeze(1)
    return kernel / kernel.sum() * gain


def upfirdn2d(
    x: paddle.Tensor, kernel: paddle.Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)
) -> paddle.Tensor:
    """Inserts zeros, pads, filters and keeps every `down`-th pixel, equally along both axes.

    Args:
        x: (N, C, H, W).
        kernel: (K, L) filter, applied as a true convolution (flipped).
        up: spacing of the input pixels after zero insertion.
        down: step of the output pixels.
        pad: pixels of zeros before and after; negative values crop.

    Returns:
        (N, C, (H * up + sum(pad) - K) // down + 1, ... - L ...); twice differentiable while gradients are recorded.
    """
    channels, height, width = x.shape[1], x.shape[2], x.shape[3]
    if up > 1:
        comb = np.zeros([up, up])
        comb[0, 0] = 1.0
        comb = paddle.to_tensor(comb, dtype=x.dtype)
        x = x.reshape([-1, channels, height, 1, width, 1]) * comb.reshape([1, 1, 1, up, 1, up])
        height, width = height * up, width * up
        x = x.reshape([-1, channels, height, width])
    before, after = pad
    if before < 0 or after < 0:
        crop_before, crop_after = max(-before, 0), max(-after, 0)
        x = paddle.slice(x, [2, 3], [crop_before, crop_before], [height - crop_after, width - crop_after])
        height, width = height - crop_before - crop_after, width - crop_before - crop_after
        before, after = max(before, 0), max(after, 0)
    padding = [before, after, before, after]
    filters = turned(kernel.astype(x.dtype)).reshape([1, 1, *kernel.shape])
    if _gradients_are_recorded():
        folded = F.pad(x.reshape([-1, 1, height, width]), padding)
        out = F.conv2d(folded, filters, stride=down)
        return out.reshape([-1, channels, *out.shape[2:]])
    if before != after:
        x, padding = F.pad(x, padding), 0
    return F.conv2d(x, filters.tile([channels, 1, 1, 1]), stride=down, padding=padding, groups=channels)


class UpFirDnUpsample(nn.Layer):
    """Doubles the size with a FIR filter; (N, C, H, W) -> (N, C, 2H, 2W)."""

    def __init__(self, resample_kernel, factor: int = 2):
        super().__init__()
        self.register_buffer("kernel", resample_kernel_2d(resample_kernel, gain=factor**2), persistable=False)
        self.factor = factor
        pad = self.kernel.shape[0] - factor
        self.pad = ((pad + 1) // 2 + factor - 1, pad // 2)

    def forward(self, x):
        return upfirdn2d(x, self.kernel, up=self.factor, pad=self.pad)


class UpFirDnSmooth(nn.Layer):
    """The FIR filter after a transposed (upsample) or before a strided (downsample) convolution of `kernel_size`."""

    def __init__(self, resample_kernel, sample_mode: SampleMode, kernel_size: int, factor: int = 2):
        super().__init__()
        upsample = sample_mode == "upsample"
        kernel = resample_kernel_2d(resample_kernel, gain=factor**2 if upsample else 1.0)
        self.register_buffer("kernel", kernel, persistable=False)
        taps = self.kernel.shape[0]
        if upsample:
            pad = (taps - factor) - (kernel_size - 1)
            self.pad = ((pad + 1) // 2 + factor - 1, pad // 2 + 1)
        else:
            pad = (taps - factor) + (kernel_size - 1)
            self.pad = ((pad + 1) // 2, pad // 2)

    def forward(self, x):
        return upfirdn2d(x, self.kernel, pad=self.pad)


def transposed_conv2x(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """Transposed convolution of stride 2 without padding.

    Args:
        x: (N, C, H, W).
        weight: (O, C, K, K), K odd or even.

    Returns:
        (N, O, 2H + K - 2, 2W + K - 2); twice differentiable while gradients are recorded.
    """
    if not _gradients_are_recorded():
        return F.conv2d_transpose(x, weight.transpose([1, 0, 2, 3]), stride=2)
    return _interleave_phases(x, weight)


def _interleave_phases(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """The same by four plain convolutions: output pixels of one parity see only the taps of that parity.

    Along one axis ``out[2 i + p] = sum_j x[i - j] * weight[2 j + p]``. The phases are padded to one size, laid
    between each other, and the surplus last row or column is cut off.
    """
    batch, _, height, width = x.shape
    taps = weight.shape[2]
    rows, cols = height + (taps - 1) // 2, width + (taps - 1) // 2
    phases = []
    for p in (0, 1):
        for q in (0, 1):
            kernel = _every_second(_every_second(weight, 2, p), 3, q)
            k, m = kernel.shape[2], kernel.shape[3]
            out = F.conv2d(F.pad(x, [m - 1, m - 1, k - 1, k - 1]), paddle.flip(kernel, [2, 3]))
            phases.append(F.pad(out, [0, cols - out.shape[3], 0, rows - out.shape[2]]))
    grid = paddle.stack(phases, axis=2).reshape([batch, -1, 2, 2, rows, cols])
    grid = grid.transpose([0, 1, 4, 2, 5, 3]).reshape([batch, -1, 2 * rows, 2 * cols])
    return paddle.slice(grid, [2, 3], [0, 0], [2 * height + taps - 2, 2 * width + taps - 2])


def _every_second(weight: paddle.Tensor, axis: int, start: int) -> paddle.Tensor:
    """Taps `start`, `start + 2`, ... along `axis`; slices, because a strided slice has no second derivative."""
    taps = [paddle.slice(weight, [axis], [i], [i + 1]) for i in range(start, weight.shape[axis], 2)]
    return taps[0] if len(taps) == 1 else paddle.concat(taps, axis=axis)


# --- linear, convolution, activation ---------------------------------------------------------------------------------


def scaled_leaky_relu(x: paddle.Tensor) -> paddle.Tensor:
    """Leaky ReLU of slope 0.2 times sqrt 2, which keeps the variance."""
    return F.leaky_relu(x, SLOPE) * SQRT2


class ScaledLeakyReLU(nn.Layer):
    """`scaled_leaky_relu` as a layer."""

    def forward(self, x):
        return scaled_leaky_relu(x)


class FusedLeakyReLU(nn.Layer):
    """Adds a bias per channel, then `scaled_leaky_relu`; (N, C, ...) -> same."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = self.create_parameter([channels], default_initializer=Constant(0.0))

    def forward(self, x):
        return scaled_leaky_relu(x + self.bias.reshape([1, -1] + [1] * (x.ndim - 2)))


class EqualLinear(nn.Layer):
    """Linear layer with equalised learning rate; ``weight`` is (out, in) as in the original.

    Args:
        in_channels: size of the last axis of the input.
        out_channels: size of the last axis of the output.
        bias_init: initial value of every bias.
        lr_mul: factor of the learning rate: the stored weights are 1 / lr_mul times as large as the used ones.
        activate: apply `scaled_leaky_relu` to the result.
    """

    def __init__(self, in_channels, out_channels, bias_init=0.0, lr_mul=1.0, activate=False):
        super().__init__()
        self.scale = lr_mul / math.sqrt(in_channels)
        self.lr_mul = lr_mul
        self.activate = activate
        self.weight = self.create_parameter([out_channels, in_channels], default_initializer=Normal(0.0, 1.0 / lr_mul))
        self.bias = self.create_parameter([out_channels], default_initializer=Constant(bias_init))

    def forward(self, x):
        out = paddle.matmul(x, self.weight * self.scale, transpose_y=True) + self.bias * self.lr_mul
        return scaled_leaky_relu(out) if self.activate else out


class EqualConv2d(nn.Layer):
    """Convolution with equalised learning rate: weights are stored with variance 1 and scaled when used."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, bias=True, bias_init=0.0):
        super().__init__()
        self.stride = stride
        self.padding = padding
        self.scale = 1.0 / math.sqrt(in_channels * kernel_size**2)
        shape = [out_channels, in_channels, kernel_size, kernel_size]
        self.weight = self.create_parameter(shape, default_initializer=Normal(0.0, 1.0))
        self.bias = self.create_parameter([out_channels], default_initializer=Constant(bias_init)) if bias else None

    def forward(self, x):
        return F.conv2d(x, self.weight * self.scale, self.bias, stride=self.stride, padding=self.padding)


class Downsample2x(nn.Layer):
    """`downsample2x` as a layer without parameters."""

    def __init__(self, mode: Interpolation = "bilinear"):
        super().__init__()
        self.mode = mode

    def forward(self, x):
        return downsample2x(x, self.mode)


class ConvLayer(nn.Sequential):
    """Optional downsampling, equalised convolution, optional bias and activation, numbered like the original.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: size of the kernel.
        family: ``original`` (FIR filter, then a strided convolution) or ``bilinear`` (halve, then convolve).
        downsample: halve the size.
        resample_kernel: 1-D FIR filter of the original family.
        bias: learn a bias.
        activate: apply the scaled leaky ReLU.
        interpolation_mode: of the bilinear family.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        family: Family = "original",
        downsample=False,
        resample_kernel=(1, 3, 3, 1),
        bias=True,
        activate=True,
        interpolation_mode: Interpolation = "bilinear",
    ):
        layers = []
        stride, padding = 1, kernel_size // 2
        if downsample and family == "original":
            layers.append(UpFirDnSmooth(resample_kernel, "downsample", kernel_size))
            stride, padding = 2, 0
        elif downsample:
            layers.append(Downsample2x(interpolation_mode))
        layers.append(EqualConv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias and not activate))
        if activate:
            layers.append(FusedLeakyReLU(out_channels) if bias else ScaledLeakyReLU())
        super().__init__(*layers)


class ResBlock(nn.Layer):
    """Residual block of the discriminator and of the U-Net's way down: halves the size."""

    def __init__(self, in_channels, out_channels, family: Family = "original", resample_kernel=(1, 3, 3, 1)):
        super().__init__()
        options = {"family": family, "downsample": True, "resample_kernel": resample_kernel}
        self.conv1 = ConvLayer(in_channels, in_channels, 3)
        self.conv2 = ConvLayer(in_channels, out_channels, 3, **options)
        self.skip = ConvLayer(in_channels, out_channels, 1, bias=False, activate=False, **options)

    def forward(self, x):
        return (self.conv2(self.conv1(x)) + self.skip(x)) / SQRT2


def plain_conv2d(in_channels: int, out_channels: int, kernel_size: int, bias: bool = True) -> nn.Conv2D:
    """A convolution that keeps the size, initialised like PyTorch's: uniform within 1 / sqrt(fan-in), bias too."""
    bound = 1.0 / math.sqrt(in_channels * kernel_size**2)
    attribute = paddle.ParamAttr(initializer=Uniform(-bound, bound))
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        weight_attr=attribute,
        bias_attr=paddle.ParamAttr(initializer=Uniform(-bound, bound)) if bias else False,
    )


def plain_linear(in_channels: int, out_channels: int, std: float | None = None, bias_init: float = 0.0) -> nn.Linear:
    """A linear layer: normal weights of `std` and constant bias, or PyTorch's uniform initialisation without `std`."""
    if std is None:
        bound = 1.0 / math.sqrt(in_channels)
        weight, bias = Uniform(-bound, bound), Uniform(-bound, bound)
    else:
        weight, bias = Normal(0.0, std), Constant(bias_init)
    return nn.Linear(
        in_channels,
        out_channels,
        weight_attr=paddle.ParamAttr(initializer=weight),
        bias_attr=paddle.ParamAttr(initializer=bias),
    )


# --- style layers ----------------------------------------------------------------------------------------------------


class NormStyleCode(nn.Layer):
    """Scales a code to unit mean square over axis 1, as the original does also for (N, L, D) codes."""

    def forward(self, x):
        return x * paddle.rsqrt(paddle.mean(x * x, axis=1, keepdim=True) + 1e-8)


def style_mlp(num_style_feat: int, num_mlp: int, family: Family, lr_mlp: float) -> nn.Sequential:
    """The mapping network z -> w, numbered like the original of each family."""
    layers: list[nn.Layer] = [NormStyleCode()]
    for _ in range(num_mlp):
        if family == "clean":
            # Kaiming normal, fan-in, for a leaky ReLU of slope 0.2
            std = math.sqrt(2.0 / (1.0 + SLOPE**2) / num_style_feat)
            layers += [plain_linear(num_style_feat, num_style_feat, std), nn.LeakyReLU(SLOPE)]
        else:
            layers.append(EqualLinear(num_style_feat, num_style_feat, lr_mul=lr_mlp, activate=True))
    return nn.Sequential(*layers)


class ModulatedConv2d(nn.Layer):
    """Convolution whose input channels are scaled by a style and whose output has unit variance (demodulation).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: size of the kernel.
        num_style_feat: size of the style code.
        family: see the module's table.
        demodulate: divide each output channel by the norm of its modulated weights.
        sample_mode: double or halve the size, or neither.
        resample_kernel: 1-D FIR filter of the original family.
        interpolation_mode: of the clean and bilinear families.
        eps: added below the root of the demodulation.

    ``weight`` is (1, O, C, K, K) as in the original.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        num_style_feat,
        family: Family = "clean",
        demodulate=True,
        sample_mode: SampleMode | None = None,
        resample_kernel=(1, 3, 3, 1),
        interpolation_mode: Interpolation = "bilinear",
        eps=1e-8,
    ):
        super().__init__()
        self.demodulate = demodulate
        self.sample_mode = sample_mode
        self.family = family
        self.interpolation_mode = interpolation_mode
        self.eps = eps
        self.padding = kernel_size // 2
        he = 1.0 / math.sqrt(in_channels * kernel_size**2)
        if family == "clean":
            self.modulation = plain_linear(num_style_feat, in_channels, 1.0 / math.sqrt(num_style_feat), bias_init=1.0)
        else:
            self.modulation = EqualLinear(num_style_feat, in_channels, bias_init=1.0)
        self.scale = 1.0 if family == "clean" else he
        self.weight = self.create_parameter(
            [1, out_channels, in_channels, kernel_size, kernel_size],
            default_initializer=Normal(0.0, he if family == "clean" else 1.0),
        )
        if family == "original" and sample_mode is not None:
            self.smooth = UpFirDnSmooth(resample_kernel, sample_mode, kernel_size)

    def forward(self, x, style):
        """Convolves `x` (N, C, H, W) under `style` (N, D) -> (N, O, H', W')."""
        weight = self.weight.squeeze(0)
        style = self.modulation(style) * self.scale  # (N, C); the equalisation factor rides on the style
        out = self._convolve(x * style.unsqueeze(-1).unsqueeze(-1), weight)
        if self.demodulate:
            energy = (weight * weight).sum(axis=[2, 3])  # (O, C)
            norm = paddle.matmul(style * style, energy, transpose_y=True)
            out = out * paddle.rsqrt(norm + self.eps).unsqueeze(-1).unsqueeze(-1)
        return out

    def _convolve(self, x, weight):
        if self.family == "original":
            if self.sample_mode == "upsample":
                return self.smooth(transposed_conv2x(x, weight))
            if self.sample_mode == "downsample":
                return F.conv2d(self.smooth(x), weight, stride=2)
        elif self.sample_mode == "upsample":
            return conv_of_doubled(x, weight, self.interpolation_mode)
        elif self.sample_mode == "downsample":
            x = downsample2x(x, self.interpolation_mode)
        return F.conv2d(x, weight, padding=self.padding)


class StyleConv(nn.Layer):
    """Modulated convolution, noise, bias, activation. ``weight`` (1,) is the strength of the noise."""

    def __init__(self, in_channels, out_channels, kernel_size, num_style_feat, family: Family = "clean", **options):
        super().__init__()
        self.modulated_conv = ModulatedConv2d(in_channels, out_channels, kernel_size, num_style_feat, family, **options)
        self.weight = self.create_parameter([1], default_initializer=Constant(0.0))
        if family == "clean":
            self.bias = self.create_parameter([1, out_channels, 1, 1], default_initializer=Constant(0.0))
        else:
            self.activate = FusedLeakyReLU(out_channels)
        self.family = family

    def forward(self, x, style, noise=None):
        """(N, C, H, W), (N, D), noise (1 or N, 1, H', W') or None for fresh noise -> (N, O, H', W')."""
        out = self.modulated_conv(x, style)
        if self.family == "clean":
            out = out * SQRT2
        if noise is None:
            shape = paddle.shape(out)
            noise = paddle.randn([shape[0], 1, shape[2], shape[3]], dtype=out.dtype)
        out = out + self.weight * noise
        return F.leaky_relu(out + self.bias, SLOPE) if self.family == "clean" else self.activate(out)


class ToRGB(nn.Layer):
    """Features -> picture, added to the doubled picture of the level below."""

    def __init__(
        self,
        in_channels,
        num_style_feat,
        family: Family = "clean",
        upsample=True,
        resample_kernel=(1, 3, 3, 1),
        interpolation_mode: Interpolation = "bilinear",
    ):
        super().__init__()
        self.family = family
        self.doubles = upsample
        self.interpolation_mode = interpolation_mode
        if upsample and family == "original":
            self.upsample = UpFirDnUpsample(resample_kernel)
        self.modulated_conv = ModulatedConv2d(in_channels, 3, 1, num_style_feat, family, demodulate=False)
        self.bias = self.create_parameter([1, 3, 1, 1], default_initializer=Constant(0.0))

    def forward(self, x, style, skip=None):
        """(N, C, H, W), (N, D), skip (N, 3, H/2, W/2) or None -> (N, 3, H, W)."""
        out = self.modulated_conv(x, style) + self.bias
        if skip is None:
            return out
        if self.doubles:
            skip = self.upsample(skip) if self.family == "original" else upsample2x(skip, self.interpolation_mode)
        return out + skip


class ConstantInput(nn.Layer):
    """The learned 4 x 4 start of the synthesis, repeated for each sample."""

    def __init__(self, channels: int, size: int = 4):
        super().__init__()
        self.weight = self.create_parameter([1, channels, size, size], default_initializer=Normal(0.0, 1.0))

    def forward(self, like):
        """`like`: (N, ...) tensor that gives the batch size -> (N, C, 4, 4)."""
        # a broadcast product: exports with a dynamic batch, and has second derivatives
        ones = paddle.ones_like(paddle.slice(like.reshape([like.shape[0], -1]), [1], [0], [1]).detach())
        return self.weight * ones.reshape([-1, 1, 1, 1])


class NoiseBuffers(nn.Layer):
    """The stored noise of each style layer: ``noise0`` (1, 1, 4, 4), then two for every doubling."""

    def __init__(self, log_size: int):
        super().__init__()
        self.count = (log_size - 2) * 2 + 1
        for index, shape in enumerate(noise_shapes(log_size)):
            self.register_buffer(f"noise{index}", paddle.randn(shape))

    def as_list(self):
        """The stored tensors in the order of the layers."""
        return [getattr(self, f"noise{index}") for index in range(self.count)]


def noise_shapes(log_size: int) -> list[list[int]]:
    """Shapes of the noise of a generator of size ``2 ** log_size``, in the order of its layers."""
    return [[1, 1, 2 ** ((index + 5) // 2), 2 ** ((index + 5) // 2)] for index in range((log_size - 2) * 2 + 1)]
