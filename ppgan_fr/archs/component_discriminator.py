"""Discriminator of one facial component (an eye or the mouth) of GFP-GAN.

Paper: Wang et al., "Towards Real-World Blind Face Restoration with Generative Facial Prior", CVPR 2021, section 3.4.
Read from: TencentARC/GFPGAN `gfpganv1_arch.py` (Apache-2.0), same parameter names. Differences: features are always
returned; the convolutions are those of `_stylegan2.py`, which have second derivatives.
"""

from __future__ import annotations

from typing import Literal

from paddle import nn

from ppgan_fr.archs._stylegan2 import ConvLayer
from ppgan_fr.config import Frozen


class Config(Frozen):
    arch: Literal["component_discriminator"] = "component_discriminator"


class FacialComponentDiscriminator(nn.Layer):
    """Five convolutions at full, half and quarter size; fully convolutional."""

    def __init__(self):
        super().__init__()
        self.conv1 = ConvLayer(3, 64, 3)
        self.conv2 = ConvLayer(64, 128, 3, downsample=True)
        self.conv3 = ConvLayer(128, 128, 3)
        self.conv4 = ConvLayer(128, 256, 3, downsample=True)
        self.conv5 = ConvLayer(256, 256, 3)
        self.final_conv = ConvLayer(256, 1, 3, activate=False)

    def forward(self, image):
        """(N, 3, H, W) RGB in [-1, 1] -> logits (N, 1, H/4, W/4) and two features, at half and quarter size."""
        half = self.conv3(self.conv2(self.conv1(image)))
        quarter = self.conv5(self.conv4(half))
        return self.final_conv(quarter), [half, quarter]


def build(config: Config) -> FacialComponentDiscriminator:
    """The network of a configuration."""
    return FacialComponentDiscriminator()
