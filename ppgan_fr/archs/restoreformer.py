"""RestoreFormer: encoder, codebook of high-quality face features, and a decoder that attends from one to the other.

Paper: Wang et al., "RestoreFormer: High-Quality Blind Face Restoration From Undegraded Key-Value Pairs", CVPR 2022.
Read from: TencentARC/GFPGAN `restoreformer_arch.py` (Apache-2.0), same parameter names. Differences: time embeddings,
average-pooling resamplers and the plain decoder, which the released network does not use, are left out; the nearest
code is looked up instead of multiplied by a one-hot matrix.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppgan_fr.archs._doubled_conv import conv_of_nearest2x
from ppgan_fr.config import Frozen


class Config(Frozen):
    arch: Literal["restoreformer"] = "restoreformer"
    n_embed: int = 1024
    embed_dim: int = 256
    ch: int = 64
    out_ch: int = 3
    ch_mult: tuple[int, ...] = (1, 2, 2, 4, 4, 8)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.0
    in_channels: int = 3
    resolution: int = 512
    z_channels: int = 256
    double_z: bool = False
    enable_mid: bool = True
    fix_decoder: bool = False
    fix_codebook: bool = True
    fix_encoder: bool = False
    head_size: int = 8


def normalize(channels: int) -> nn.GroupNorm:
    """Group norm in 32 groups."""
    return nn.GroupNorm(32, channels, epsilon=1e-6)


class Upsample(nn.Layer):
    """Nearest doubling, then a 3 x 3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2D(channels, channels, 3, 1, 1)

    def forward(self, x):
        return conv_of_nearest2x(x, self.conv.weight, self.conv.bias)


class Downsample(nn.Layer):
    """3 x 3 convolution of stride 2, zeros only at the right and the bottom."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2D(channels, channels, 3, 2, 0)

    def forward(self, x):
        return self.conv(F.pad(x, [0, 1, 0, 1]))


class ResnetBlock(nn.Layer):
    """Norm, SiLU, convolution, twice, and a shortcut."""

    def __init__(self, channels: int, out: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = normalize(channels)
        self.conv1 = nn.Conv2D(channels, out, 3, 1, 1)
        self.norm2 = normalize(out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2D(out, out, 3, 1, 1)
        self.nin_shortcut = nn.Conv2D(channels, out, 1) if channels != out else None

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class MultiHeadAttnBlock(nn.Layer):
    """Attention over positions; the queries come from the other features when there are some.

    `head_size` is the number of heads (the reference's name).
    """

    def __init__(self, channels: int, head_size: int = 1):
        super().__init__()
        if channels % head_size:
            raise ValueError(f"restoreformer: {channels} channels cannot be split into {head_size} heads")
        self.heads = head_size
        self.att_size = channels // head_size
        self.norm1 = normalize(channels)
        self.norm2 = normalize(channels)
        self.q = nn.Conv2D(channels, channels, 1)
        self.k = nn.Conv2D(channels, channels, 1)
        self.v = nn.Conv2D(channels, channels, 1)
        self.proj_out = nn.Conv2D(channels, channels, 1)

    def forward(self, x, other=None):
        own = self.norm1(x)
        query = self.q(own if other is None else self.norm2(other))
        # (N, heads, size, positions) each
        q, k, v = (t.reshape([0, self.heads, self.att_size, -1]) for t in (query, self.k(own), self.v(own)))
        weight = F.softmax(paddle.matmul(q * self.att_size**-0.5, k, transpose_x=True), axis=-1)
        out = paddle.matmul(v, weight, transpose_y=True)
        return x + self.proj_out(out.reshape([0, -1, x.shape[2], x.shape[3]]))


class _Stage(nn.Layer):
    """A list of residual blocks and of attentions, and a resampler: the container the reference's names come from."""

    def __init__(self):
        super().__init__()
        self.block = nn.LayerList()
        self.attn = nn.LayerList()


class _Middle(nn.Layer):
    def __init__(self, channels: int, config: Config):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, config.dropout)
        self.attn_1 = MultiHeadAttnBlock(channels, config.head_size)
        self.block_2 = ResnetBlock(channels, channels, config.dropout)


class MultiHeadEncoder(nn.Layer):
    """Image -> features by name: in, block_<level>, block_<last>_atten, mid_atten, out."""

    def __init__(self, config: Config):
        super().__init__()
        self.conv_in = nn.Conv2D(config.in_channels, config.ch, 3, 1, 1)
        size, channels = config.resolution, config.ch
        self.down = nn.LayerList()
        for level, multiplier in enumerate(config.ch_mult):
            stage = _Stage()
            for _ in range(config.num_res_blocks):
                stage.block.append(ResnetBlock(channels, config.ch * multiplier, config.dropout))
                channels = config.ch * multiplier
                if size in config.attn_resolutions:
                    stage.attn.append(MultiHeadAttnBlock(channels, config.head_size))
            if level != len(config.ch_mult) - 1:
                stage.downsample = Downsample(channels)
                size //= 2
            self.down.append(stage)
        self.mid = _Middle(channels, config) if config.enable_mid else None
        self.norm_out = normalize(channels)
        self.conv_out = nn.Conv2D(channels, config.z_channels * (2 if config.double_z else 1), 3, 1, 1)

    def forward(self, image):
        features = {}
        h = features["in"] = self.conv_in(image)
        last = len(self.down) - 1
        for level, stage in enumerate(self.down):
            for index, block in enumerate(stage.block):
                h = block(h)
                if len(stage.attn):
                    h = stage.attn[index](h)
            if level != last:
                features[f"block_{level}"] = h
                h = stage.downsample(h)
        if self.mid is not None:
            h = features[f"block_{last}_atten"] = self.mid.block_1(h)
            h = features["mid_atten"] = self.mid.block_2(self.mid.attn_1(h))
        features["out"] = self.conv_out(F.silu(self.norm_out(h)))
        return features


