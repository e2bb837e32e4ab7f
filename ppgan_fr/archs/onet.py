"""ONet, the last network of MTCNN: five facial points in the square around a face, to about 2.5 % of the eye distance.

Paper: Zhang, Zhang, Li, Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks",
2016.
Read from the ONNX graph `onet.onnx` of the package mtcnn-runtime 1.0.0 (Apache-2.0); parameter names as there.
Differences: none in what is computed; the two activations after the features are returned as three plain outputs.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppgan_fr.config import Frozen


class Config(Frozen):
    """The released network has no choices."""

    arch: Literal["onet"] = "onet"


class Features(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(3, 32, 3)
        self.prelu1 = nn.PReLU(32)
        self.conv2 = nn.Conv2D(32, 64, 3)
        self.prelu2 = nn.PReLU(64)
        self.conv3 = nn.Conv2D(64, 64, 3)
        self.prelu3 = nn.PReLU(64)
        self.conv4 = nn.Conv2D(64, 128, 2)
        self.prelu4 = nn.PReLU(128)
        self.conv5 = nn.Linear(1152, 256)
        self.prelu5 = nn.PReLU(256)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu3(self.conv3(x)), 2, 2, ceil_mode=True)
        x = self.prelu4(self.conv4(x))
        # The weights come from Caffe, whose pictures were stored column by column.
        x = x.transpose([0, 1, 3, 2]).flatten(1)
        return self.prelu5(self.conv5(x))


class ONet(nn.Layer):
    """Judges one square: is it a face, how is the box off, where are eyes, nose and mouth corners."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Features()
        self.conv6_1 = nn.Linear(256, 2)
        self.conv6_2 = nn.Linear(256, 4)
        self.conv6_3 = nn.Linear(256, 10)

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Looks at squares around faces.

        Args:
            image: (N, 3, 48, 48) float32 RGB, `(pixel - 127.5) / 128`.

        Returns:
            Points (N, 10): five x, then five y, in sides of the square; box offsets (N, 4); probabilities (N, 2) of "no
            face", "face".
        """
        features = self.features(image)
        return self.conv6_3(features), self.conv6_2(features), F.softmax(self.conv6_1(features), axis=1)


def build(config: Config) -> ONet:
    """Makes the network; its weights come from `weights/onet.pdparams`."""
    return ONet()
