"""MobileNetV2 on ImageNet: features for a Frechet distance under its own name (never called FID).

Paper: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
Read from: torchvision `mobilenetv2.py` (BSD-3), same parameter names. Differences: returns the 1280 pooled features;
the classifier is held only so that published files load; pictures are resized to 224 inside.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppgan_fr.archs.vgg19 import IMAGENET_MEAN, IMAGENET_STD
from ppgan_fr.config import Frozen

# expansion, channels, blocks, stride of the first block
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Config(Frozen):
    arch: Literal["mobilenet_v2"] = "mobilenet_v2"


def _conv(channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2D(channels, out, kernel, stride, kernel // 2, groups=groups, bias_attr=False),
        nn.BatchNorm2D(out),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Layer):
    """Expand, filter each channel, project; a shortcut where the shape stays."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int):
        super().__init__()
        hidden = channels * expansion
        layers: list[nn.Layer] = [] if expansion == 1 else [_conv(channels, hidden)]
        layers += [_conv(hidden, hidden, 3, stride, hidden), nn.Conv2D(hidden, out, 1, bias_attr=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2D(out))
        self.shortcut = stride == 1 and channels == out

    def forward(self, x):
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Layer):
    """RGB picture -> 1280 features."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Layer] = [_conv(3, 32, 3, 2)]
        channels = 32
        for expansion, out, count, stride in STAGES:
            for index in range(count):
                layers.append(InvertedResidual(channels, out, stride if index == 0 else 1, expansion))
                channels = out
        layers.append(_conv(channels, 1280))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))
        for parameter in self.parameters():
            parameter.stop_gradient = True
        self.eval()

    def forward(self, image):
        """(N, 3, H, W) RGB in [-1, 1] -> (N, 1280)."""
        image = F.interpolate((image + 1) / 2, size=[224, 224], mode="bilinear", align_corners=False)
        mean = paddle.to_tensor(IMAGENET_MEAN, dtype=image.dtype).reshape([1, 3, 1, 1])
        std = paddle.to_tensor(IMAGENET_STD, dtype=image.dtype).reshape([1, 3, 1, 1])
        return self.features((image - mean) / std).mean(axis=[2, 3])


def build(config: Config) -> MobileNetV2:
    """The network of a configuration."""
    return MobileNetV2()