class MultiHeadDecoderTransformer(nn.Layer):
    """Quantised features -> image, with queries from the encoder's features."""

    def __init__(self, config: Config):
        super().__init__()
        last = len(config.ch_mult) - 1
        channels = config.ch * config.ch_mult[last]
        size = config.resolution // 2**last
        self.conv_in = nn.Conv2D(config.z_channels, channels, 3, 1, 1)
        self.mid = _Middle(channels, config) if config.enable_mid else None
        stages = []
        for level in range(last, -1, -1):
            stage = _Stage()
            for _ in range(config.num_res_blocks + 1):
                stage.block.append(ResnetBlock(channels, config.ch * config.ch_mult[level], config.dropout))
                channels = config.ch * config.ch_mult[level]
                if size in config.attn_resolutions:
                    if level != last or not config.enable_mid:
                        raise ValueError("restoreformer: attention works at the smallest resolution, with enable_mid")
                    stage.attn.append(MultiHeadAttnBlock(channels, config.head_size))
            if level:
                stage.upsample = Upsample(channels)
                size *= 2
            stages.insert(0, stage)
        self.up = nn.LayerList(stages)
        self.norm_out = normalize(channels)
        self.conv_out = nn.Conv2D(channels, config.out_ch, 3, 1, 1)

    def forward(self, z, features):
        h = self.conv_in(z)
        if self.mid is not None:
            h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h), features["mid_atten"]))
        for level in range(len(self.up) - 1, -1, -1):
            stage = self.up[level]
            for index, block in enumerate(stage.block):
                h = block(h)
                if len(stage.attn):
                    h = stage.attn[index](h, features[f"block_{level}_atten"])
            if level:
                h = stage.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class VectorQuantizer(nn.Layer):
    """Replaces every feature vector by the nearest of the codebook; the gradient passes straight through."""

    def __init__(self, count: int, dimension: int, beta: float = 0.25):
        super().__init__()
        self.beta = beta
        initial = nn.initializer.Uniform(-1.0 / count, 1.0 / count)
        self.embedding = nn.Embedding(count, dimension, weight_attr=paddle.ParamAttr(initializer=initial))

    def forward(self, z):
        """(N, C, H, W) -> quantised (N, C, H, W), commitment loss, indices (N * H * W, 1)."""
        last = z.transpose([0, 2, 3, 1])
        flat = last.reshape([-1, last.shape[-1]])
        codes = self.embedding.weight
        distance = (flat**2).sum(axis=1, keepdim=True) + (codes**2).sum(axis=1) - 2 * flat @ codes.transpose([1, 0])
        indices = distance.argmin(axis=1)
        nearest = self.embedding(indices).reshape(last.shape)
        loss = ((nearest.detach() - last) ** 2).mean() + self.beta * ((nearest - last.detach()) ** 2).mean()
        quantised = last + (nearest - last).detach()
        return quantised.transpose([0, 3, 1, 2]), loss, indices.unsqueeze(1)


class RestoreFormer(nn.Layer):
    """Degraded face -> restored face."""

    def __init__(self, config: Config):
        super().__init__()
        self.encoder = MultiHeadEncoder(config)
        self.decoder = MultiHeadDecoderTransformer(config)
        self.quantize = VectorQuantizer(config.n_embed, config.embed_dim)
        self.quant_conv = nn.Conv2D(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2D(config.embed_dim, config.z_channels, 1)
        fixed: list[nn.Layer] = [self.encoder] if config.fix_encoder else []
        if config.fix_decoder:
            fixed += [self.decoder, self.post_quant_conv, self.quantize]
        elif config.fix_codebook:
            fixed.append(self.quantize)
        for layer in fixed:
            for parameter in layer.parameters():
                parameter.stop_gradient = True

    def encode(self, image):
        """Image -> quantised codes, commitment loss, code indices, the encoder's features by name."""
        features = self.encoder(image)
        quantised, loss, indices = self.quantize(self.quant_conv(features["out"]))
        return quantised, loss, indices, features

    def decode(self, quantised, features):
        """Codes and encoder features -> image."""
        return self.decoder(self.post_quant_conv(quantised), features)

    def forward(self, lq, **unused):
        """(N, 3, S, S) RGB in [-1, 1] -> (image of the same shape, None); other restorers' options are ignored."""
        quantised, _, _, features = self.encode(lq)
        return self.decode(quantised, features), None


def build(config: Config) -> RestoreFormer:
    """The network of a configuration."""
    return RestoreFormer(config)
