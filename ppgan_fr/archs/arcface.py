"""ArcFace ResNet on gray 128 x 128 faces: the identity network of GFP-GAN's training.

Paper: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019.
Read from: TencentARC/GFPGAN `arcface_arch.py` (Apache-2.0), same parameter names. Differences: only the improved
residual block (`IRBlock`), the one the released ResNet-18 uses; frozen and in evaluation mode from the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from paddle import nn

from ppgan_fr.config import Frozen


class Config(Frozen):
    arch: Literal["arcface"] = "arcface"
    block: Literal["IRBlock"] = "IRBlock"
    layers: tuple[int, int, int, int] = (2, 2, 2, 2)
    use_se: bool = False


def conv3x3(channels: int, out: int, stride: int = 1) -> nn.Conv2D:
    """3 x 3 convolution, padded, without bias."""
    return nn.Conv2D(channels, out, 3, stride, 1, bias_attr=False)


class SEBlock(nn.Layer):
    """Squeeze and excitation."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = channels // reduction
        self.fc = nn.Sequential(nn.Linear(channels, hidden), nn.PReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x):
        gate = self.fc(x.mean(axis=[2, 3]))
        return x * gate.unsqueeze(-1).unsqueeze(-1)


class IRBlock(nn.Layer):
    """Norm, convolution, norm, PReLU, convolution, norm, optional squeeze and excitation, shortcut, the same PReLU."""

    def __init__(self, channels: int, out: int, stride: int, shortcut: nn.Layer | None, use_se: bool):
        super().__init__()
        self.bn0 = nn.BatchNorm2D(channels)
        self.conv1 = conv3x3(channels, channels)
        self.bn1 = nn.BatchNorm2D(channels)
        self.prelu = nn.PReLU()
        self.conv2 = conv3x3(channels, out, stride)
        self.bn2 = nn.BatchNorm2D(out)
        self.downsample = shortcut
        self.use_se = use_se
        if use_se:
            self.se = SEBlock(out)

    def forward(self, x):
        out = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        out = self.bn2(self.conv2(out))
        if self.use_se:
            out = self.se(out)
        return self.prelu(out + (x if self.downsample is None else self.downsample(x)))


class ResNetArcFace(nn.Layer):
    """Gray face -> 512 identity features."""

    def __init__(self, layers: Sequence[int] = (2, 2, 2, 2), use_se: bool = False):
        super().__init__()
        self.conv1 = conv3x3(1, 64)
        self.bn1 = nn.BatchNorm2D(64)
        self.prelu = nn.PReLU()
        self.maxpool = nn.MaxPool2D(2, 2)
        self.layer1 = self._stage(64, 64, layers[0], 1, use_se)
        self.layer2 = self._stage(64, 128, layers[1], 2, use_se)
        self.layer3 = self._stage(128, 256, layers[2], 2, use_se)
        self.layer4 = self._stage(256, 512, layers[3], 2, use_se)
        self.bn4 = nn.BatchNorm2D(512)
        self.dropout = nn.Dropout(0.5)
        self.fc5 = nn.Linear(512 * 8 * 8, 512)
        self.bn5 = nn.BatchNorm1D(512)
        for parameter in self.parameters():
            parameter.stop_gradient = True
        self.eval()

    @staticmethod
    def _stage(channels: int, out: int, count: int, stride: int, use_se: bool) -> nn.Sequential:
        shortcut = None
        if stride != 1 or channels != out:
            shortcut = nn.Sequential(nn.Conv2D(channels, out, 1, stride, bias_attr=False), nn.BatchNorm2D(out))
        blocks = [IRBlock(channels, out, stride, shortcut, use_se)]
        blocks += [IRBlock(out, out, 1, None, use_se) for _ in range(count - 1)]
        return nn.Sequential(*blocks)

    def forward(self, gray):
        """(N, 1, 128, 128) in [-1, 1] -> (N, 512), not normalised."""
        x = self.maxpool(self.prelu(self.bn1(self.conv1(gray))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(self.bn4(x))
        return self.bn5(self.fc5(x.reshape([x.shape[0], -1])))


def build(config: Config) -> ResNetArcFace:
    """The network of a configuration."""
    return ResNetArcFace(config.layers, config.use_se)
