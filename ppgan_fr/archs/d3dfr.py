"""Shape network of SGPN: ResNet-50 that regresses the 257 coefficients of a 3D face model from a 224-pixel crop.

Papers: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (the 1.5 variant: the stride sits on the
3 x 3 convolution); Deng et al., "Accurate 3D Face Reconstruction with Weakly-Supervised Learning", CVPR Workshops 2019.
Read from sicxu/Deep3DFaceRecon_pytorch (MIT); SGPN's `d3dfr_*.pth` has the same names.

The input is (N, 3, 224, 224) RGB in [0, 1] as there, without ImageNet normalisation; other sizes of at least 32 work.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppgan_fr.config import Frozen

HEADS = (80, 64, 80, 3, 27, 2, 1)
"""Coefficients per head: identity, expression, texture, angles, light, translation in xy, translation in z."""


class Config(Frozen):
    """`layers` are the blocks per stage; `width_per_group` is 64 in the released model (24 034 625 parameters)."""

    arch: Literal["d3dfr"] = "d3dfr"
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    width_per_group: int = 64
    size: int = 224

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of every input of `forward`, in order, without the batch."""
        return {"image": (3, self.size, self.size)}


def build(config: Config) -> ShapeNet:
    """The network of `config`; its heads start at zero, so that training begins with the mean face."""
    return ShapeNet(config)


class ShapeNet(nn.Layer):
    """ResNet-50 features and one 1 x 1 convolution per kind of coefficient."""

    def __init__(self, config: Config):
        super().__init__()
        self.backbone = ResNet(config.layers, config.width_per_group)
        self.final_layers = nn.LayerList(nn.Conv2D(ResNet.out_channels, count, 1) for count in HEADS)
        for head in self.final_layers:
            nn.initializer.Constant(0.0)(head.weight)
            nn.initializer.Constant(0.0)(head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Coefficients (N, 257) of a batch (N, 3, 224, 224) RGB in [0, 1]."""
        x = self.backbone(image)
        return paddle.concat([head(x) for head in self.final_layers], axis=1).reshape([-1, sum(HEADS)])


class ResNet(nn.Layer):
    """ResNet of bottleneck blocks without the classifier; names as in torchvision."""

    out_channels = 512 * 4

    def __init__(self, layers: tuple[int, int, int, int], width_per_group: int):
        super().__init__()
        self.conv1 = nn.Conv2D(3, 64, 7, stride=2, padding=3, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(64)
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1)
        in_channels = 64
        for stage, count in enumerate(layers):
            planes = 64 << stage
            blocks = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Bottleneck(in_channels, planes, width_per_group, stride))
                in_channels = planes * 4
            self.add_sublayer(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return F.adaptive_avg_pool2d(x, 1)


class Bottleneck(nn.Layer):
    """1 x 1, 3 x 3 (strided), 1 x 1 convolutions around a shortcut."""

    def __init__(self, in_channels: int, planes: int, width_per_group: int, stride: int):
        super().__init__()
        width = planes * width_per_group // 64
        out_channels = planes * 4
        self.conv1 = nn.Conv2D(in_channels, width, 1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = nn.Conv2D(width, width, 3, stride=stride, padding=1, bias_attr=False)
        self.bn2 = nn.BatchNorm2D(width)
        self.conv3 = nn.Conv2D(width, out_channels, 1, bias_attr=False)
        self.bn3 = nn.BatchNorm2D(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2D(in_channels, out_channels, 1, stride=stride, bias_attr=False), nn.BatchNorm2D(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)
