"""YOLOv5-face: detects faces and five landmarks; SGPN uses the medium size.

Paper: Qi et al., "YOLO5Face: Why Reinventing a Face Detector", 2021. Written from a description of the network
(deepcam-cn/yolov5-face is GPL-3.0; no line comes from there). Parameter names are those of its checkpoints, so that
weights a user has can be converted; none are shipped.

Difference: the cell grids are made from the feature maps instead of being handed in.
"""

from __future__ import annotations

import math
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppgan_fr.config import Frozen

STRIDES = (8, 16, 32)
ANCHORS = (
    ((4.0, 5.0), (8.0, 10.0), (13.0, 16.0)),
    ((23.0, 29.0), (43.0, 55.0), (73.0, 105.0)),
    ((146.0, 217.0), (231.0, 300.0), (335.0, 433.0)),
)
"""Widths and heights in pixels, three per stride."""
OUTPUTS = 16
"""Numbers per anchor: box centre and size 4, objectness 1, five points 10, face class 1."""


class Config(Frozen):
    """Depth and width multiples; the defaults are yolov5m-face (21 063 024 parameters)."""

    arch: Literal["yolov5_face"] = "yolov5_face"
    depth_multiple: float = 0.67
    width_multiple: float = 0.75
    bn_eps: float = 1e-3
    bn_momentum: float = 0.03
    size: int = 416

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of every input of `forward`, in order, without the batch."""
        return {"image": (3, self.size, self.size)}


def build(config: Config) -> YoloFace:
    """The detector of `config`, with fresh weights."""
    return YoloFace(config)


class YoloFace(nn.Layer):
    """Backbone, path-aggregation neck, one head per stride; `model` is a list, whose places are parameter names."""

    def __init__(self, config: Config):
        super().__init__()

        def wide(channels: int) -> int:
            return math.ceil(channels * config.width_multiple / 8) * 8

        def deep(count: int) -> int:
            return max(round(count * config.depth_multiple), 1)

        c64, c128, c256, c512, c1024 = (wide(c) for c in (64, 128, 256, 512, 1024))
        self.model = nn.LayerList(
            [
                Stem(3, c64),
                C3(c64, c128, deep(3)),
                ConvBN(c128, c256, 3, 2),
                C3(c256, c256, deep(9)),
                ConvBN(c256, c512, 3, 2),
                C3(c512, c512, deep(9)),
                ConvBN(c512, c1024, 3, 2),
                SPP(c1024, c1024, (3, 5, 7)),
                C3(c1024, c1024, deep(3), shortcut=False),
                ConvBN(c1024, c512, 1),
                nn.Identity(),  # 10: upsample
                nn.Identity(),  # 11: concatenate with 5
                C3(2 * c512, c512, deep(3), shortcut=False),
                ConvBN(c512, c256, 1),
                nn.Identity(),  # 14: upsample
                nn.Identity(),  # 15: concatenate with 3
                C3(2 * c256, c256, deep(3), shortcut=False),
                ConvBN(c256, c256, 3, 2),
                nn.Identity(),  # 18: concatenate with 13
                C3(2 * c256, c512, deep(3), shortcut=False),
                ConvBN(c512, c512, 3, 2),
                nn.Identity(),  # 21: concatenate with 9
                C3(2 * c512, c1024, deep(3), shortcut=False),
                Detect((c256, c512, c1024)),
            ]
        )
        for layer in self.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                layer._epsilon = config.bn_eps
                layer._momentum = 1 - config.bn_momentum

    def forward(self, image: Tensor) -> Tensor:
        """Decoded predictions (N, M, 16) of a batch (N, 3, H, W) RGB in [0, 1]; H and W are multiples of 32.

        A row is box centre xy, box width and height, objectness, five points xy (left eye, right eye, nose, left mouth,
        right mouth, as seen in the picture), face score; pixels of the network's input, scores in [0, 1].
        """
        return self.model[23].decode(self.heads(image))

    def raw(self, image: Tensor) -> list[Tensor]:
        """Undecoded predictions, per stride (N, 3, H / stride, W / stride, 16)."""
        anchors = len(ANCHORS[0])
        return [
            head.reshape([-1, anchors, OUTPUTS, *head.shape[2:]]).transpose([0, 1, 3, 4, 2])
            for head in self.heads(image)
        ]

    def heads(self, image: Tensor) -> list[Tensor]:
        """Undecoded heads, per stride (N, 48, H / stride, W / stride)."""
        m = self.model
        p3 = m[3](m[2](m[1](m[0](image))))
        p4 = m[5](m[4](p3))
        p5 = m[9](m[8](m[7](m[6](p4))))
        n4 = m[13](m[12](paddle.concat([double(p5), p4], axis=1)))
        out3 = m[16](paddle.concat([double(n4), p3], axis=1))
        out4 = m[19](paddle.concat([m[17](out3), n4], axis=1))
        out5 = m[22](paddle.concat([m[20](out4), p5], axis=1))
        return m[23]([out3, out4, out5])


class Detect(nn.Layer):
    """One 1 x 1 convolution per stride, and the decoding of its numbers."""

    def __init__(self, channels: tuple[int, int, int]):
        super().__init__()
        pixels = paddle.to_tensor(ANCHORS, dtype="float32")
        self.register_buffer("anchors", pixels / paddle.to_tensor(STRIDES, dtype="float32").reshape([3, 1, 1]))
        self.register_buffer("anchor_grid", pixels.reshape([3, 1, 3, 1, 1, 2]))
        self.m = nn.LayerList(nn.Conv2D(count, len(ANCHORS[0]) * OUTPUTS, 1) for count in channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [conv(x) for conv, x in zip(self.m, features)]

    def decode(self, heads: list[Tensor]) -> Tensor:
        decoded = []
        for level, (head, stride) in enumerate(zip(heads, STRIDES)):
            anchor = self.anchor_grid[level].reshape([1, len(ANCHORS[0]), 1, 2])
            cells = cell_grid(head)
            # Cells stay one axis and the batch is copied: both may be unknown while the network is exported.
            head = head.flatten(2).reshape([0, len(ANCHORS[0]), OUTPUTS, -1]).transpose([0, 1, 3, 2])
            scores = F.sigmoid(head)
            centre = (scores[..., 0:2] * 2 - 0.5 + cells) * stride
            size = 4 * scores[..., 2:4] * scores[..., 2:4] * anchor
            points = [head[..., 5 + 2 * i : 7 + 2 * i] * anchor + cells * stride for i in range(5)]
            rows = paddle.concat([centre, size, scores[..., 4:5], *points, scores[..., 15:16]], axis=-1)
            decoded.append(rows.reshape([0, -1, OUTPUTS]))
        return paddle.concat(decoded, axis=1)


class Stem(nn.Layer):
    """Quarters the picture by two strided convolutions and a pooled side branch."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.stem_1 = ConvBN(in_channels, out_channels, 3, 2)
        self.stem_2a = ConvBN(out_channels, out_channels // 2, 1)
        self.stem_2b = ConvBN(out_channels // 2, out_channels, 3, 2)
        self.stem_2p = nn.MaxPool2D(2, stride=2, ceil_mode=True)
        self.stem_3 = ConvBN(2 * out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_1(x)
        return self.stem_3(paddle.concat([self.stem_2b(self.stem_2a(x)), self.stem_2p(x)], axis=1))


class C3(nn.Layer):
    """Cross-stage partial block of three convolutions and a chain of bottlenecks."""

    def __init__(self, in_channels: int, out_channels: int, count: int, *, shortcut: bool = True):
        super().__init__()
        hidden = out_channels // 2
        self.cv1 = ConvBN(in_channels, hidden, 1)
        self.cv2 = ConvBN(in_channels, hidden, 1)
        self.cv3 = ConvBN(2 * hidden, out_channels, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut=shortcut) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(paddle.concat([self.m(self.cv1(x)), self.cv2(x)], axis=1))


class Bottleneck(nn.Layer):
    def __init__(self, channels: int, *, shortcut: bool):
        super().__init__()
        self.cv1 = ConvBN(channels, channels, 1)
        self.cv2 = ConvBN(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class SPP(nn.Layer):
    """Spatial pyramid pooling: the input beside its maxima over growing windows."""

    def __init__(self, in_channels: int, out_channels: int, kernels: tuple[int, ...]):
        super().__init__()
        hidden = in_channels // 2
        self.cv1 = ConvBN(in_channels, hidden, 1)
        self.cv2 = ConvBN(hidden * (len(kernels) + 1), out_channels, 1)
        self.m = nn.LayerList(nn.MaxPool2D(k, stride=1, padding=k // 2) for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(paddle.concat([x, *(pool(x) for pool in self.m)], axis=1))


class ConvBN(nn.Layer):
    """Convolution without bias, batch norm, SiLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias_attr=False
        )
        self.bn = nn.BatchNorm2D(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.bn(self.conv(x)))


def double(x: Tensor) -> Tensor:
    """Repeats every pixel twice along both axes."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def cell_grid(head: Tensor) -> Tensor:
    """(1, 1, H * W, 2) float32, the x and y index of every cell of a head (N, C, H, W), row by row."""
    sides = paddle.shape(head)
    y = paddle.arange(sides[2]).astype("float32").unsqueeze(1)
    x = paddle.arange(sides[3]).astype("float32").unsqueeze(0)
    columns, rows = x + paddle.zeros_like(y), y + paddle.zeros_like(x)
    return paddle.stack([columns, rows], axis=-1).reshape([1, 1, -1, 2])
