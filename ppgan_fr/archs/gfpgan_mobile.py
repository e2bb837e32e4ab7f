"""gfpgan_mobile: GFP-GAN's idea with small parts, the restorer that ships with this package.

After: Wang, Li, Zhang, Shan, "Towards Real-World Blind Face Restoration with Generative Facial Prior", CVPR 2021, with
the prior of Belousov's MobileStyleGAN (2021). The design is ours; nothing was ported. See docs/gfpgan_mobile.md.

What happens to a face of 512 px: its Haar transform (12 channels at 256) goes through a U-Net, which gives a restored
picture at every scale, a style, and features. The frozen prior draws a face from the style; after each of its levels
the U-Net's features scale and shift its features (spatial feature transform, identity at first). A small head turns the
prior's 256 level into the Haar coefficients of the 512 picture, and a learned mask mixes them, band by band, with the
U-Net's own.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppgan_fr.archs.mobile_stylegan import Modulation, Synthesis, channels_at, haar, inverse_haar
from ppgan_fr.config import Frozen

WIDTHS = {256: 48, 128: 96, 64: 128, 32: 192, 16: 192, 8: 192, 4: 192}
HIDDEN = {256: 32, 128: 64, 64: 64, 32: 64, 16: 64, 8: 64}


class Config(Frozen):
    """`out_size` 512 and `narrow` 1 is the shipped network; others are for tests and experiments."""

    arch: Literal["gfpgan_mobile"] = "gfpgan_mobile"
    out_size: Literal[64, 128, 256, 512] = 512
    num_style_feat: int = 512
    narrow: float = 1.0
    decoder_weights: str | None = None
    """Weights of `mobile_stylegan` to start the prior from; `None`: they come with the network's own weights."""
    train_decoder: bool = False


class SeparableBlock(nn.Layer):
    """Residual block of two depthwise-separable convolutions, for the large maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw1 = nn.Conv2D(channels, channels, 3, padding=1, groups=channels)
        self.pw1 = nn.Conv2D(channels, channels, 1)
        self.dw2 = nn.Conv2D(channels, channels, 3, padding=1, groups=channels)
        self.pw2 = nn.Conv2D(channels, channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = F.leaky_relu(self.pw1(self.dw1(x)), 0.2)
        return x + self.pw2(self.dw2(y))


class DenseBlock(nn.Layer):
    """Residual block of two dense 3x3 convolutions, for the small maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2D(channels, channels, 3, padding=1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))


def residual_block(size: int, channels: int) -> nn.Layer:
    """Depthwise-separable where maps are large and memory is the limit, dense where they are small."""
    return SeparableBlock(channels) if size >= 128 else DenseBlock(channels)


