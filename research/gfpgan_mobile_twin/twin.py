"""PyTorch twin of `ppgan_fr/archs/{mobile_stylegan,gfpgan_mobile}.py`: the same parameter names, the same arithmetic.

It exists to train the one network faster where PyTorch is at hand. `tools/convert_weights.py --arch gfpgan_mobile`
reads its checkpoints, and `test_twin.py` holds the two together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64}
STYLES = 20  # modulated layers: the first convolution, (up, conv1, conv2) of six levels, the head


def haar(image: torch.Tensor) -> torch.Tensor:
    """(N, C, 2H, 2W) -> (N, 4C, H, W): all low-pass channels first, then LH, HL, HH of each channel side by side."""
    n, c, h, w = image.shape
    a, b = image[:, :, 0::2], image[:, :, 1::2]
    low, high = a + b, a - b
    ll, hl = low[..., 0::2] + low[..., 1::2], low[..., 0::2] - low[..., 1::2]
    lh, hh = high[..., 0::2] + high[..., 1::2], high[..., 0::2] - high[..., 1::2]
    detail = torch.stack([lh, hl, hh], dim=2).reshape(n, 3 * c, h // 2, w // 2)
    return torch.cat([ll, detail], dim=1) * 0.5


def inverse_haar(bands: torch.Tensor) -> torch.Tensor:
    """(N, 4C, H, W) -> (N, C, 2H, 2W), inverse of `haar`."""
    n, c4, h, w = bands.shape
    c = c4 // 4
    ll, detail = bands[:, :c] * 0.5, bands[:, c:].reshape(n, c, 3, h, w) * 0.5
    lh, hl, hh = detail[:, :, 0], detail[:, :, 1], detail[:, :, 2]
    p, q, r, s = ll + lh, ll - lh, hl + hh, hl - hh
    top = torch.stack([p + r, p - r], dim=-1).reshape(n, c, h, 2 * w)
    bottom = torch.stack([q + s, q - s], dim=-1).reshape(n, c, h, 2 * w)
    return torch.stack([top, bottom], dim=3).reshape(n, c, 2 * h, 2 * w)


class Modulation(nn.Module):
    def __init__(self, channels: int, style: int = 512):
        super().__init__()
        self.modulation = nn.Linear(style, channels)

    def modulate(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        return x * self.modulation(style)[:, :, None, None]


class ModulatedConv(Modulation):
    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__(in_channels)
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, kernel, kernel))

    def forward(self, x, style):
        return F.conv2d(self.modulate(x, style), self.weight, padding=self.weight.shape[-1] // 2)


class ModulatedSeparableConv(Modulation):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels)
        self.weight_dw = nn.Parameter(torch.zeros(in_channels, 1, 3, 3))
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 1, 1))

    def forward(self, x, style):
        x = F.conv2d(self.modulate(x, style), self.weight_dw, padding=1, groups=x.shape[1])
        return F.conv2d(x, self.weight)


class StyledConv(nn.Module):
    def __init__(self, conv: nn.Module, out_channels: int, size: int):
        super().__init__()
        self.conv = conv
        self.noise = nn.Parameter(torch.zeros(1, 1, size, size))
        self.bias = nn.Parameter(torch.zeros(1, out_channels, 1, 1))

    def forward(self, x, style):
        return F.leaky_relu(self.conv(x, style) + self.noise + self.bias, 0.2)


class WaveletUp(Modulation):
    def forward(self, x, style):
        return inverse_haar(self.modulate(x, style))


class ToImage(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = ModulatedConv(channels, 12, 1)
        self.bias = nn.Parameter(torch.zeros(1, 12, 1, 1))

    def forward(self, x, style):
        return self.conv(x, style) + self.bias


class Level(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, size: int, last: bool):
        super().__init__()
        self.up = WaveletUp(in_channels)
        self.conv1 = StyledConv(ModulatedSeparableConv(in_channels // 4, out_channels), out_channels, size)
        self.conv2 = StyledConv(ModulatedSeparableConv(out_channels, out_channels), out_channels, size)
        if last:
            self.to_img = ToImage(out_channels)


class ConstantInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.input = nn.Parameter(torch.zeros(1, 512, 4, 4))


class Synthesis(nn.Module):
    """MobileStyleGAN's synthesis network up to the 512 level, or a shorter one that ends in features."""

    def __init__(self, size: int = 512):
        super().__init__()
        self.input = ConstantInput()
        self.conv1 = StyledConv(ModulatedConv(512, 512, 3), 512, 4)
        sizes = [s for s in (8, 16, 32, 64, 128, 256, 512) if s <= size]
        self.layers = nn.ModuleList(Level(CHANNELS[s // 2], CHANNELS[s], s, last=s == 512) for s in sizes)

    def features(self, styles, modify=None):
        """Styles (N, 1 + 3 levels, 512) -> the features of the last level."""
        x = self.conv1(self.input.input.expand(len(styles), -1, -1, -1), styles[:, 0])
        for i, level in enumerate(self.layers):
            x = level.up(x, styles[:, 3 * i + 1])
            x = level.conv1(x, styles[:, 3 * i + 2])
            x = level.conv2(x, styles[:, 3 * i + 3])
            if modify is not None:
                x = modify(i, x)
        return x

    def forward(self, styles):
        """Styles (N, 23, 512) -> the 12 Haar coefficients (N, 12, 512, 512) of the 1024 picture."""
        return self.layers[-1].to_img(self.features(styles), styles[:, 22])


class Mapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(8))

    def forward(self, z):
        z = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            z = F.leaky_relu(layer(z), 0.2)
        return z


class SeparableBlock(nn.Module):
    """Residual block of two depthwise-separable convolutions."""

    def __init__(self, channels: int):
        super().__init__()
        self.dw1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pw1 = nn.Conv2d(channels, channels, 1)
        self.dw2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pw2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        y = F.leaky_relu(self.pw1(self.dw1(x)), 0.2)
        return x + self.pw2(self.dw2(y))


class DenseBlock(nn.Module):
    """Residual block of two dense 3x3 convolutions, for the small maps."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))


def block(size: int, channels: int) -> nn.Module:
    return SeparableBlock(channels) if size >= 128 else DenseBlock(channels)


class Down(nn.Module):
    def __init__(self, in_channels, out_channels, size):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 2, stride=2)
        self.block = block(size, out_channels)

    def forward(self, x):
        return self.block(self.conv(x))


class Up(nn.Module):
    def __init__(self, in_channels, out_channels, size):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.skip = nn.Conv2d(out_channels, out_channels, 1)
        self.block = block(size, out_channels)

    def forward(self, x, skip):
        x = F.interpolate(self.conv(x), size=skip.shape[2:], mode="bilinear", align_corners=False)
        return self.block(x + self.skip(skip))


class Transform(nn.Module):
    """Spatial feature transform conditioned on the restoration feature and on the prior's own feature."""

    def __init__(self, condition: int, channels: int, hidden: int, size: int):
        super().__init__()
        self.condition = nn.Conv2d(condition, hidden, 1)
        self.prior = nn.Conv2d(channels, hidden, 1)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.scale = nn.Conv2d(hidden, channels, 1)
        self.shift = nn.Conv2d(hidden, channels, 1)

    def forward(self, x, condition, fidelity):
        y = F.leaky_relu(self.condition(condition) + self.prior(x), 0.2)
        y = F.leaky_relu(self.mix(y), 0.2)
        return x + fidelity * (x * self.scale(y) + self.shift(y))


class ToBands(Modulation):
    """Features at 256 -> the 12 Haar coefficients of the 512 picture; stands in for the prior's costly 512 level."""

    def __init__(self, channels: int = 128, hidden: int = 48):
        super().__init__(channels)
        self.skip = nn.Conv2d(channels, 12, 1)
        self.dw1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pw1 = nn.Conv2d(channels, hidden, 1)
        self.dw2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.pw2 = nn.Conv2d(hidden, 12, 1)

    def forward(self, x, style):
        x = self.modulate(x, style)
        y = F.leaky_relu(self.pw1(self.dw1(x)), 0.2)
        return self.skip(x) + self.pw2(self.dw2(y))


class GFPGANMobile(nn.Module):
    def __init__(self, widths=None, hidden=None):
        super().__init__()
        self.widths = widths or {256: 48, 128: 96, 64: 128, 32: 192, 16: 192, 8: 192, 4: 192}
        self.hidden = hidden or {8: 64, 16: 64, 32: 64, 64: 64, 128: 64, 256: 32}
        w = self.widths
        self.stem = nn.Conv2d(12, w[256], 3, padding=1)
        self.head = block(256, w[256])
        sizes = [128, 64, 32, 16, 8, 4]
        self.down = nn.ModuleList(Down(w[2 * s], w[s], s) for s in sizes)
        self.latent = nn.Linear(w[4] * 16, 512)
        self.style = nn.Linear(512, 512)
        self.style_in = nn.Linear(512, 64)
        self.style_out = nn.Linear(64, STYLES * 512)
        ups = [8, 16, 32, 64, 128, 256]
        self.up = nn.ModuleList(Up(w[s // 2], w[s], s) for s in ups)
        self.to_rgb = nn.ModuleList(nn.Conv2d(w[s], 12 if s == 256 else 3, 1) for s in ups)
        self.transform = nn.ModuleList(Transform(w[s], CHANNELS[s], self.hidden[s], s) for s in ups)
        self.fusion = nn.Conv2d(w[256] + 12, 12, 3, padding=1)
        self.register_buffer("mean_latent", torch.zeros(512))
        self.decoder = Synthesis(256)
        self.to_bands = ToBands()

    def encode(self, lq):
        bands = haar(lq)
        x = self.head(self.stem(bands))
        skips = [x]
        for down in self.down:
            x = down(x)
            skips.append(x)
        hidden = F.leaky_relu(self.latent(F.leaky_relu(x, 0.2).flatten(1)), 0.2)
        style = self.mean_latent + self.style(hidden)
        offsets = self.style_out(F.leaky_relu(self.style_in(hidden), 0.2)).reshape(-1, STYLES, 512)
        features, rgbs = [], []
        for i, up in enumerate(self.up):
            x = up(x, skips[-2 - i])
            features.append(x)
            rgbs.append(self.to_rgb[i](x))
        coarse = bands + rgbs[-1]
        rgbs[-1] = inverse_haar(coarse)
        return style, style[:, None] + offsets, features, rgbs, coarse

    def forward(self, lq, fidelity=1.0):
        """Lq (N, 3, 512, 512) RGB in [-1, 1] -> (image, out_rgbs, style, Haar coefficients of the prior's picture)."""
        style, styles, features, rgbs, coarse = self.encode(lq)
        weight = fidelity * fidelity * fidelity * (10 + fidelity * (6 * fidelity - 15))

        def modify(i, x):
            return self.transform[i](x, features[i], weight)

        bands = self.to_bands(self.decoder.features(styles, modify), styles[:, -1])
        mask = torch.sigmoid(self.fusion(torch.cat([features[-1], bands - coarse], 1)))
        image = inverse_haar(bands + weight * mask * (coarse - bands))
        return image, rgbs, style, bands


def load_prior(model: GFPGANMobile, npz) -> None:
    state = {k[len("synthesis.") :]: torch.from_numpy(npz[k].copy()) for k in npz if k.startswith("synthesis.")}
    wanted = model.decoder.state_dict()
    model.decoder.load_state_dict({k: state[k] for k in wanted}, strict=True)
    model.decoder.requires_grad_(False)


def initialise(model: GFPGANMobile) -> None:
    """Kaiming everywhere, residual branches small, transforms and offsets at identity."""
    for name, module in model.named_modules():
        if name.startswith("decoder"):
            continue
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, a=0.2, nonlinearity="leaky_relu")
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            with torch.no_grad():
                module.weight.mul_(0.3)
                module.weight[:, :, 1, 1] += 1
    for name, parameter in model.named_parameters():
        if name.endswith(("pw2.weight", "conv2.weight")) and not name.startswith("decoder"):
            parameter.data.mul_(0.2)
        if any(key in name for key in ("scale.", "shift.", "style_out", "to_rgb", "fusion.")):
            parameter.data.zero_()
        if name == "style.weight":
            parameter.data.mul_(0.1)
