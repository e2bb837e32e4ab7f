"""The StyleGAN2 generator in the three families of `_stylegan2`, alone and as the decoder of GFP-GAN.

Paper: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
Read from: BasicSR ``basicsr/archs/stylegan2_arch.py`` and GFPGAN ``gfpgan/archs/stylegan2_{clean,bilinear}_arch.py``
(both Apache-2.0). Differences: see `_stylegan2`; fresh noise is the default in training only, evaluation takes the
stored noise.
"""

from __future__ import annotations

import random
from typing import Literal

import paddle
from paddle import nn
from pydantic import field_validator

from ppgan_fr.archs._stylegan2 import (
    ConstantInput,
    Family,
    Interpolation,
    NoiseBuffers,
    StyleConv,
    ToRGB,
    channels_by_size,
    log2_size,
    noise_shapes,
    style_mlp,
)
from ppgan_fr.config import Frozen


class Config(Frozen):
    """Argument names of the reference constructors; the defaults are those of the FFHQ prior of GFP-GAN."""

    arch: Literal["stylegan2_generator"] = "stylegan2_generator"
    variant: Family = "clean"
    out_size: int = 512
    num_style_feat: int = 512
    num_mlp: int = 8
    channel_multiplier: float = 2
    resample_kernel: tuple[float, ...] = (1, 3, 3, 1)
    lr_mlp: float = 0.01
    narrow: float = 1
    interpolation_mode: Interpolation = "bilinear"

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of every input of `forward` that inference needs, without the batch."""
        return {"styles": (self.num_style_feat,)}

    @field_validator("out_size")
    @classmethod
    def _size_is_a_power_of_two(cls, size: int) -> int:
        log2_size(size)
        return size


def build(config: Config) -> StyleGAN2Generator:
    """A generator with random parameters."""
    return StyleGAN2Generator(config)


class StyleGAN2Generator(nn.Layer):
    """Style codes -> pictures, optionally modulated by spatial features (the decoder of GFP-GAN)."""

    def __init__(self, config: Config, sft_half: bool = False):
        super().__init__()
        self.num_style_feat = config.num_style_feat
        self.sft_half = sft_half
        self.log_size = log2_size(config.out_size)
        self.num_layers = (self.log_size - 2) * 2 + 1
        self.num_latent = self.log_size * 2 - 2
        channels = channels_by_size(config.channel_multiplier, config.narrow)
        family = config.variant
        options = {"resample_kernel": config.resample_kernel, "interpolation_mode": config.interpolation_mode}

        self.style_mlp = style_mlp(config.num_style_feat, config.num_mlp, family, config.lr_mlp)
        self.constant_input = ConstantInput(channels[4])
        self.style_conv1 = StyleConv(channels[4], channels[4], 3, config.num_style_feat, family)
        self.to_rgb1 = ToRGB(channels[4], config.num_style_feat, family, upsample=False)
        self.style_convs = nn.LayerList()
        self.to_rgbs = nn.LayerList()
        width = channels[4]
        for level in range(3, self.log_size + 1):
            out = channels[2**level]
            self.style_convs.append(
                StyleConv(width, out, 3, config.num_style_feat, family, sample_mode="upsample", **options)
            )
            self.style_convs.append(StyleConv(out, out, 3, config.num_style_feat, family))
            self.to_rgbs.append(ToRGB(out, config.num_style_feat, family, upsample=True, **options))
            width = out
        self.noises = NoiseBuffers(self.log_size)

    def make_noise(self) -> list[paddle.Tensor]:
        """Fresh noise for every style layer, each (1, 1, H, W)."""
        return [paddle.randn(shape) for shape in noise_shapes(self.log_size)]

    def get_latent(self, z: paddle.Tensor) -> paddle.Tensor:
        """The mapping network: z (N, D) -> w (N, D)."""
        return self.style_mlp(z)

    def mean_latent(self, num_latent: int) -> paddle.Tensor:
        """The mean w of `num_latent` random z, (1, D): the truncation latent."""
        return self.style_mlp(paddle.randn([num_latent, self.num_style_feat])).mean(axis=0, keepdim=True)

    def forward(
        self,
        styles,
        input_is_latent: bool = False,
        noise: list[paddle.Tensor] | None = None,
        randomize_noise: bool | None = None,
        truncation: float = 1.0,
        truncation_latent: paddle.Tensor | None = None,
        inject_index: int | None = None,
        return_latents: bool = False,
        conditions: list[paddle.Tensor] | None = None,
    ):
        """Synthesises pictures.

        Args:
            styles: one or two (mixing) codes (N, D), or one (N, L, D) with a code for each of the L = `num_latent`
                layers; a tensor, or a list of them.
            input_is_latent: the codes are w, not z.
            noise: one tensor (1 or N, 1, H, W) for each style layer; None chooses by `randomize_noise`.
            randomize_noise: fresh noise instead of the stored one; None: in training only.
            truncation: below 1, codes move towards `truncation_latent`.
            truncation_latent: (1, D), see `mean_latent`.
            inject_index: with two codes, the first layer that takes the second one; None draws it.
            return_latents: also return w.
            conditions: scale and shift of the spatial feature transform, alternating, (N, C', H, W), coarse to fine.

        Returns:
            (image (N, 3, S, S), w (N, L, D) or None).

        Raises:
            ValueError: for a truncation below 1 without `truncation_latent`, or more than two codes.
        """
        styles = list(styles) if isinstance(styles, (list, tuple)) else [styles]
        if not input_is_latent:
            styles = [self.style_mlp(code) for code in styles]
        if truncation < 1:
            if truncation_latent is None:
                raise ValueError("truncation below 1 needs truncation_latent; see mean_latent()")
            styles = [truncation_latent + truncation * (code - truncation_latent) for code in styles]
        latent = self._latent_per_layer(styles, inject_index)
        image = self._synthesise(latent, self._noise(noise, randomize_noise), conditions or [])
        return image, (latent if return_latents else None)

    def _noise(self, noise, randomize_noise):
        if noise is not None:
            return noise
        randomize = self.training if randomize_noise is None else randomize_noise
        return [None] * self.num_layers if randomize else self.noises.as_list()

    def _latent_per_layer(self, styles, inject_index):
        if len(styles) == 1:
            return styles[0] if styles[0].ndim == 3 else _repeat(styles[0], self.num_latent)
        if len(styles) != 2:
            raise ValueError(f"one or two style codes, got {len(styles)}")
        if inject_index is None:
            inject_index = random.randint(1, self.num_latent - 1)
        first, second = _repeat(styles[0], inject_index), _repeat(styles[1], self.num_latent - inject_index)
        return paddle.concat([first, second], axis=1)

    def _synthesise(self, latent, noise, conditions):
        codes = [latent[:, index] for index in range(self.num_latent)]
        out = self.style_conv1(self.constant_input(latent), codes[0], noise[0])
        image = self.to_rgb1(out, codes[1])
        for level, to_rgb in enumerate(self.to_rgbs):
            i = 2 * level + 1
            out = self.style_convs[2 * level](out, codes[i], noise[i])
            if i < len(conditions):  # there may be fewer conditions than levels
                out = spatial_feature_transform(out, conditions[i - 1], conditions[i], self.sft_half)
            out = self.style_convs[2 * level + 1](out, codes[i + 1], noise[i + 1])
            image = to_rgb(out, codes[i + 2], image)
        return image


def _repeat(code: paddle.Tensor, times: int) -> paddle.Tensor:
    """(N, D) -> (N, times, D)."""
    return paddle.tile(code.unsqueeze(1), [1, times, 1])


def spatial_feature_transform(x, scale, shift, half: bool):
    """GFP-GAN's channel-split SFT (section 3.4): ``x * scale + shift`` on all channels, or on the second half of them.

    Args:
        x: (N, C, H, W).
        scale: (N, C or C / 2, H, W).
        shift: like `scale`.
        half: leave the first half of the channels as they are.
    """
    if not half:
        return x * scale + shift
    same, modulated = paddle.split(x, 2, axis=1)
    return paddle.concat([same, modulated * scale + shift], axis=1)
