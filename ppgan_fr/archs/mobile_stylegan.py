"""MobileStyleGAN: a small StyleGAN of depthwise-separable convolutions and wavelets, the face prior of `gfpgan_mobile`.

Paper: Belousov, "MobileStyleGAN: A Lightweight Convolutional Neural Network for High-Fidelity Image Synthesis", 2021.
Read from the graph of the package random-face 2021.7.21.1 (Apache-2.0; distilled from StyleGAN2-FFHQ); parameter names
as there.
Differences: what the graph had folded stays folded (demodulated pointwise weights, noise times its strength, the scale
of each modulation). Noise is a stored constant, so a latent gives one picture. Activations are scaled instead of
weights, and the inverse Haar transform is reshape and add, so a dynamic batch exports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppgan_fr.config import Frozen

CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64}


class Config(Frozen):
    """The released network makes 1024 px pictures; `out_size` 512 is its low-pass band, smaller sizes are for tests."""

    arch: Literal["mobile_stylegan"] = "mobile_stylegan"
    out_size: int = 1024
    num_style_feat: int = 512
    num_mlp: int = 8
    narrow: float = 1.0


def channels_at(narrow: float) -> dict[int, int]:
    """Channels of each level, a multiple of four because the wavelet upsampling turns four channels into one."""
    return {size: max(4, int(count * narrow) // 4 * 4) for size, count in CHANNELS.items()}


def haar(image: paddle.Tensor) -> paddle.Tensor:
    """Orthonormal Haar transform: (N, C, 2H, 2W) -> (N, 4C, H, W).

    The first C channels are the low-pass band (twice the mean of 2x2 pixels); then come the three detail bands of each
    channel side by side: rows, columns, both.
    """
    n, c, h, w = image.shape
    rows = image.reshape([-1, c, h // 2, 2, w])
    low, high = rows[:, :, :, 0] + rows[:, :, :, 1], rows[:, :, :, 0] - rows[:, :, :, 1]
    low, high = low.reshape([-1, c, h // 2, w // 2, 2]), high.reshape([-1, c, h // 2, w // 2, 2])
    ll, hl = low[..., 0] + low[..., 1], low[..., 0] - low[..., 1]
    lh, hh = high[..., 0] + high[..., 1], high[..., 0] - high[..., 1]
    detail = paddle.stack([lh, hl, hh], axis=2).reshape([-1, 3 * c, h // 2, w // 2])
    return paddle.concat([ll, detail], axis=1) * 0.5


def inverse_haar(bands: paddle.Tensor) -> paddle.Tensor:
    """Inverse of `haar`: (N, 4C, H, W) -> (N, C, 2H, 2W)."""
    n, c4, h, w = bands.shape
    c = c4 // 4
    ll, detail = bands[:, :c] * 0.5, (bands[:, c:] * 0.5).reshape([-1, c, 3, h, w])
    lh, hl, hh = detail[:, :, 0], detail[:, :, 1], detail[:, :, 2]
    p, q, r, s = ll + lh, ll - lh, hl + hh, hl - hh
    top = paddle.stack([p + r, p - r], axis=-1).reshape([-1, c, h, 2 * w])
    bottom = paddle.stack([q + s, q - s], axis=-1).reshape([-1, c, h, 2 * w])
    return paddle.stack([top, bottom], axis=3).reshape([-1, c, 2 * h, 2 * w])


class Modulation(nn.Layer):
    """Scales each channel by an affine function of the style."""

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(style, channels)

    def modulate(self, x: paddle.Tensor, style: paddle.Tensor) -> paddle.Tensor:
        return x * self.modulation(style).unsqueeze([2, 3])


class ModulatedConv(Modulation):
    def __init__(self, in_channels: int, out_channels: int, kernel: int, style: int) -> None:
        super().__init__(in_channels, style)
        self.padding = kernel // 2
        self.weight = self.create_parameter([out_channels, in_channels, kernel, kernel])

    def forward(self, x: paddle.Tensor, style: paddle.Tensor) -> paddle.Tensor:
        return F.conv2d(self.modulate(x, style), self.weight, padding=self.padding)


class ModulatedSeparableConv(Modulation):
    def __init__(self, in_channels: int, out_channels: int, style: int) -> None:
        super().__init__(in_channels, style)
        self.in_channels = in_channels
        self.weight_dw = self.create_parameter([in_channels, 1, 3, 3])
        self.weight = self.create_parameter([out_channels, in_channels, 1, 1])

    def forward(self, x: paddle.Tensor, style: paddle.Tensor) -> paddle.Tensor:
        x = F.conv2d(self.modulate(x, style), self.weight_dw, padding=1, groups=self.in_channels)
        return F.conv2d(x, self.weight)


class StyledConv(nn.Layer):
    """Modulated convolution, constant noise, bias, leaky ReLU."""

    def __init__(self, conv: nn.Layer, out_channels: int, size: int) -> None:
        super().__init__()
        self.conv = conv
        self.noise = self.create_parameter([1, 1, size, size], default_initializer=nn.initializer.Normal(0, 0.01))
        self.bias = self.create_parameter([1, out_channels, 1, 1], is_bias=True)

    def forward(self, x: paddle.Tensor, style: paddle.Tensor) -> paddle.Tensor:
        return F.leaky_relu(self.conv(x, style) + self.noise + self.bias, 0.2)


class WaveletUp(Modulation):
    """(N, C, H, W) -> (N, C / 4, 2H, 2W): the modulated channels are the Haar bands of a map twice as large."""

    def forward(self, x: paddle.Tensor, style: paddle.Tensor) -> paddle.Tensor:
        return inverse_haar(self.modulate(x, style))


class ToImage(nn.Layer):
    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, 12, 1, style)
        self.bias = self.create_parameter([1, 12, 1, 1], is_bias=True)

    def forward(self, x: paddle.Tensor, style: paddle.Tensor) -> paddle.Tensor:
        return self.conv(x, style) + self.bias


class Level(nn.Layer):
    def __init__(self, in_channels: int, out_channels: int, size: int, style: int, last: bool) -> None:
        super().__init__()
        self.up = WaveletUp(in_channels, style)
        self.conv1 = StyledConv(ModulatedSeparableConv(in_channels // 4, out_channels, style), out_channels, size)
        self.conv2 = StyledConv(ModulatedSeparableConv(out_channels, out_channels, style), out_channels, size)
        if last:
            self.to_img = ToImage(out_channels, style)


class ConstantInput(nn.Layer):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = self.create_parameter([1, channels, 4, 4], default_initializer=nn.initializer.Normal())


class Synthesis(nn.Layer):
    """Styles -> features at `size`, and with `to_image` the 12 Haar coefficients of a picture of twice that size."""

    def __init__(self, size: int, style: int = 512, narrow: float = 1.0, to_image: bool = True) -> None:
        super().__init__()
        channels = channels_at(narrow)
        self.sizes = [level for level in CHANNELS if 4 < level <= size]
        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(ModulatedConv(channels[4], channels[4], 3, style), channels[4], 4)
        self.layers = nn.LayerList(
            Level(channels[level // 2], channels[level], level, style, last=to_image and level == size)
            for level in self.sizes
        )

    @property
    def num_styles(self) -> int:
        """Modulated layers: the first convolution, three of each level, and the one that makes the picture."""
        return 2 + 3 * len(self.sizes)

    def features(
        self, styles: paddle.Tensor, modify: Callable[[int, paddle.Tensor], paddle.Tensor] | None = None
    ) -> paddle.Tensor:
        """Runs all levels.

        Args:
            styles: (N, at least 1 + 3 levels, style) float32, a style for each modulated layer.
            modify: called as `modify(index, features)` after each level; what it returns goes on.

        Returns:
            (N, C, size, size) features of the last level.
        """
        # The constant is repeated by a product, not by expand, so that the batch stays dynamic in an exported graph.
        ones = paddle.ones_like(styles[:, 0, :1]).unsqueeze([2, 3])
        x = self.conv1(self.input.input * ones, styles[:, 0])
        for index, level in enumerate(self.layers):
            x = level.up(x, styles[:, 3 * index + 1])
            x = level.conv1(x, styles[:, 3 * index + 2])
            x = level.conv2(x, styles[:, 3 * index + 3])
            if modify is not None:
                x = modify(index, x)
        return x

    def forward(self, styles: paddle.Tensor) -> paddle.Tensor:
        return self.layers[-1].to_img(self.features(styles), styles[:, self.num_styles - 1])


class Mapping(nn.Layer):
    """Normal latent z (N, style) -> style w (N, style)."""

    def __init__(self, style: int, num_mlp: int) -> None:
        super().__init__()
        self.layers = nn.LayerList(nn.Linear(style, style) for _ in range(num_mlp))

    def forward(self, z: paddle.Tensor) -> paddle.Tensor:
        z = z * paddle.rsqrt((z * z).mean(axis=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            z = F.leaky_relu(layer(z), 0.2)
        return z


class MobileStyleGAN(nn.Layer):
    """FFHQ-aligned faces from latents."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.out_size = config.out_size
        self.mapping = Mapping(config.num_style_feat, config.num_mlp)
        size = min(512, config.out_size // 2 if config.out_size == 1024 else config.out_size)
        self.synthesis = Synthesis(size, config.num_style_feat, config.narrow)

    def forward(self, style: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Makes faces.

        Args:
            style: (N, num_style_feat) or (N, num_styles, num_style_feat) float32, from `mapping`.

        Returns:
            The picture (N, 3, out_size, out_size) RGB, about [-1, 1], and its twelve Haar coefficients at half the
            size of the picture (at its own size when `out_size` is not 1024).
        """
        if style.ndim == 2:
            style = style.unsqueeze(1).tile([1, self.synthesis.num_styles, 1])
        coefficients = self.synthesis(style)
        if self.out_size == 1024:
            return inverse_haar(coefficients), coefficients
        return coefficients[:, :3] * 0.5, coefficients


def build(config: Config) -> nn.Layer:
    """Builds the generator with its mapping network."""
    return MobileStyleGAN(config)