class Down(nn.Layer):
    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2D(in_channels, out_channels, 2, stride=2)
        self.block = residual_block(size, out_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.block(self.conv(x))


class Up(nn.Layer):
    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2D(in_channels, out_channels, 1)
        self.skip = nn.Conv2D(out_channels, out_channels, 1)
        self.block = residual_block(size, out_channels)

    def forward(self, x: paddle.Tensor, skip: paddle.Tensor) -> paddle.Tensor:
        x = F.interpolate(self.conv(x), size=[self.size, self.size], mode="bilinear", align_corners=False)
        return self.block(x + self.skip(skip))


class Transform(nn.Layer):
    """Spatial feature transform: scale and shift from the U-Net's features and from the prior's own.

    Seeing the prior's features too, it can tell where the prior already drew the right thing.
    """

    def __init__(self, condition: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.condition = nn.Conv2D(condition, hidden, 1)
        self.prior = nn.Conv2D(channels, hidden, 1)
        self.mix = nn.Conv2D(hidden, hidden, 3, padding=1, groups=hidden)
        self.scale = nn.Conv2D(hidden, channels, 1)
        self.shift = nn.Conv2D(hidden, channels, 1)

    def forward(self, x: paddle.Tensor, condition: paddle.Tensor, fidelity: paddle.Tensor) -> paddle.Tensor:
        y = F.leaky_relu(self.condition(condition) + self.prior(x), 0.2)
        y = F.leaky_relu(self.mix(y), 0.2)
        return x + fidelity * (x * self.scale(y) + self.shift(y))


class ToBands(Modulation):
    """Features of the prior's 256 level -> Haar coefficients of the 512 picture, in place of its costly 512 level."""

    def __init__(self, channels: int, hidden: int, style: int) -> None:
        super().__init__(channels, style)
        self.skip = nn.Conv2D(channels, 12, 1)
        self.dw1 = nn.Conv2D(channels, channels, 3, padding=1, groups=channels)
        self.pw1 = nn.Conv2D(channels, hidden, 1)
        self.dw2 = nn.Conv2D(hidden, hidden, 3, padding=1, groups=hidden)
        self.pw2 = nn.Conv2D(hidden, 12, 1)

    def forward(self, x: paddle.Tensor, style: paddle.Tensor) -> paddle.Tensor:
        x = self.modulate(x, style)
        y = F.leaky_relu(self.pw1(self.dw1(x)), 0.2)
        return self.skip(x) + self.pw2(self.dw2(y))


class GFPGANMobile(nn.Layer):
    """Degradation removal, latent mapping, prior with spatial feature transforms, and the mix of both pictures."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.style_feat = config.num_style_feat
        top = config.out_size // 2
        sizes = [size for size in (8, 16, 32, 64, 128, 256) if size <= top]
        width = {size: max(4, int(count * config.narrow)) for size, count in WIDTHS.items()}
        hidden = {size: max(4, int(count * config.narrow)) for size, count in HIDDEN.items()}
        prior = channels_at(config.narrow)
        self.num_styles = 2 + 3 * len(sizes)
        self.stem = nn.Conv2D(12, width[top], 3, padding=1)
        self.head = residual_block(top, width[top])
        self.down = nn.LayerList(Down(width[2 * size], width[size], size) for size in [*sizes[-2::-1], 4])
        self.latent = nn.Linear(width[4] * 16, self.style_feat)
        self.style = nn.Linear(self.style_feat, self.style_feat)
        self.style_in = nn.Linear(self.style_feat, self.style_feat // 8)
        self.style_out = nn.Linear(self.style_feat // 8, self.num_styles * self.style_feat)
        self.up = nn.LayerList(Up(width[size // 2], width[size], size) for size in sizes)
        self.to_rgb = nn.LayerList(nn.Conv2D(width[size], 12 if size == top else 3, 1) for size in sizes)
        self.transform = nn.LayerList(Transform(width[size], prior[size], hidden[size]) for size in sizes)
        self.fusion = nn.Conv2D(width[top] + 12, 12, 3, padding=1)
        self.register_buffer("mean_latent", paddle.zeros([self.style_feat]))
        self.decoder = Synthesis(top, self.style_feat, config.narrow, to_image=False)
        self.to_bands = ToBands(prior[top], max(4, int(48 * config.narrow)), self.style_feat)
        start_at_identity(self)
        if not config.train_decoder:
            for parameter in self.decoder.parameters():
                parameter.stop_gradient = True

    def encode(
        self, lq: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor, list[paddle.Tensor], list[paddle.Tensor], paddle.Tensor]:
        """The degradation removal and the latent mapping.

        Args:
            lq: (N, 3, out_size, out_size) float32 RGB in [-1, 1].

        Returns:
            The style (N, style) common to all layers, the styles (N, num_styles, style), the U-Net's features and its
            pictures, coarse (8 px) to fine (out_size), and the Haar coefficients of the finest picture.
        """
        bands = haar(lq)
        x = self.head(self.stem(bands))
        skips = [x]
        for down in self.down:
            x = down(x)
            skips.append(x)
        code = F.leaky_relu(self.latent(F.leaky_relu(x, 0.2).flatten(1)), 0.2)
        style = self.mean_latent + self.style(code)
        offsets = self.style_out(F.leaky_relu(self.style_in(code), 0.2))
        styles = style.unsqueeze(1) + offsets.reshape([-1, self.num_styles, self.style_feat])
        features, out_rgbs = [], []
        for index, up in enumerate(self.up):
            x = up(x, skips[-2 - index])
            features.append(x)
            out_rgbs.append(self.to_rgb[index](x))
        coarse = bands + out_rgbs[-1]
        out_rgbs[-1] = inverse_haar(coarse)
        return style, styles, features, out_rgbs, coarse

    def forward(
        self, lq: paddle.Tensor, fidelity: paddle.Tensor | float = 1.0, return_latents: bool = False
    ) -> tuple[paddle.Tensor, ...]:
        """Restores aligned faces.

        Args:
            lq: (N, 3, out_size, out_size) float32 RGB in [-1, 1].
            fidelity: in [0, 1], a number or a tensor that broadcasts to (N, 1, 1, 1). 1: closest to the input. 0: the
                prior alone. `weight_of` makes of it the weight of all that comes from the input beside the style.
            return_latents: also return the style (N, num_style_feat).

        Returns:
            The restored picture (N, 3, out_size, out_size) RGB, about [-1, 1]; the U-Net's pictures, coarse to fine.
        """
        style, styles, features, out_rgbs, coarse = self.encode(lq)
        fidelity = weight_of(fidelity)

        def modify(index: int, x: paddle.Tensor) -> paddle.Tensor:
            return self.transform[index](x, features[index], fidelity)

        bands = self.to_bands(self.decoder.features(styles, modify), styles[:, -1])
        mask = F.sigmoid(self.fusion(paddle.concat([features[-1], bands - coarse], axis=1)))
        image = inverse_haar(bands + fidelity * mask * (coarse - bands))
        return (image, out_rgbs, style) if return_latents else (image, out_rgbs)


def weight_of(fidelity: paddle.Tensor | float) -> paddle.Tensor | float:
    """From fidelity to the weight of the input: 0 to 0, 1 to 1, fastest in the middle (6 f^5 - 15 f^4 + 10 f^3).

    Between weights of 0.2 and 0.6 the picture hardly comes closer to the input, and for some faces it does not at all;
    so the steps of the knob that people take, quarters, skip that.
    """
    return fidelity * fidelity * fidelity * (10 + fidelity * (6 * fidelity - 15))


def start_at_identity(network: GFPGANMobile) -> None:
    """Kaiming weights, depthwise kernels near the identity, small residual branches, transforms and heads at zero."""
    kaiming = nn.initializer.KaimingNormal(negative_slope=0.2, nonlinearity="leaky_relu")
    for name, layer in network.named_sublayers():
        if name.startswith("decoder") or not isinstance(layer, (nn.Conv2D, nn.Linear)):
            continue
        if any(part in name for part in ("scale", "shift", "style_out", "to_rgb", "fusion")):
            layer.weight.set_value(paddle.zeros_like(layer.weight))
            continue
        kaiming(layer.weight)
        if isinstance(layer, nn.Conv2D) and layer.weight.shape[1] == 1 and layer._groups > 1:
            kernel = layer.weight * 0.3
            kernel[:, :, 1, 1] += 1.0
            layer.weight.set_value(kernel)
        if name.endswith(("pw2", "block.conv2", "head.conv2")):
            layer.weight.set_value(layer.weight * 0.2)
        if name == "style":
            layer.weight.set_value(layer.weight * 0.1)


def build(config: Config) -> nn.Layer:
    """Builds the network; `decoder_weights`, when given, fill its prior strictly."""
    network = GFPGANMobile(config)
    if config.decoder_weights:
        load_prior(network, config.decoder_weights)
    return network


def load_prior(network: GFPGANMobile, path: str) -> None:
    """Fills the prior from the `.npz` of `tools/third_party/mobile_stylegan.py`, except its unused 512 level."""
    from ppgan_fr import weights

    state = weights.load_npz(path)
    wanted = network.decoder.state_dict()
    names = {name: f"synthesis.{name}" for name in wanted}
    missing = [name for name in names.values() if name not in state]
    if missing:
        raise weights.WeightsError(f"{path}: not MobileStyleGAN weights, lacks {', '.join(missing[:5])}")
    weights.from_torch(network.decoder, {name: state[source] for name, source in names.items()})
