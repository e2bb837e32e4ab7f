"""RetinaFace: boxes, five landmarks and scores of faces.

Paper: Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", CVPR 2020.
Read from: xinntao/facexlib `detection/retinaface*.py` (MIT) and torchvision's ResNet-50 (BSD-3), same parameter names.
Differences: the unused classifier of the backbones is not built; priors, decoding and suppression live in
`ppgan_fr/face/retinaface.py`, in numpy.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppgan_fr.config import Frozen


class Config(Frozen):
    arch: Literal["retinaface"] = "retinaface"
    network_name: Literal["resnet50", "mobile0.25"] = "resnet50"


def conv_bn(channels: int, out: int, kernel: int = 3, stride: int = 1, leaky: float | None = 0.0, groups: int = 1):
    """Convolution without bias, batch norm, leaky ReLU (0: ReLU, None: nothing), as the items of a Sequential."""
    items: list[nn.Layer] = [
        nn.Conv2D(channels, out, kernel, stride, kernel // 2, groups=groups, bias_attr=False),
        nn.BatchNorm2D(out),
    ]
    if leaky is not None:
        items.append(nn.LeakyReLU(leaky) if leaky else nn.ReLU())
    return items


class Bottleneck(nn.Layer):
    """ResNet bottleneck; the stride is in the 3 x 3 convolution."""

    def __init__(self, channels: int, width: int, stride: int = 1, shortcut: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2D(channels, width, 1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = nn.Conv2D(width, width, 3, stride, 1, bias_attr=False)
        self.bn2 = nn.BatchNorm2D(width)
        self.conv3 = nn.Conv2D(width, 4 * width, 1, bias_attr=False)
        self.bn3 = nn.BatchNorm2D(4 * width)
        self.downsample = None
        if shortcut:
            self.downsample = nn.Sequential(*conv_bn(channels, 4 * width, 1, stride, None))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Layer):
    """ResNet-50 without its head; returns the features at strides 8, 16 and 32."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2D(3, 64, 7, 2, 3, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(64)
        self.maxpool = nn.MaxPool2D(3, 2, 1)
        channels = 64
        for number, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
            blocks = [Bottleneck(channels, width, 1 if number == 1 else 2, shortcut=True)]
            blocks += [Bottleneck(4 * width, width) for _ in range(count - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            channels = 4 * width

    def forward(self, x):
        x = self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        eighth = self.layer2(x)
        sixteenth = self.layer3(eighth)
        return [eighth, sixteenth, self.layer4(sixteenth)]


class MobileNetV1(nn.Layer):
    """MobileNet v1 at a quarter of its width, without its head; features at strides 8, 16 and 32."""

    def __init__(self):
        super().__init__()

        def unit(channels: int, out: int, stride: int) -> nn.Sequential:
            depthwise = conv_bn(channels, channels, 3, stride, 0.1, groups=channels)
            return nn.Sequential(*depthwise, *conv_bn(channels, out, 1, 1, 0.1))

        first = nn.Sequential(*conv_bn(3, 8, 3, 2, 0.1))
        self.stage1 = nn.Sequential(
            first, unit(8, 16, 1), unit(16, 32, 2), unit(32, 32, 1), unit(32, 64, 2), unit(64, 64, 1)
        )
        self.stage2 = nn.Sequential(unit(64, 128, 2), *[unit(128, 128, 1) for _ in range(5)])
        self.stage3 = nn.Sequential(unit(128, 256, 2), unit(256, 256, 1))

    def forward(self, x):
        eighth = self.stage1(x)
        sixteenth = self.stage2(eighth)
        return [eighth, sixteenth, self.stage3(sixteenth)]


class FPN(nn.Layer):
    """Feature pyramid of three levels."""

    def __init__(self, channels: list[int], out: int):
        super().__init__()
        leaky = 0.1 if out <= 64 else 0.0
        self.output1 = nn.Sequential(*conv_bn(channels[0], out, 1, 1, leaky))
        self.output2 = nn.Sequential(*conv_bn(channels[1], out, 1, 1, leaky))
        self.output3 = nn.Sequential(*conv_bn(channels[2], out, 1, 1, leaky))
        self.merge1 = nn.Sequential(*conv_bn(out, out, leaky=leaky))
        self.merge2 = nn.Sequential(*conv_bn(out, out, leaky=leaky))

    def forward(self, features):
        first, second, third = self.output1(features[0]), self.output2(features[1]), self.output3(features[2])
        second = self.merge2(second + F.interpolate(third, size=second.shape[2:], mode="nearest"))
        first = self.merge1(first + F.interpolate(second, size=first.shape[2:], mode="nearest"))
        return [first, second, third]


class SSH(nn.Layer):
    """Context module: 3 x 3, 5 x 5 and 7 x 7 fields by stacked 3 x 3 convolutions."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        leaky = 0.1 if out <= 64 else 0.0
        quarter = out // 4
        self.conv3X3 = nn.Sequential(*conv_bn(channels, out // 2, leaky=None))
        self.conv5X5_1 = nn.Sequential(*conv_bn(channels, quarter, leaky=leaky))
        self.conv5X5_2 = nn.Sequential(*conv_bn(quarter, quarter, leaky=None))
        self.conv7X7_2 = nn.Sequential(*conv_bn(quarter, quarter, leaky=leaky))
        self.conv7x7_3 = nn.Sequential(*conv_bn(quarter, quarter, leaky=None))

    def forward(self, x):
        five = self.conv5X5_1(x)
        seven = self.conv7x7_3(self.conv7X7_2(five))
        return F.relu(paddle.concat([self.conv3X3(x), self.conv5X5_2(five), seven], axis=1))


class Head(nn.Layer):
    """1 x 1 convolution; answers per anchor."""

    def __init__(self, channels: int, size: int, anchors: int = 2):
        super().__init__()
        self.size = size
        self.conv1x1 = nn.Conv2D(channels, anchors * size, 1)

    def forward(self, x):
        return self.conv1x1(x).transpose([0, 2, 3, 1]).reshape([x.shape[0], -1, self.size])


class RetinaFace(nn.Layer):
    """Image -> offsets, scores and landmarks of every anchor."""

    def __init__(self, network_name: str = "resnet50"):
        super().__init__()
        if network_name == "resnet50":
            self.body, channels, out = ResNet50(), 256, 256
        else:
            self.body, channels, out = MobileNetV1(), 32, 64
        self.fpn = FPN([channels * 2, channels * 4, channels * 8], out)
        self.ssh1, self.ssh2, self.ssh3 = SSH(out, out), SSH(out, out), SSH(out, out)
        self.ClassHead = nn.LayerList([Head(out, 2) for _ in range(3)])
        self.BboxHead = nn.LayerList([Head(out, 4) for _ in range(3)])
        self.LandmarkHead = nn.LayerList([Head(out, 10) for _ in range(3)])
        self.eval()

    def forward(self, image):
        """(N, 3, H, W) BGR minus (104, 117, 123) -> offsets (N, A, 4), scores (N, A, 2), landmarks (N, A, 10)."""
        pyramid = self.fpn(self.body(image))
        features = [self.ssh1(pyramid[0]), self.ssh2(pyramid[1]), self.ssh3(pyramid[2])]

        def heads(layers: nn.LayerList):
            return paddle.concat([head(feature) for head, feature in zip(layers, features)], axis=1)

        return heads(self.BboxHead), F.softmax(heads(self.ClassHead), axis=-1), heads(self.LandmarkHead)


def build(config: Config) -> RetinaFace:
    """The network of a configuration."""
    return RetinaFace(config.network_name)
