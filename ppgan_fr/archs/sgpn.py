"""SGPN generator: an encoder for the degraded and the rendered face, a StyleGAN2 decoder that fuses both by masks.

Paper: Zhu et al., "Blind Face Restoration via Integrating Face Shape and Generative Priors", CVPR 2022.
Written from a description of the behaviour of TencentYoutuResearch/FaceRestoration-sgpn (academic research licence); no
line comes from there. Parameter names are those of the released `sgpn.pth`.

Differences from the release, none of which changes a result: a modulated convolution scales activations instead of
weights; the blurs are depthwise convolutions; `n_mlp` and `n_latent`, which the release ignores, do not exist; the
weight of the concatenated features starts at 1.
"""

from __future__ import annotations

import math
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from pydantic import model_validator

from ppgan_fr.archs._stylegan2 import (
    EqualConv2d,
    EqualLinear,
    FusedLeakyReLU,
    NormStyleCode,
    channels_by_size,
    log2_size,
    resample_kernel_2d,
    upfirdn2d,
)
from ppgan_fr.config import Frozen

BLUR = (1.0, 3.0, 3.0, 1.0)


class Config(Frozen):
    """Constructor arguments; the defaults are the released 512-pixel model (74 538 663 parameters)."""

    arch: Literal["sgpn"] = "sgpn"
    size: int = 512
    style_dim: int = 512
    enc_style_dim: int = 256
    coeff_dim: int = 257
    channel_multiplier: int = 2
    narrow: float = 1.0
    lr_mlp: float = 0.01

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of every input of `forward`, in order, without the batch."""
        picture = (3, self.size, self.size)
        return {"lq": picture, "rendered": picture, "coefficients": (self.coeff_dim,)}

    @model_validator(mode="after")
    def _size_is_a_power_of_two(self) -> Config:
        log2_size(self.size)
        return self


def build(config: Config) -> SGPN:
    """The generator of `config`, with fresh weights."""
    return SGPN(config)


class SGPN(nn.Layer):
    """Restores a face from its degraded picture, a rendering of its fitted 3D shape, and the shape's coefficients."""

    def __init__(self, config: Config):
        super().__init__()
        channels = channels_by_size(config.channel_multiplier, config.narrow)
        latent_dim = 2 * config.enc_style_dim + config.coeff_dim
        self.netE = Encoder(config.size, channels, config.enc_style_dim)
        self.netG = Decoder(config.size, channels, latent_dim, config.style_dim, config.lr_mlp)

    def forward(self, lq: Tensor, rendered: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Restores a batch.

        Args:
            lq: (N, 3, S, S) float32, RGB in [-1, 1], the degraded face.
            rendered: (N, 3, S, S) float32, RGB in [-1, 1], the rendered face, -1 where there is none.
            coefficients: (N, 257) float32, raw output of the shape network.

        Returns:
            The restored picture (N, 3, S, S), about [-1, 1] but not clamped, and the latent w (N, style_dim).
        """
        z_lq, features_lq = self.netE(lq)
        z_rendered, features_rendered = self.netE(rendered)
        z = paddle.concat([z_lq, z_rendered, coefficients], axis=1)
        return self.netG(z, features_lq, features_rendered)


class Encoder(nn.Layer):
    """Halves the picture down to 4 x 4; the features of all sides, and a vector of the last."""

    def __init__(self, size: int, channels: dict[int, int], style_dim: int):
        super().__init__()
        self.steps = log2_size(size) - 2
        self.ecd0 = nn.Sequential(
            nn.Sequential(EqualConv2d(3, channels[size], 1, bias=False), FusedLeakyReLU(channels[size]))
        )
        for step in range(1, self.steps + 1):
            side = size >> step
            wide, narrow = channels[2 * side], channels[side]
            down = nn.Sequential(
                Blur((2, 2), factor=1), EqualConv2d(wide, narrow, 3, stride=2, bias=False), FusedLeakyReLU(narrow)
            )
            self.add_sublayer(f"ecd{step}", nn.Sequential(down))
        self.final_linear = nn.Sequential(EqualLinear(channels[4] * 16, style_dim, activate=True))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for step in range(self.steps + 1):
            x = getattr(self, f"ecd{step}")(x)
            features.append(x)
        z = self.final_linear(x.reshape([x.shape[0], -1]))
        return z, features[::-1]


class Decoder(nn.Layer):
    """StyleGAN2 whose noise inputs are the encoders' features, fused at every side from 8 on."""

    def __init__(self, size: int, channels: dict[int, int], latent_dim: int, style_dim: int, lr_mlp: float):
        super().__init__()
        dims = [latent_dim, style_dim, style_dim, style_dim]
        layers = [EqualLinear(a, b, activate=True, lr_mul=lr_mlp) for a, b in zip(dims, dims[1:])]
        self.mlp = nn.Sequential(NormStyleCode(), *layers)
        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], style_dim)
        self.to_rgb1 = ToRGB(2 * channels[4], style_dim, upsample=False)
        self.convs = nn.LayerList()
        self.to_rgbs = nn.LayerList()
        for level in range(1, log2_size(size) - 1):
            wide, narrow = 2 * channels[2 << level], channels[4 << level]
            self.convs.append(FusingConv(wide, narrow, style_dim, upsample=True))
            self.convs.append(FusingConv(2 * narrow, narrow, style_dim, upsample=False))
            self.to_rgbs.append(ToRGB(2 * narrow, style_dim, upsample=True))

    def forward(self, z: Tensor, features_lq: list[Tensor], features_rendered: list[Tensor]) -> tuple[Tensor, Tensor]:
        w = self.mlp(z)
        x = self.conv1(self.input(z), w, features_lq[0])
        image = self.to_rgb1(x, w)
        for level in range(len(self.to_rgbs)):
            for conv in (self.convs[2 * level], self.convs[2 * level + 1]):
                x = conv(x, w, features_lq[level + 1], features_rendered[level + 1])
            image = self.to_rgbs[level](x, w, image)
        return image, w


