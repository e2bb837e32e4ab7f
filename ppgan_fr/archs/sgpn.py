"""SGPN generator: one encoder for the degraded and the rendered face, and a StyleGAN2 decoder that fuses both by learned masks.

Paper: Zhu et al., "Blind Face Restoration via Integrating Face Shape and Generative Priors", CVPR 2022.
Described from the behaviour of TencentYoutuResearch/FaceRestoration-sgpn (academic research licence); the code here is our own and
no line comes from there. Parameter names are those of the released `sgpn.pth`.

Differences from the release, none of which changes a result: a modulated convolution scales activations instead of weights; the
blurs are depthwise convolutions; `n_mlp` and `n_latent`, which the release ignores, do not exist.
"""

from __future__ import annotations

import math
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from pydantic import model_validator

from ppgan_fr.config import Frozen

BLUR = (1.0, 3.0, 3.0, 1.0)
NEGATIVE_SLOPE = 0.2


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
        if self.size < 8 or self.size & (self.size - 1):
            raise ValueError(f"size must be a power of two of at least 8, got {self.size}")
        if self.size > 1024:
            raise ValueError(f"size must be at most 1024, got {self.size}")
        return self


def build(config: Config) -> SGPN:
    """The generator of `config`, with fresh weights."""
    return SGPN(config)


def channels_at(size: int, narrow: float, channel_multiplier: int) -> dict[int, int]:
    """Channels of the feature maps by their side in pixels, 4 to `size`."""
    full = {4: 512, 8: 512, 16: 512, 32: 512}
    full |= {side: 256 * 64 // side * channel_multiplier for side in (64, 128, 256, 512, 1024)}
    return {side: int(count * narrow) for side, count in full.items() if side <= size}


class SGPN(nn.Layer):
    """Restores a face from its degraded picture, a rendering of its fitted 3D shape, and the shape's coefficients."""

    def __init__(self, config: Config):
        super().__init__()
        channels = channels_at(config.size, config.narrow, config.channel_multiplier)
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
        self.steps = int(math.log2(size)) - 2
        self.ecd0 = nn.Sequential(nn.Sequential(EqualConv2D(3, channels[size], 1), FusedLeakyReLU(channels[size])))
        for step in range(1, self.steps + 1):
            side = size >> step
            wide, narrow = channels[2 * side], channels[side]
            down = nn.Sequential(Blur((2, 2), factor=1), EqualConv2D(wide, narrow, 3, stride=2), FusedLeakyReLU(narrow))
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
        self.mlp = nn.Sequential(PixelNorm(), *layers)
        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], style_dim)
        self.to_rgb1 = ToRGB(2 * channels[4], style_dim, upsample=False)
        self.convs = nn.LayerList()
        self.to_rgbs = nn.LayerList()
        for level in range(1, int(math.log2(size)) - 1):
            wide, narrow = 2 * channels[2 << level], channels[4 << level]
            self.convs.append(FusingConv(wide, narrow, style_dim, upsample=True))
            self.convs.append(FusingConv(2 * narrow, narrow, style_dim, upsample=False))
            self.to_rgbs.append(ToRGB(2 * narrow, style_dim, upsample=True))

    def forward(self, z: Tensor, features_lq: list[Tensor], features_rendered: list[Tensor]) -> tuple[Tensor, Tensor]:
        w = self.mlp(z)
        x = self.conv1(self.input(z), w, features_lq[0])
        image = self.to_rgb1(x, w)
        for level, to_rgb in enumerate(self.to_rgbs, start=1):
            for conv in (self.convs[2 * level - 2], self.convs[2 * level - 1]):
                x = conv(x, w, features_lq[level], features_rendered[level])
            image = to_rgb(x, w, image)
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
        self.convs_mask = nn.Sequential(EqualConv2D(3 * out_channels, out_channels, 1, bias=True), nn.Sigmoid())

    def forward(self, x: Tensor, w: Tensor, features_lq: Tensor, features_rendered: Tensor) -> Tensor:
        x = self.conv(x, w)
        mask = self.convs_mask(paddle.concat([x, features_lq, features_rendered], axis=1))
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
        weight = self.weight[0] * self.scale
        x = x * style.unsqueeze([2, 3])
        if self.upsamples:
            x = self.blur(F.conv2d_transpose(x, weight.transpose([1, 0, 2, 3]), stride=2))
        else:
            x = F.conv2d(x, weight, padding=self.padding)
        if self.demodulates:
            energy = paddle.matmul(style.square(), weight.square().sum(axis=[2, 3]), transpose_y=True)
            x = x * paddle.rsqrt(energy + 1e-8).unsqueeze([2, 3])
        return x


