"""The StyleGAN2 discriminator, which judges whole faces in GFP-GAN's training.

Paper: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
Read from: BasicSR ``basicsr/archs/stylegan2_arch.py`` (Apache-2.0). Parameter names are theirs. Every operator has a
second derivative while gradients are recorded, which R1 needs.
"""

from __future__ import annotations

from typing import Literal

import paddle
from paddle import nn
from pydantic import field_validator

from ppgan_fr.archs._stylegan2 import ConvLayer, EqualLinear, ResBlock, channels_by_size, log2_size
from ppgan_fr.config import Frozen


class Config(Frozen):
    """Argument names of the reference constructor; the defaults are those of GFP-GAN's training."""

    arch: Literal["stylegan2_discriminator"] = "stylegan2_discriminator"
    out_size: int = 512
    channel_multiplier: float = 1
    resample_kernel: tuple[float, ...] = (1, 3, 3, 1)
    stddev_group: int = 4
    narrow: float = 1

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of every input of `forward`, without the batch."""
        return {"image": (3, self.out_size, self.out_size)}

    @field_validator("out_size")
    @classmethod
    def _size_is_a_power_of_two(cls, size: int) -> int:
        log2_size(size)
        return size


def build(config: Config) -> StyleGAN2Discriminator:
    """A discriminator with random parameters."""
    return StyleGAN2Discriminator(config)


class StyleGAN2Discriminator(nn.Layer):
    """Pictures -> logits of being real."""

    def __init__(self, config: Config):
        super().__init__()
        self.stddev_group = config.stddev_group
        channels = channels_by_size(config.channel_multiplier, config.narrow)
        width = channels[config.out_size]
        body = [ConvLayer(3, width, 1)]
        for level in range(log2_size(config.out_size), 2, -1):
            out = channels[2 ** (level - 1)]
            body.append(ResBlock(width, out, resample_kernel=config.resample_kernel))
            width = out
        self.conv_body = nn.Sequential(*body)
        self.final_conv = ConvLayer(width + 1, channels[4], 3)
        self.final_linear = nn.Sequential(
            EqualLinear(channels[4] * 4 * 4, channels[4], activate=True), EqualLinear(channels[4], 1)
        )

    def forward(self, image):
        """(N, 3, S, S) RGB in [-1, 1] -> (N, 1); N is at most ``stddev_group`` or a multiple of it."""
        features = self.conv_body(image)
        features = paddle.concat([features, minibatch_stddev(features, self.stddev_group)], axis=1)
        features = self.final_conv(features)
        return self.final_linear(features.reshape([features.shape[0], -1]))


def minibatch_stddev(features: paddle.Tensor, group: int) -> paddle.Tensor:
    """The mean standard deviation within groups of samples, as one more channel: it reveals a collapsed generator.

    Args:
        features: (N, C, H, W).
        group: samples per group; N must be smaller or divisible by it. Sample i is in group ``i % (N // group)``.

    Returns:
        (N, 1, H, W), constant over H and W and equal within a group.

    Raises:
        ValueError: when N cannot be divided.
    """
    batch, channels, height, width = features.shape
    group = min(batch, group)
    if batch % group:
        raise ValueError(f"the batch of {batch} is not divisible by the minibatch-stddev group of {group}")
    grouped = features.reshape([group, batch // group, channels, height, width])
    centred = grouped - grouped.mean(axis=0, keepdim=True)
    stddev = paddle.sqrt((centred * centred).mean(axis=0) + 1e-8).mean(axis=[1, 2, 3])
    return stddev.reshape([-1, 1, 1, 1]).tile([group, 1, height, width])
