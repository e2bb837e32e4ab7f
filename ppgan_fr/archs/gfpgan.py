"""GFP-GAN: a U-Net that removes the degradation, and a StyleGAN2 decoder steered by its features.

Paper: Wang et al., "Towards Real-World Blind Face Restoration with Generative Facial Prior", CVPR 2021.
Read from: GFPGAN ``gfpgan/archs/gfpganv1_arch.py``, ``gfpgan_bilinear_arch.py``, ``gfpganv1_clean_arch.py`` and
``scripts/convert_gfpganv_to_clean.py`` (Apache-2.0). Parameter names are theirs.

Variants: ``original`` is the network of the paper (release 1.0), ``bilinear`` replaces the FIR filters, ``clean``
    additionally
folds the equalised learning rates into the weights (releases 1.2 to 1.4); `convert_bilinear_to_clean` does that
folding.

Differences: see `_stylegan2`; with ``return_latents=True`` the style codes are returned (the original drops them);
    ``weight``
really blends the spatial features (the original accepts and ignores it); noise is stored, not fresh, outside training.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from paddle import nn
from paddle.nn import functional as F
from pydantic import field_validator

from ppgan_fr import weights
from ppgan_fr.archs import stylegan2_generator
from ppgan_fr.archs._stylegan2 import (
    SLOPE,
    SQRT2,
    ConvLayer,
    EqualConv2d,
    EqualLinear,
    Family,
    FusedLeakyReLU,
    ScaledLeakyReLU,
    channels_by_size,
    conv_of_doubled,
    downsample2x,
    log2_size,
    plain_conv2d,
    plain_linear,
)
from ppgan_fr.archs._stylegan2 import ResBlock as EqualResBlock
from ppgan_fr.config import Frozen


class Config(Frozen):
    """Argument names of the reference constructors; the defaults are the released 1.3 and 1.4 networks."""

    arch: Literal["gfpgan"] = "gfpgan"
    variant: Family = "clean"
    out_size: int = 512
    num_style_feat: int = 512
    channel_multiplier: float = 2
    resample_kernel: tuple[float, ...] = (1, 3, 3, 1)
    decoder_load_path: str | None = None
    fix_decoder: bool = False
    num_mlp: int = 8
    lr_mlp: float = 0.01
    input_is_latent: bool = True
    different_w: bool = True
    narrow: float = 1
    sft_half: bool = True

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of every input of `forward` that inference needs, without the batch."""
        return {"lq": (3, self.out_size, self.out_size)}

    @field_validator("out_size")
    @classmethod
    def _size_is_a_power_of_two(cls, size: int) -> int:
        log2_size(size)
        return size


def build(config: Config) -> GFPGAN:
    """A network with random parameters, and the decoder's from ``decoder_load_path`` where there is one.

    Raises:
        WeightsError: when that file cannot be read or does not fit the decoder.
    """
    network = GFPGAN(config)
    if config.decoder_load_path:
        weights.load_into(network.stylegan_decoder, config.decoder_load_path)
    return network


class CleanResBlock(nn.Layer):
    """Residual block of the clean U-Net: bilinear resizing between two plain convolutions."""

    def __init__(self, in_channels: int, out_channels: int, mode: Literal["down", "up"]):
        super().__init__()
        self.conv1 = plain_conv2d(in_channels, in_channels, 3)
        self.conv2 = plain_conv2d(in_channels, out_channels, 3)
        self.skip = plain_conv2d(in_channels, out_channels, 1, bias=False)
        self.mode = mode

    def forward(self, x):
        out = F.leaky_relu(self.conv1(x), SLOPE)
        if self.mode == "down":
            return F.leaky_relu(self.conv2(downsample2x(out)), SLOPE) + self.skip(downsample2x(x))
        out = conv_of_doubled(out, self.conv2.weight) + self.conv2.bias.reshape([1, -1, 1, 1])
        return F.leaky_relu(out, SLOPE) + conv_of_doubled(x, self.skip.weight)


class ConvUpLayer(nn.Layer):
    """Bilinear doubling, equalised convolution, and either bias and activation or neither."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, activate: bool = True):
        super().__init__()
        conv = EqualConv2d(in_channels, out_channels, kernel_size, bias=False)
        self.scale = conv.scale
        self.weight = conv.weight  # the original holds the weight here, without an inner layer
        if activate:
            self.activation = FusedLeakyReLU(out_channels)
        self.activate = activate

    def forward(self, x):
        out = conv_of_doubled(x, self.weight * self.scale)
        return self.activation(out) if self.activate else out


class EqualResUpBlock(nn.Layer):
    """Residual block of the way up in the original and bilinear U-Nets."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = ConvLayer(in_channels, in_channels, 3)
        self.conv2 = ConvUpLayer(in_channels, out_channels, 3)
        self.skip = ConvUpLayer(in_channels, out_channels, 1, activate=False)

    def forward(self, x):
        return (self.conv2(self.conv1(x)) + self.skip(x)) / SQRT2