class StyledConv(nn.Layer):
    """Modulated convolution, scaled features in the place of the noise (concatenated, not added), biased activation."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, *, upsample: bool = False):
        super().__init__()
        self.conv = ModulatedConv2D(in_channels, out_channels, 3, style_dim, upsample=upsample)
        self.noise = ConcatFeatures()
        self.activate = FusedLeakyReLU(2 * out_channels)

    def forward(self, x: Tensor, w: Tensor, features: Tensor) -> Tensor:
        return self.activate(self.noise(self.conv(x, w), features))


class FusingConv(StyledConv):
    """Adaptive feature fusion block: a mask per channel and pixel chooses between the two encoders' features."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, *, upsample: bool):
        super().__init__(in_channels, out_channels, style_dim, upsample=upsample)
        self.convs_mask = nn.Sequential(EqualConv2d(3 * out_channels, out_channels, 1))

    def forward(self, x: Tensor, w: Tensor, features_lq: Tensor, features_rendered: Tensor) -> Tensor:
        x = self.conv(x, w)
        mask = F.sigmoid(self.convs_mask(paddle.concat([x, features_lq, features_rendered], axis=1)))
        fused = features_rendered + mask * (features_lq - features_rendered)
        return self.activate(self.noise(x, fused))


class ToRGB(nn.Layer):
    """1 x 1 modulated convolution to a picture, plus the upsampled picture of the level below."""

    def __init__(self, in_channels: int, style_dim: int, *, upsample: bool):
        super().__init__()
        if upsample:
            self.upsample = Upsample()
        self.conv = ModulatedConv2D(in_channels, 3, 1, style_dim, demodulate=False)
        self.bias = self.create_parameter([1, 3, 1, 1], is_bias=True)

    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None = None) -> Tensor:
        image = self.conv(x, w) + self.bias
        return image if skip is None else image + self.upsample(skip)


class ModulatedConv2D(nn.Layer):
    """Convolution whose input channels are scaled by a style, and whose output is scaled back to unit variance."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_dim: int,
        *,
        upsample: bool = False,
        demodulate: bool = True,
    ):
        super().__init__()
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.padding = kernel_size // 2
        self.upsamples = upsample
        self.demodulates = demodulate
        shape = [1, out_channels, in_channels, kernel_size, kernel_size]
        self.weight = self.create_parameter(shape, default_initializer=nn.initializer.Normal())
        if upsample:
            self.blur = Blur((1, 1), factor=4)
        self.modulation = EqualLinear(style_dim, in_channels, bias_init=1.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.modulation(w)
        weight = self.weight.squeeze(0) * self.scale
        x = x * style.unsqueeze([2, 3])
        if self.upsamples:
            x = self.blur(F.conv2d_transpose(x, weight.transpose([1, 0, 2, 3]), stride=2))
        else:
            x = F.conv2d(x, weight, padding=self.padding)
        if self.demodulates:
            energy = paddle.matmul(style * style, (weight * weight).sum(axis=[2, 3]), transpose_y=True)
            x = x * paddle.rsqrt(energy + 1e-8).unsqueeze([2, 3])
        return x


class ConcatFeatures(nn.Layer):
    """Appends the features, scaled by one learned number, where StyleGAN2 adds noise."""

    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        return paddle.concat([x, self.weight * features], axis=1)


class ConstantInput(nn.Layer):
    def __init__(self, channels: int):
        super().__init__()
        self.input = self.create_parameter([1, channels, 4, 4], default_initializer=nn.initializer.Normal())

    def forward(self, like: Tensor) -> Tensor:
        # The batch comes from `like` by arithmetic, so that an exported model keeps it dynamic.
        return self.input + 0.0 * like[:, :1].reshape([-1, 1, 1, 1])


class Blur(nn.Layer):
    """Convolves every channel with the same 4 x 4 binomial kernel."""

    def __init__(self, pad: tuple[int, int], factor: float):
        super().__init__()
        self.pad = pad
        self.register_buffer("kernel", resample_kernel_2d(BLUR, factor))

    def forward(self, x: Tensor) -> Tensor:
        return upfirdn2d(x, self.kernel, pad=self.pad)


class Upsample(nn.Layer):
    """Doubles the side: zeros inserted, then the binomial kernel; as one transposed convolution."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", resample_kernel_2d(BLUR, 4))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.reshape([1, 1, 4, 4]).expand([channels, 1, 4, 4])
        return F.conv2d_transpose(x, kernel, stride=2, padding=1, groups=channels)
