"""ParseNet: face parsing into 19 classes, for the parsing mask of GFP-GAN's paste.

Paper: Chen et al., "Progressive Semantic-Aware Style Transformation for Blind Face Restoration" (PSFRGAN), CVPR 2021.
Read from: xinntao/facexlib `parsing/parsenet.py` (MIT), same parameter names. Differences: batch norm and leaky ReLU
only (the released network); the reference marks its first layer as scaled "1", which means "not scaled".
"""

from __future__ import annotations

import math
from typing import Literal

import paddle.nn.functional as F
from paddle import nn

from ppgan_fr.archs._doubled_conv import conv_of_nearest2x
from ppgan_fr.config import Frozen

Scale = Literal["none", "down", "up"]


class Config(Frozen):
    arch: Literal["parsenet"] = "parsenet"
    in_size: int = 512
    out_size: int = 512
    min_feat_size: int = 32
    base_ch: int = 64
    parsing_ch: int = 19
    res_depth: int = 10
    ch_range: tuple[int, int] = (32, 256)


class _Norm(nn.Layer):
    """Batch norm one level down, where the reference has it."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2D(channels)

    def forward(self, x):
        return self.norm(x)


class ConvLayer(nn.Layer):
    """Optional nearest doubling, reflected border, 3 x 3 convolution (stride 2 to go down), optional norm and ReLU."""

    def __init__(self, channels: int, out: int, scale: Scale = "none", norm: bool = False, relu: bool = False):
        super().__init__()
        self.scale = scale
        self.relu = relu
        self.conv2d = nn.Conv2D(channels, out, 3, 2 if scale == "down" else 1, bias_attr=False if norm else None)
        self.norm = _Norm(out) if norm else None

    def forward(self, x):
        if self.scale == "up":
            x = conv_of_nearest2x(x, self.conv2d.weight, self.conv2d.bias, border="reflect")
        else:
            x = self.conv2d(F.pad(x, [1, 1, 1, 1], mode="reflect"))
        if self.norm is not None:
            x = self.norm(x)
        return F.leaky_relu(x, 0.2) if self.relu else x


class ResidualBlock(nn.Layer):
    """Two convolutions and a shortcut; up scales before the first, down in the second."""

    def __init__(self, channels: int, out: int, scale: Scale = "none"):
        super().__init__()
        plain = scale == "none" and channels == out
        self.shortcut_func = None if plain else ConvLayer(channels, out, scale)
        self.conv1 = ConvLayer(channels, out, "up" if scale == "up" else "none", norm=True, relu=True)
        self.conv2 = ConvLayer(out, out, "down" if scale == "down" else "none", norm=True)

    def forward(self, x):
        short = x if self.shortcut_func is None else self.shortcut_func(x)
        return short + self.conv2(self.conv1(x))


class ParseNet(nn.Layer):
    """Encoder, residual body, decoder, one head for the classes and one for an image."""

    def __init__(self, config: Config):
        super().__init__()
        low, high = config.ch_range

        def bounded(channels: int) -> int:
            return max(low, min(channels, high))

        smallest = min(config.in_size, config.min_feat_size)
        channels = config.base_ch
        encoder: list[nn.Layer] = [ConvLayer(3, config.base_ch)]
        for _ in range(int(math.log2(config.in_size // smallest))):
            encoder.append(ResidualBlock(bounded(channels), bounded(channels * 2), "down"))
            channels *= 2
        body = [ResidualBlock(bounded(channels), bounded(channels)) for _ in range(config.res_depth)]
        decoder = []
        for _ in range(int(math.log2(config.out_size // smallest))):
            decoder.append(ResidualBlock(bounded(channels), bounded(channels // 2), "up"))
            channels //= 2
        self.encoder = nn.Sequential(*encoder)
        self.body = nn.Sequential(*body)
        self.decoder = nn.Sequential(*decoder)
        self.out_img_conv = ConvLayer(bounded(channels), 3)
        self.out_mask_conv = ConvLayer(bounded(channels), config.parsing_ch)

    def forward(self, image):
        """(N, 3, S, S) RGB in [-1, 1] -> class logits (N, 19, S, S), image (N, 3, S, S)."""
        features = self.encoder(image)
        x = self.decoder(features + self.body(features))
        return self.out_mask_conv(x), self.out_img_conv(x)


def build(config: Config) -> ParseNet:
    """The network of a configuration."""
    return ParseNet(config)