class EqualLinear(nn.Layer):
    """Linear layer with equalised learning rate; the weight is (out, in) as in the original, not Paddle's (in, out)."""

    def __init__(
        self, in_dim: int, out_dim: int, *, activate: bool = False, lr_mul: float = 1.0, bias_init: float = 0.0
    ):
        super().__init__()
        self.scale = lr_mul / math.sqrt(in_dim)
        self.lr_mul = lr_mul
        self.activates = activate
        initial = nn.initializer.Normal(0.0, 1.0 / lr_mul)
        self.weight = self.create_parameter([out_dim, in_dim], default_initializer=initial)
        self.bias = self.create_parameter([out_dim], default_initializer=nn.initializer.Constant(bias_init))

    def forward(self, x: Tensor) -> Tensor:
        x = paddle.matmul(x, self.weight * self.scale, transpose_y=True) + self.bias * self.lr_mul
        return scaled_leaky_relu(x) if self.activates else x


class EqualConv2D(nn.Layer):
    """Convolution with equalised learning rate."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = False):
        super().__init__()
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.stride = stride
        shape = [out_channels, in_channels, kernel_size, kernel_size]
        self.weight = self.create_parameter(shape, default_initializer=nn.initializer.Normal())
        self.bias = self.create_parameter([out_channels], is_bias=True) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, stride=self.stride)


class FusedLeakyReLU(nn.Layer):
    """sqrt(2) * leaky_relu(x + bias, 0.2), one bias per channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = self.create_parameter([channels], is_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return scaled_leaky_relu(x + self.bias.reshape([1, -1, 1, 1]))


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


class PixelNorm(nn.Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x * paddle.rsqrt(x.square().mean(axis=1, keepdim=True) + 1e-8)


class Blur(nn.Layer):
    """Convolves every channel with the same 4 x 4 binomial kernel."""

    def __init__(self, pad: tuple[int, int], factor: float):
        super().__init__()
        self.pad = pad
        self.register_buffer("kernel", blur_kernel(factor))

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.pad
        channels = x.shape[1]
        kernel = self.kernel.flip([0, 1]).reshape([1, 1, 4, 4]).expand([channels, 1, 4, 4])
        return F.conv2d(x, kernel, padding=[before, after, before, after], groups=channels)


class Upsample(nn.Layer):
    """Doubles the side: zeros inserted, then the binomial kernel; as one transposed convolution."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", blur_kernel(4))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.reshape([1, 1, 4, 4]).expand([channels, 1, 4, 4])
        return F.conv2d_transpose(x, kernel, stride=2, padding=1, groups=channels)


def blur_kernel(factor: float) -> Tensor:
    """The (4, 4) binomial kernel with sum `factor`."""
    row = paddle.to_tensor(BLUR, dtype="float32")
    return paddle.outer(row, row) / sum(BLUR) ** 2 * factor


def scaled_leaky_relu(x: Tensor) -> Tensor:
    """sqrt(2) * leaky_relu(x, 0.2)."""
    return F.leaky_relu(x, NEGATIVE_SLOPE) * math.sqrt(2)
