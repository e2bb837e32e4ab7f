"""Multi-scale conditional patch discriminator, HiFaceGAN's opponent.

Paper: Yang et al., "HiFaceGAN: Face Renovation via Collaborative Suppression and Replenishment", ACM MM 2020 (arXiv
2005.05005); the design is pix2pixHD's (Wang et al., CVPR 2018) with spectral normalisation. Described from the
behaviour of Lotayou/Face-Renovation (academic use only; parts under NVIDIA's CC BY-NC-SA); the code here is our own
and no line comes from there. Parameter names are those of its checkpoints. Difference: only the `spectralinstance`
normalisation exists (without `spectral` the original stops with an error).
"""

from __future__ import annotations

from typing import Literal

import paddle.nn.functional as F
from paddle import Tensor, nn
from pydantic import Field

from ppgan_fr.archs._spectral import SpectralConv2D
from ppgan_fr.config import Frozen

MAX_CHANNELS = 512
KERNEL, PADDING = 4, 2
INIT_GAIN = 0.02


class Config(Frozen):
    """Constructor arguments; the defaults are the released training configuration (5 533 826 parameters)."""

    arch: Literal["patch_discriminator"] = "patch_discriminator"
    input_nc: int = Field(6, ge=1)
    """Channels of the input: degraded picture and candidate, concatenated."""
    ndf: int = Field(64, ge=1)
    """Channels of the first layer; doubled by every layer up to 512."""
    num_D: int = Field(2, ge=1)  # noqa: N815 - upstream name
    """Scales: every further one sees the picture at half the size."""
    n_layers_D: int = Field(4, ge=2)  # noqa: N815
    """Layers before the prediction."""


def build(config: Config) -> MultiscaleDiscriminator:
    """The discriminator of `config`, with fresh weights (Xavier normal, gain 0.02)."""
    return MultiscaleDiscriminator(config)


class MultiscaleDiscriminator(nn.Layer):
    """`num_D` patch discriminators over a picture pyramid."""

    def __init__(self, config: Config):
        super().__init__()
        self.scales = config.num_D
        for scale in range(self.scales):
            self.add_sublayer(f"discriminator_{scale}", PatchDiscriminator(config))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Judges a batch.

        Args:
            x: (N, input_nc, H, W), RGB in [0, 1]: the degraded picture, then the candidate.

        Returns:
            per scale, fine to coarse: the features of every layer and, last, the prediction (N, 1, h, w).
        """
        answers = []
        for scale in range(self.scales):
            if scale:
                # The border averages only the pixels that exist.
                x = F.avg_pool2d(x, 3, stride=2, padding=1, exclusive=True)
            answers.append(getattr(self, f"discriminator_{scale}")(x))
        return answers


class PatchDiscriminator(nn.Layer):
    """One scale: strided convolutions, then a prediction for every patch."""

    def __init__(self, config: Config):
        super().__init__()
        self.depth = config.n_layers_D
        channels = config.ndf
        self.model0 = nn.Sequential(_conv(config.input_nc, channels, stride=2), _activation())
        for layer in range(1, self.depth):
            wider = min(2 * channels, MAX_CHANNELS)
            stride = 1 if layer == self.depth - 1 else 2
            convolution = SpectralConv2D(channels, wider, KERNEL, stride, PADDING, bias=False, init_gain=INIT_GAIN)
            norm = nn.InstanceNorm2D(wider, weight_attr=False, bias_attr=False)
            self.add_sublayer(f"model{layer}", nn.Sequential(nn.Sequential(convolution, norm), _activation()))
            channels = wider
        self.add_sublayer(f"model{self.depth}", nn.Sequential(_conv(channels, 1, stride=1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, input_nc, H, W) -> the output of every layer, the prediction last."""
        outputs = []
        for layer in range(self.depth + 1):
            x = getattr(self, f"model{layer}")(x)
            outputs.append(x)
        return outputs


def _conv(in_channels: int, out_channels: int, stride: int) -> nn.Conv2D:
    initializer = nn.initializer.XavierNormal(gain=INIT_GAIN)
    return nn.Conv2D(in_channels, out_channels, KERNEL, stride, PADDING, weight_attr=initializer)


def _activation() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.2)