class GFPGAN(nn.Layer):
    """Low-quality aligned face -> restored face; the size is `Config.out_size` on both sides."""

    def __init__(self, config: Config):
        super().__init__()
        self.clean = config.variant == "clean"
        self.input_is_latent = config.input_is_latent
        self.different_w = config.different_w
        self.num_style_feat = config.num_style_feat
        self.log_size = log2_size(config.out_size)
        # the U-Net has half the channels of the decoder
        channels = channels_by_size(config.channel_multiplier, config.narrow * 0.5)
        levels = [2**i for i in range(3, self.log_size + 1)]

        width = channels[config.out_size]
        self.conv_body_first = self._conv(3, width, 1)
        self.conv_body_down = nn.LayerList()
        for size in reversed(levels):
            out = channels[size // 2]
            self.conv_body_down.append(self._down(width, out, config))
            width = out
        self.final_conv = self._conv(width, channels[4], 3)

        self.conv_body_up = nn.LayerList()
        self.toRGB = nn.LayerList()
        width = channels[4]
        for size in levels:
            self.conv_body_up.append(self._up(width, channels[size]))
            self.toRGB.append(self._head(channels[size]))
            width = channels[size]

        codes = (self.log_size * 2 - 2) if config.different_w else 1
        linear = plain_linear if self.clean else EqualLinear
        self.final_linear = linear(channels[4] * 4 * 4, codes * config.num_style_feat)

        shared = set(stylegan2_generator.Config.model_fields) & set(Config.model_fields) - {"arch"}
        decoder = stylegan2_generator.Config(**{name: getattr(config, name) for name in shared})
        self.stylegan_decoder = stylegan2_generator.StyleGAN2Generator(decoder, sft_half=config.sft_half)
        if config.fix_decoder:
            for parameter in self.stylegan_decoder.parameters():
                parameter.stop_gradient = True

        self.condition_scale = nn.LayerList()
        self.condition_shift = nn.LayerList()
        for size in levels:
            out = channels[size] if config.sft_half else channels[size] * 2
            self.condition_scale.append(self._condition(channels[size], out, bias_init=1.0))
            self.condition_shift.append(self._condition(channels[size], out, bias_init=0.0))

    # the parts in the two ways of writing a convolution

    def _conv(self, in_channels, out_channels, kernel_size):
        if self.clean:
            return plain_conv2d(in_channels, out_channels, kernel_size)
        return ConvLayer(in_channels, out_channels, kernel_size)

    def _down(self, in_channels, out_channels, config):
        if self.clean:
            return CleanResBlock(in_channels, out_channels, "down")
        return EqualResBlock(in_channels, out_channels, config.variant, config.resample_kernel)

    def _up(self, in_channels, out_channels):
        return (
            CleanResBlock(in_channels, out_channels, "up") if self.clean else EqualResUpBlock(in_channels, out_channels)
        )

    def _head(self, in_channels):
        return plain_conv2d(in_channels, 3, 1) if self.clean else EqualConv2d(in_channels, 3, 1)

    def _condition(self, in_channels, out_channels, bias_init):
        if self.clean:
            return nn.Sequential(
                plain_conv2d(in_channels, in_channels, 3),
                nn.LeakyReLU(SLOPE),
                plain_conv2d(in_channels, out_channels, 3),
            )
        return nn.Sequential(
            EqualConv2d(in_channels, in_channels, 3, padding=1),
            ScaledLeakyReLU(),
            EqualConv2d(in_channels, out_channels, 3, padding=1, bias_init=bias_init),
        )

    def forward(self, lq, return_latents=False, return_rgb=True, randomize_noise=None, weight=1.0):
        """Restores faces.

        Args:
            lq: (N, 3, S, S) RGB in [-1, 1], S = ``out_size``.
            return_latents: also return the style code of every decoder layer.
            return_rgb: also return the pictures of the U-Net's levels.
            randomize_noise: fresh noise in the decoder instead of the stored one; None: in training only.
            weight: in [0, 1], how much the decoder follows the input's spatial features; 1 is the published network,
                at 0 only the style code remains.

        Returns:
            (image (N, 3, S, S), out_rgbs), and the latents (N, L, D) if asked for. ``out_rgbs`` are the U-Net's
            pictures from 8 x 8 to S x S, or an empty list.
        """
        feat, skips = self._encode(lq)
        style = self.final_linear(feat.reshape([feat.shape[0], -1]))
        if self.different_w:
            style = style.reshape([style.shape[0], -1, self.num_style_feat])

        conditions, out_rgbs = [], []
        for level, skip in enumerate(skips):
            feat = self.conv_body_up[level](feat + skip)
            scale, shift = self.condition_scale[level](feat), self.condition_shift[level](feat)
            if not (isinstance(weight, (int, float)) and weight == 1):
                scale, shift = 1.0 + (scale - 1.0) * weight, shift * weight
            conditions += [scale, shift]
            if return_rgb:
                out_rgbs.append(self.toRGB[level](feat))

        image, latents = self.stylegan_decoder(
            [style],
            input_is_latent=self.input_is_latent,
            randomize_noise=randomize_noise,
            return_latents=return_latents,
            conditions=conditions,
        )
        return (image, out_rgbs, latents) if return_latents else (image, out_rgbs)

    def _encode(self, lq):
        """The features at 4 x 4, and those of each level from coarse to fine."""
        feat = self._activate(self.conv_body_first(lq))
        skips = []
        for block in self.conv_body_down:
            feat = block(feat)
            skips.insert(0, feat)
        return self._activate(self.final_conv(feat)), skips

    def _activate(self, x):
        return F.leaky_relu(x, SLOPE) if self.clean else x  # the other variants activate inside their layers


def convert_bilinear_to_clean(state: dict[str, np.ndarray], lr_mlp: float = 0.01) -> dict[str, np.ndarray]:
    """Folds equalised learning rates and activation gains of a bilinear GFP-GAN into the weights of a clean one.

    A factor of sqrt 2 passes through a leaky ReLU (positive homogeneity), so the gain of an activated layer can sit
    in its weight and bias; the division by sqrt 2 of a residual block cancels the gain of its last activated layer
    and goes into its skip.

    The original script scales some biases in place and so spoils the checkpoint it was given; this one leaves it alone.

    Args:
        state: parameters of the bilinear network under their reference names, in PyTorch's layout.
        lr_mlp: learning-rate factor of the mapping network.

    Returns:
        The state of the clean network, PyTorch's layout, float32.

    Raises:
        ValueError: for names that no bilinear GFP-GAN has.
    """
    converted = {}
    for name, value in state.items():
        target, gain, bare = _clean_name_and_gain(name, lr_mlp)
        value = np.asarray(value, dtype=np.float32)
        if bare == "weight":
            gain *= 1.0 / math.sqrt(np.prod(value.shape[2:] if value.ndim == 5 else value.shape[1:]))
        folded = value if gain == 1.0 else (value * np.float32(gain)).astype(np.float32)
        if target.endswith(".bias") and ".activate." in name:
            folded = folded.reshape(1, -1, 1, 1)
        converted[target] = folded
    return converted


def _clean_name_and_gain(name: str, lr_mlp: float) -> tuple[str, float, str]:
    """The clean name of a bilinear parameter, its gain, and "weight" where 1 / sqrt(fan-in) applies in addition."""
    parts = name.split(".")
    kind = parts[-1]
    if parts[0] == "stylegan_decoder":
        if parts[1] == "style_mlp":
            return f"stylegan_decoder.style_mlp.{2 * int(parts[2]) - 1}.{kind}", lr_mlp * SQRT2, kind
        if "modulation" in parts or "modulated_conv" in parts:
            return name, 1.0, kind
        if "activate" in parts:
            return name.replace(".activate.", "."), SQRT2, kind
        if parts[1].startswith("style_conv"):
            return name, SQRT2, "noise strength"
        if parts[1] in ("constant_input", "noises") or parts[1].startswith("to_rgb"):
            return name, 1.0, "as it is"
    elif parts[0] in ("conv_body_first", "final_conv"):
        return f"{parts[0]}.{kind}", SQRT2, kind
    elif parts[0] in ("conv_body_down", "conv_body_up"):
        gain = {"conv1": SQRT2, "conv2": 1.0, "skip": 1.0 / SQRT2}[parts[2]]
        return ".".join([*parts[:3], kind]), gain, kind
    elif parts[0] in ("toRGB", "final_linear"):
        return name, 1.0, kind
    elif parts[0] in ("condition_scale", "condition_shift"):
        return name, SQRT2 if parts[2] == "0" else 1.0, kind
    raise ValueError(f"{name}: not a parameter of a bilinear GFP-GAN")
