"""VGG19 as a frozen feature extractor (perceptual and style losses, perceptual distance).

Paper: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015.
Read from: torchvision `vgg19` (BSD-3; numbering of `features.N`) and BasicSR's `VGGFeatureExtractor` (Apache-2.0; layer
names `conv1_1` before, `relu1_1` after the activation).
Differences: only the convolutional part; only as deep as the deepest layer asked for; any width (`width` divides the
channels); the input scaling is part of the network (`preprocess`), because weights of different origin want
different ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import paddle
from paddle import nn

from ppgan_fr.config import Frozen

BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))

# Layer name -> index in torchvision's `features`: per convolution conv, relu; per block a pool.
INDEX: dict[str, int] = {}
for _block, (_count, _) in enumerate(BLOCKS, 1):
    for _layer in range(1, _count + 1):
        INDEX[f"conv{_block}_{_layer}"] = len(INDEX)
        INDEX[f"relu{_block}_{_layer}"] = len(INDEX)
    INDEX[f"pool{_block}"] = len(INDEX)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


class Config(Frozen):
    arch: Literal["vgg19"] = "vgg19"
    layers: tuple[str, ...] = ("conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4")
    preprocess: Literal["torchvision", "caffe", "raw"] = "torchvision"
    input_range: tuple[float, float] = (-1.0, 1.0)
    width: float = 1.0


class VGG19(nn.Layer):
    """Returns the named features of an RGB image.

    Args:
        layers: names such as "conv3_4" (before the activation) or "relu3_4" (after it).
        preprocess: what the weights expect of the input, after it was mapped from `input_range` to [0, 1]:
            "torchvision": minus IMAGENET_MEAN, divided by IMAGENET_STD; "caffe": BGR, 0 to 255, minus CAFFE_MEAN_BGR
            (Keras and the original Caffe weights); "raw": the input as it is, `input_range` is not looked at.
        input_range: of the image handed in, (-1, 1) or (0, 1).
        width: factor on the channels of all layers (below 1: the narrow networks of tests).
    """

    def __init__(
        self,
        layers: Sequence[str] = Config().layers,
        preprocess: str = "torchvision",
        input_range: tuple[float, float] = (-1.0, 1.0),
        width: float = 1.0,
    ):
        super().__init__()
        unknown = [name for name in layers if name not in INDEX]
        if unknown or not layers:
            raise ValueError(
                f"vgg19: no such layer {unknown or '(none given)'}; the names are conv1_1, relu1_1 ... pool5"
            )
        self.names = tuple(layers)
        self.input_range = input_range
        self.preprocess = preprocess
        last = max(INDEX[name] for name in layers)
        modules: list[nn.Layer] = []
        channels = 3
        for count, full in BLOCKS:
            for _ in range(count):
                out = int(full * width)
                modules += [nn.Conv2D(channels, out, 3, padding=1), nn.ReLU()]
                channels = out
            modules.append(nn.MaxPool2D(2))
        self.features = nn.Sequential(*modules[: last + 1])
        self.freeze()

    def freeze(self) -> None:
        for parameter in self.parameters():
            parameter.stop_gradient = True
        self.eval()

    def unused(self, name: str) -> bool:
        """Whether an entry of a VGG19 file is deeper than this network: later convolutions, the classifier."""
        part, _, rest = name.partition(".")
        index = rest.partition(".")[0]
        deeper = part == "features" and index.isdigit() and int(index) in INDEX.values()
        return part == "classifier" or (deeper and int(index) >= len(self.features))

    def scale_input(self, image):
        """Image of `input_range` -> what the weights expect."""
        if self.preprocess == "raw":
            return image
        low, high = self.input_range
        image = (image - low) / (high - low)
        if self.preprocess == "caffe":
            blue, green, red = image[:, 2:3], image[:, 1:2], image[:, 0:1]
            mean = paddle.to_tensor(CAFFE_MEAN_BGR, dtype=image.dtype).reshape([1, 3, 1, 1])
            return paddle.concat([blue, green, red], axis=1) * 255.0 - mean
        mean = paddle.to_tensor(IMAGENET_MEAN, dtype=image.dtype).reshape([1, 3, 1, 1])
        std = paddle.to_tensor(IMAGENET_STD, dtype=image.dtype).reshape([1, 3, 1, 1])
        return (image - mean) / std

    def forward(self, image) -> dict:
        """(N, 3, H, W) RGB -> {layer name: features}, in the order of the network."""
        x = self.scale_input(image)
        wanted = {INDEX[name]: name for name in self.names}
        out = {}
        for index, module in enumerate(self.features):
            x = module(x)
            if index in wanted:
                out[wanted[index]] = x
        return out


def build(config: Config) -> VGG19:
    """The network of a configuration."""
    return VGG19(config.layers, config.preprocess, config.input_range, config.width)
