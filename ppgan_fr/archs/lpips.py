"""The network of LPIPS with an AlexNet backbone (version 0.1): features and linear heads.

Paper: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018.
Read from: richzhang/PerceptualSimilarity (BSD-2), package lpips 0.1.4; same parameter names, so that the state of
`lpips.LPIPS(net="alex")` loads as it is. Differences: returns features and heads; the distance itself is
`ppgan_fr.metrics.lpips`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import paddle
from paddle import nn

from ppgan_fr.config import Frozen

CHANNELS = (64, 192, 384, 256, 256)


class Config(Frozen):
    arch: Literal["lpips"] = "lpips"


class ScalingLayer(nn.Layer):
    """From [-1, 1] to ImageNet's normalisation."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", paddle.to_tensor([-0.030, -0.088, -0.188]).reshape([1, 3, 1, 1]))
        self.register_buffer("scale", paddle.to_tensor([0.458, 0.448, 0.450]).reshape([1, 3, 1, 1]))

    def forward(self, image):
        return (image - self.shift) / self.scale


class AlexNet(nn.Layer):
    """The convolutions of AlexNet in five slices, sub-layers numbered as in torchvision's `features`."""

    def __init__(self):
        super().__init__()
        layers = [
            nn.Conv2D(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2D(3, 2),
            nn.Conv2D(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2D(3, 2),
            nn.Conv2D(192, 384, 3, 1, 1), nn.ReLU(),
            nn.Conv2D(384, 256, 3, 1, 1), nn.ReLU(),
            nn.Conv2D(256, 256, 3, 1, 1), nn.ReLU(),
        ]  # fmt: skip
        for number, (start, stop) in enumerate(((0, 2), (2, 5), (5, 8), (8, 10), (10, 12)), 1):
            part = nn.Sequential(*[(str(index), layers[index]) for index in range(start, stop)])
            setattr(self, f"slice{number}", part)

    def forward(self, x):
        features = []
        for number in range(1, 6):
            x = getattr(self, f"slice{number}")(x)
            features.append(x)
        return features


class Head(nn.Layer):
    """Weights of one layer: dropout, then a 1 x 1 convolution without bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2D(channels, 1, 1, bias_attr=False))


class LPIPS(nn.Layer):
    """RGB in [-1, 1] -> five features; `heads` are the weights of their squared differences."""

    def __init__(self):
        super().__init__()
        self.scaling_layer = ScalingLayer()
        self.net = AlexNet()
        heads = [Head(channels) for channels in CHANNELS]
        for number, head in enumerate(heads):
            setattr(self, f"lin{number}", head)
        self.lins = nn.LayerList(heads)  # the original holds them twice, and so do its files
        for parameter in self.parameters():
            parameter.stop_gradient = True
        self.eval()

    def heads(self) -> list[np.ndarray]:
        """Per layer the weights of its channels."""
        return [head.model[1].weight.numpy().ravel() for head in self.lins]

    def forward(self, image):
        """(N, 3, H, W) RGB in [-1, 1] -> five features (N, C, h, w)."""
        return self.net(self.scaling_layer(image))


def build(config: Config) -> LPIPS:
    """The network of a configuration."""
    return LPIPS()
