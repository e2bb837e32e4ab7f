"""Inception v3 as the Frechet inception distance (FID) uses it.

Papers: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016; Heusel et al.
(FID), 2017.
Read from: mseitz/pytorch-fid `inception.py` (Apache-2.0) and torchvision (BSD-3), same parameter names, so that
`pt_inception-2015-12-05` loads as it is. Differences: returns the 2048 pooled features. As there, average pools leave
the border out of their count, and the last block pools by maximum.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppgan_fr.config import Frozen


class Config(Frozen):
    arch: Literal["inception"] = "inception"


class BasicConv2d(nn.Layer):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels: int, out: int, kernel, stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2D(channels, out, kernel, stride, padding, bias_attr=False)
        self.bn = nn.BatchNorm2D(out, epsilon=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def _mean_pool(x):
    return F.avg_pool2d(x, 3, 1, 1, exclusive=True)


ROW, COLUMN = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}


class InceptionA(nn.Layer):
    def __init__(self, channels: int, pool_features: int):
        super().__init__()
        self.branch1x1 = BasicConv2d(channels, 64, 1)
        self.branch5x5_1 = BasicConv2d(channels, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(channels, pool_features, 1)

    def forward(self, x):
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return paddle.concat([self.branch1x1(x), five, double, self.branch_pool(_mean_pool(x))], axis=1)


class InceptionB(nn.Layer):
    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3 = BasicConv2d(channels, 384, 3, 2)
        self.branch3x3dbl_1 = BasicConv2d(channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, 2)

    def forward(self, x):
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return paddle.concat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], axis=1)


class InceptionC(nn.Layer):
    def __init__(self, channels: int, c7: int):
        super().__init__()
        self.branch1x1 = BasicConv2d(channels, 192, 1)
        self.branch7x7_1 = BasicConv2d(channels, c7, 1)
        self.branch7x7_2 = BasicConv2d(c7, c7, **ROW)
        self.branch7x7_3 = BasicConv2d(c7, 192, **COLUMN)
        self.branch7x7dbl_1 = BasicConv2d(channels, c7, 1)
        self.branch7x7dbl_2 = BasicConv2d(c7, c7, **COLUMN)
        self.branch7x7dbl_3 = BasicConv2d(c7, c7, **ROW)
        self.branch7x7dbl_4 = BasicConv2d(c7, c7, **COLUMN)
        self.branch7x7dbl_5 = BasicConv2d(c7, 192, **ROW)
        self.branch_pool = BasicConv2d(channels, 192, 1)

    def forward(self, x):
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return paddle.concat([self.branch1x1(x), seven, double, self.branch_pool(_mean_pool(x))], axis=1)


class InceptionD(nn.Layer):
    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3_1 = BasicConv2d(channels, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, 2)
        self.branch7x7x3_1 = BasicConv2d(channels, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, **ROW)
        self.branch7x7x3_3 = BasicConv2d(192, 192, **COLUMN)
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, 2)

    def forward(self, x):
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return paddle.concat([three, seven, F.max_pool2d(x, 3, 2)], axis=1)


class InceptionE(nn.Layer):
    def __init__(self, channels: int, pool: Literal["mean", "max"]):
        super().__init__()
        self.pool = pool
        self.branch1x1 = BasicConv2d(channels, 320, 1)
        self.branch3x3_1 = BasicConv2d(channels, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(channels, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(channels, 192, 1)

    def forward(self, x):
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _mean_pool(x) if self.pool == "mean" else F.max_pool2d(x, 3, 1, 1)
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)]
        return paddle.concat(parts, axis=1)


class InceptionV3(nn.Layer):
    """RGB picture -> 2048 features."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280, "mean")
        self.Mixed_7c = InceptionE(2048, "max")
        self.fc = nn.Linear(2048, 1008)  # in the published file; not used
        for parameter in self.parameters():
            parameter.stop_gradient = True
        self.eval()

    def forward(self, image):
        """(N, 3, H, W) RGB in [-1, 1] -> (N, 2048)."""
        x = F.interpolate(image, size=[299, 299], mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean(axis=[2, 3])


def build(config: Config) -> InceptionV3:
    """The network of a configuration."""
    return InceptionV3()
