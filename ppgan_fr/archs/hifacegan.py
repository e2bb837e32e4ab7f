"""HiFaceGAN: a pyramid of content-adaptive suppression guides the replenishment of detail at every scale.

Paper: Yang et al., "HiFaceGAN: Face Renovation via Collaborative Suppression and Replenishment", ACM MM 2020 (arXiv
2005.05005). Described from the behaviour of Lotayou/Face-Renovation at d7996608 (academic use only; parts under
NVIDIA's CC BY-NC-SA); the code here is our own and no line comes from there. Parameter names are those of its
`latest_net_G.pth` files.

Variants: `hifacegan` (the paper's figure), `lipspade` (what the released weights are: every level is guided by the
degraded picture itself, only the start comes from the encoder) and `spade` (no encoder).

Differences: only `num_upsampling_layers = "normal"` exists (the others fail in the original); a size that is not a
multiple of 32 is refused instead of silently cut; the `fc` that `lipspade` carries but never uses is kept for its
checkpoints; `suppression = "correlation"` builds the encoder from the paper's own formula, which the released code
does not contain; two-source guidance also works for `hifacegan`.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from pydantic import Field, field_validator

from ppgan_fr.archs._spectral import SpectralConv2D
from ppgan_fr.config import Frozen

NEGATIVE_SLOPE = 0.2
EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.1
SPADE_HIDDEN = 128
IMPORTANCE_LIMIT = 12.0
"""Logits of local importance pooling lie in (0, 12)."""
INIT_GAIN = 0.02
WIDTHS = (1, 2, 4, 8, 16, 16)
"""Channels of the pyramid in multiples of ngf, full size first, every further one at half the size."""
REDUCTION = 32
LEVELS = 8
"""Places that take guidance: the start, head_0, G_middle_0, G_middle_1, ups.0 ... ups.3."""
LAST_PHASE = 3


class Config(Frozen):
    """Constructor arguments; the defaults are the released configuration (130 568 012 parameters)."""

    arch: Literal["hifacegan"] = "hifacegan"
    variant: Literal["hifacegan", "lipspade", "spade"] = "hifacegan"
    """`netG` of the original. The published checkpoints are `lipspade` with `ngf: 48`."""
    ngf: int = Field(64, ge=1)
    crop_size: int = Field(512, ge=REDUCTION)
    """Side of the picture that is exported and trained; the network itself takes any multiple of 32."""
    test_mode: Literal["eval", "batch_stats"] = "eval"
    """What evaluation does. `eval`: running statistics and the stored singular vectors, as `eval()` does in PyTorch.
    `batch_stats`: statistics of each picture by itself and one power iteration that is not kept; the original's test
    script, which leaves the network in training mode with batch 1, gives the same for the first picture after
    loading. Right for restoration."""
    suppression: Literal["lip", "correlation"] = "lip"
    """Encoder block: local importance pooling (all checkpoints) or the paper's correlation formula (no checkpoint)."""
    correlation_dim: int = Field(16, ge=1)
    """Length of the vectors that the correlation formula compares."""
    correlation_limit: Literal["sigmoid", "tanh", "relu"] = "sigmoid"
    """Range-limiting function of the correlation formula."""

    @field_validator("crop_size")
    @classmethod
    def _size_is_a_multiple_of_32(cls, value: int) -> int:
        if value % REDUCTION:
            raise ValueError(f"crop_size must be a multiple of {REDUCTION}, got {value}")
        return value

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of every input of `forward`, in order, without the batch."""
        return {"lq": (3, self.crop_size, self.crop_size)}

    @property
    def size(self) -> int:
        """Side of the square picture that is exported."""
        return self.crop_size

    @property
    def mean(self) -> float:
        """With `std`: a pixel p of [0, 255] enters as (p - mean) / std; the answer y comes back as y * std + mean."""
        return 0.0

    @property
    def std(self) -> float:
        """See `mean`."""
        return 255.0


def build(config: Config) -> HiFaceGAN:
    """The generator of `config`, with fresh weights (Xavier normal, gain 0.02)."""
    return HiFaceGAN(config)


class HiFaceGAN(nn.Layer):
    """Renovates a degraded face: suppression encoder, then SPADE decoder."""

    def __init__(self, config: Config):
        super().__init__()
        self.variant = config.variant
        self.per_image = config.test_mode == "batch_stats"
        nf = config.ngf
        widest = WIDTHS[-1] * nf
        self.fc = _conv(3, widest)
        if self.variant == "hifacegan":
            self.encoder = SuppressionEncoder(config)
            guides = [width * nf for width in (16, 16, 16, 8, 4, 2, 1)]
        else:
            guides = [3] * (LEVELS - 1)
        if self.variant == "lipspade":
            self.lip_encoder = StartEncoder(config)
        self.head_0 = SPADEResnetBlock(widest, widest, guides[0])
        self.G_middle_0 = SPADEResnetBlock(widest, widest, guides[1])
        self.G_middle_1 = SPADEResnetBlock(widest, widest, guides[2])
        widths = [width * nf for width in (16, 8, 4, 2, 1)]
        self.ups = nn.LayerList(
            [SPADEResnetBlock(widths[i], widths[i + 1], guides[3 + i]) for i in range(LAST_PHASE + 1)]
        )
        self.to_rgbs = nn.LayerList([_conv(width, 3) for width in widths[1:]])
        self._set_test_mode()

    def _set_test_mode(self) -> None:
        for layer in self.sublayers():
            if isinstance(layer, ParamFreeNorm):
                layer.per_image_in_eval = self.per_image
            elif isinstance(layer, SpectralConv2D):
                layer.iterate_in_eval = self.per_image

    def forward(self, lq: Tensor, train_phase: int = 3) -> tuple[Tensor]:
        """Renovates a batch.

        Args:
            lq: (N, 3, H, W) float32, RGB in [0, 1]; H and W multiples of 32.
            train_phase: 0 to 3; below 3 the decoder stops early and the picture is 2 ** (3 - train_phase) times
            smaller.

        Returns:
            the picture (N, 3, H', W'), RGB in (-1, 1), meant to lie in [0, 1]: cut what is negative, do not rescale.

        Raises:
            ValueError: H or W is no multiple of 32, or there is no such phase.
        """
        _check_size(lq)
        if self.variant == "hifacegan":
            pyramid = self.encoder(lq)
            return (self._decode(self._subsampled_start(lq), _guides_of(pyramid), train_phase),)
        return (self._decode(self._start(lq), [lq] * (LEVELS - 1), train_phase),)

    def mixed_guidance(self, first: Tensor, second: Tensor, n: int, mode: str = "progressive") -> tuple[Tensor]:
        """Renovates with two sources of guidance (Fig. 5 of the paper).

        Args:
            first: (N, 3, H, W) RGB in [0, 1], source A.
            second: source B, the same shape.
            n: which of the 8 levels (start, head_0, G_middle_0, G_middle_1, ups.0 ... ups.3), or how many.
            mode: `progressive`: the first n levels see A, the others B. `one_plug`: level n sees A, the others B.
                `one_ablate`: level n sees B, the others A.

        Returns:
            the picture, as `forward` does.

        Raises:
            ValueError: unknown mode, n is negative, or the sources differ in shape.
        """
        if first.shape != second.shape:
            raise ValueError(f"the two sources must have one shape, got {first.shape} and {second.shape}")
        _check_size(first)
        from_first = mixed_levels(n, mode)
        if self.variant == "hifacegan":
            guides_a, guides_b = (_guides_of(self.encoder(source)) for source in (first, second))
        else:
            guides_a, guides_b = [first] * (LEVELS - 1), [second] * (LEVELS - 1)
        start_source = first if from_first[0] else second
        start = self._subsampled_start(start_source) if self.variant == "hifacegan" else self._start(start_source)
        guides = [a if use_a else b for a, b, use_a in zip(guides_a, guides_b, from_first[1:], strict=True)]
        return (self._decode(start, guides, LAST_PHASE),)

    def _start(self, lq: Tensor) -> Tensor:
        return self.lip_encoder(lq) if self.variant == "lipspade" else self._subsampled_start(lq)

    def _subsampled_start(self, lq: Tensor) -> Tensor:
        return self.fc(_nearest(lq, [side // REDUCTION for side in lq.shape[2:]]))

    def _decode(self, start: Tensor, guides: list[Tensor], train_phase: int) -> Tensor:
        if not 0 <= train_phase <= LAST_PHASE:
            raise ValueError(f"train_phase must be 0 to {LAST_PHASE}, got {train_phase}")
        h = self.head_0(start, guides[0])
        h = self.G_middle_0(_doubled(h), guides[1])
        h = self.G_middle_1(h, guides[2])
        for level in range(train_phase + 1):
            h = self.ups[level](_doubled(h), guides[3 + level])
        return paddle.tanh(self.to_rgbs[train_phase](F.leaky_relu(h, NEGATIVE_SLOPE)))


def mixed_levels(n: int, mode: str) -> list[bool]:
    """Which of the 8 levels see source A under two-source guidance; see `HiFaceGAN.mixed_guidance`.

    Raises:
        ValueError: unknown mode, or n is negative.
    """
    if n < 0:
        raise ValueError(f"n must not be negative, got {n}")
    levels = range(LEVELS)
    if mode == "progressive":
        return [level < n for level in levels]
    if mode == "one_plug":
        return [level == n for level in levels]
    if mode == "one_ablate":
        return [level != n for level in levels]
    raise ValueError(f"mode must be one of progressive, one_plug, one_ablate, got {mode!r}")


def _guides_of(pyramid: list[Tensor]) -> list[Tensor]:
    """The guide of head_0, G_middle_0, G_middle_1, ups.0 ... ups.3 from a pyramid that runs from coarse to fine."""
    return [pyramid[0], pyramid[1], *pyramid[1:]]


class SuppressionEncoder(nn.Layer):
    """Six feature maps of the degraded picture, each suppressing what does not belong to the face (`encoder.*`)."""

    def __init__(self, config: Config):
        super().__init__()
        nf = config.ngf
        self.head = nn.Sequential(_conv(3, nf, bias=False), _instance_norm(nf), nn.ReLU())
        self.stages = len(WIDTHS) - 1
        for stage in range(self.stages):
            layers = _suppression_stage(config, stage)
            self.add_sublayer(f"encoder_{stage}", nn.Sequential(*layers))

    def forward(self, lq: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> [16nf at H/32, 16nf at H/16, 8nf at H/8, 4nf at H/4, 2nf at H/2, nf at H]."""
        pyramid = [self.head(lq)]
        for stage in range(self.stages):
            pyramid.append(getattr(self, f"encoder_{stage}")(pyramid[-1]))
        return pyramid[::-1]


class StartEncoder(nn.Layer):
    """The same encoder in one sequence; only its coarsest map is used (`lip_encoder.model.*` of `lipspade`)."""

    def __init__(self, config: Config):
        super().__init__()
        layers = [_conv(3, config.ngf, bias=False), _instance_norm(config.ngf), nn.ReLU()]
        for stage in range(len(WIDTHS) - 1):
            layers += _suppression_stage(config, stage)
        self.model = nn.Sequential(*layers)

    def forward(self, lq: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 16nf, H/32, W/32)."""
        return self.model(lq)


def _suppression_stage(config: Config, stage: int) -> list[nn.Layer]:
    """Suppress and halve, then an ordinary convolution. The last stage has no ReLU."""
    width, wider = WIDTHS[stage] * config.ngf, WIDTHS[stage + 1] * config.ngf
    if config.suppression == "lip":
        suppress = LocalImportancePool(width)
    else:
        suppress = CorrelationConv2D(
            width, width, embedding=config.correlation_dim, limit=config.correlation_limit, stride=2
        )
    layers = [suppress, _conv(width, wider), _instance_norm(wider)]
    return layers if stage == len(WIDTHS) - 2 else [*layers, nn.ReLU()]


class LocalImportancePool(nn.Layer):
    """Average pooling weighted by learned importance: Gao et al., "LIP: Local Importance-based Pooling", ICCV 2019."""

    def __init__(self, channels: int):
        super().__init__()
        self.logit = nn.Sequential(
            _conv(channels, channels, bias=False), InstanceNorm(channels, epsilon=EPSILON), LimitedLogit()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H/2, W/2)."""
        importance = paddle.exp(self.logit(x))
        return _pool(x * importance) / _pool(importance)


class InstanceNorm(nn.InstanceNorm2D):
    """Instance normalisation that in evaluation is made of operators every engine knows (OpenVINO lacks its own)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if self.training:
            return super().forward(x)
        out = _standardised(x)
        if self.scale is None:
            return out
        return out * self.scale.reshape([1, -1, 1, 1]) + self.bias.reshape([1, -1, 1, 1])


def _standardised(x: Tensor) -> Tensor:
    """Every channel of every picture at mean 0 and variance 1 (biased estimate)."""
    centred = x - _mean(x)
    return centred / paddle.sqrt(_mean(centred * centred) + EPSILON)


def _mean(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1). Rows first: one sum over a whole map loses digits that the importances magnify."""
    return x.mean(3, keepdim=True).mean(2, keepdim=True)


class LimitedLogit(nn.Layer):
    """12 sigmoid(x): keeps importances between 1 and e ** 12."""

    def forward(self, x: Tensor) -> Tensor:
        return IMPORTANCE_LIMIT * F.sigmoid(x)


def _pool(x: Tensor) -> Tensor:
    # What the border counts cancels in the ratio of two pools.
    return F.avg_pool2d(x, 3, stride=2, padding=1, exclusive=False)


class CorrelationConv2D(nn.Layer):
    """The paper's suppression: a convolution whose every tap is gated by how well its two positions agree.

    out_i = b + sum over j in window(i) of D[G(x_i) . G(x_j)] W_{j-i} x_j, with a small network G of 1x1 convolutions
    and a range-limiting D. There is one gate per tap and position, shared by all channels. Positions beyond the
    border are zero vectors.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        hidden: int | None = None,
        embedding: int = 16,
        limit: str = "sigmoid",
        stride: int = 1,
    ):
        super().__init__()
        hidden = hidden or in_channels
        self.kernel_size, self.stride = kernel_size, stride
        self.limit = {"sigmoid": F.sigmoid, "tanh": paddle.tanh, "relu": F.relu}[limit]
        self.embed = nn.Sequential(nn.Conv2D(in_channels, hidden, 1), nn.ReLU(), nn.Conv2D(hidden, embedding, 1))
        self.weight = self.create_parameter(
            [out_channels, in_channels, kernel_size, kernel_size],
            default_initializer=nn.initializer.XavierNormal(gain=INIT_GAIN),
        )
        self.bias = self.create_parameter([out_channels], is_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
        taps = self.kernel_size**2
        windows = self._windows(x)
        n, _, positions = windows.shape
        gated = windows.reshape([n, x.shape[1], taps, positions]) * self.gates(x).unsqueeze(1)
        out = paddle.matmul(self.weight.reshape([1, self.weight.shape[0], -1]), gated.reshape([n, -1, positions]))
        out = out + self.bias.reshape([1, -1, 1])
        height, width = ((side - 1) // self.stride + 1 for side in x.shape[2:])
        return out.reshape([n, -1, height, width])

    def gates(self, x: Tensor) -> Tensor:
        """D[G(x_i) . G(x_j)] of every position i and tap j - i: (N, kernel_size ** 2, positions)."""
        embedded = self.embed(x)
        n, dim = embedded.shape[:2]
        windows = self._windows(embedded)
        windows = windows.reshape([n, dim, self.kernel_size**2, windows.shape[-1]])
        centre = windows[:, :, self.kernel_size**2 // 2]
        return self.limit((centre.unsqueeze(2) * windows).sum(1))

    def _windows(self, x: Tensor) -> Tensor:
        return F.unfold(x, self.kernel_size, strides=self.stride, paddings=self.kernel_size // 2)


class SPADEResnetBlock(nn.Layer):
    """Two convolutions, each after a normalisation that the guide modulates, and a shortcut."""

    def __init__(self, fin: int, fout: int, guide_nc: int):
        super().__init__()
        middle = min(fin, fout)
        self.norm_0 = SPADE(fin, guide_nc)
        self.conv_0 = SpectralConv2D(fin, middle, 3, padding=1, init_gain=INIT_GAIN)
        self.norm_1 = SPADE(middle, guide_nc)
        self.conv_1 = SpectralConv2D(middle, fout, 3, padding=1, init_gain=INIT_GAIN)
        self.learned_shortcut = fin != fout
        if self.learned_shortcut:
            self.norm_s = SPADE(fin, guide_nc)
            self.conv_s = SpectralConv2D(fin, fout, 1, bias=False, init_gain=INIT_GAIN)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """(N, fin, h, w), (N, guide_nc, H, W) -> (N, fout, h, w)."""
        guide = _nearest(guide, x.shape[2:])
        dx = self.conv_0(F.leaky_relu(self.norm_0(x, guide), NEGATIVE_SLOPE))
        dx = self.conv_1(F.leaky_relu(self.norm_1(dx, guide), NEGATIVE_SLOPE))
        # The shortcut has no activation.
        shortcut = self.conv_s(self.norm_s(x, guide)) if self.learned_shortcut else x
        return shortcut + dx


class SPADE(nn.Layer):
    """Spatially adaptive denormalisation (Park et al., CVPR 2019), scaled by gamma instead of 1 + gamma, no biases."""

    def __init__(self, norm_nc: int, guide_nc: int):
        super().__init__()
        hidden = min(SPADE_HIDDEN, norm_nc)
        self.param_free_norm = ParamFreeNorm(norm_nc)
        self.mlp_shared = nn.Sequential(_conv(guide_nc, hidden), nn.ReLU())
        self.mlp_gamma = _conv(hidden, norm_nc, bias=False)
        self.mlp_beta = _conv(hidden, norm_nc, bias=False)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """(N, norm_nc, h, w) and its guide (N, guide_nc, h, w) -> (N, norm_nc, h, w)."""
        hidden = self.mlp_shared(guide)
        return self.param_free_norm(x) * self.mlp_gamma(hidden) + self.mlp_beta(hidden)


class ParamFreeNorm(nn.Layer):
    """Batch normalisation without scale and shift, with PyTorch's buffers.

    Unlike Paddle's own layer the running variance takes the unbiased estimate. `num_batches_tracked` stays 0, as in
    the original, whose layer never counts. With `per_image_in_eval`, evaluation normalises each picture by its own
    statistics.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.per_image_in_eval = False
        self.register_buffer("running_mean", paddle.zeros([channels]))
        self.register_buffer("running_var", paddle.ones([channels]))
        self.register_buffer("num_batches_tracked", paddle.zeros([], dtype="int64"))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) -> the same shape, normalised per channel."""
        if self.training:
            return self._with_batch_statistics(x)
        if self.per_image_in_eval:
            return _standardised(x)
        # Not `batch_norm`: without scale and shift OpenVINO cannot read it, and oneDNN crashes.
        mean, variance = (statistic.reshape([1, -1, 1, 1]) for statistic in (self.running_mean, self.running_var))
        return (x - mean) / paddle.sqrt(variance + EPSILON)

    def _with_batch_statistics(self, x: Tensor) -> Tensor:
        # Scratch buffers with momentum 0 receive the batch's mean and biased variance.
        mean, variance = paddle.zeros_like(self.running_mean), paddle.ones_like(self.running_var)
        out = F.batch_norm(x, mean, variance, training=True, momentum=0.0, epsilon=EPSILON)
        count = x.shape[0] * x.shape[2] * x.shape[3]
        with paddle.no_grad():
            unbiased = variance * (count / max(count - 1, 1))
            keep = 1 - BATCH_NORM_MOMENTUM
            paddle.assign(keep * self.running_mean + BATCH_NORM_MOMENTUM * mean, self.running_mean)
            paddle.assign(keep * self.running_var + BATCH_NORM_MOMENTUM * unbiased, self.running_var)
        return out


def _check_size(lq: Tensor) -> None:
    height, width = lq.shape[2:]
    if height % REDUCTION or width % REDUCTION:
        raise ValueError(f"height and width must be multiples of {REDUCTION}, got {height}x{width}")


def _conv(in_channels: int, out_channels: int, bias: bool = True) -> nn.Conv2D:
    initializer = nn.initializer.XavierNormal(gain=INIT_GAIN)
    return nn.Conv2D(
        in_channels, out_channels, 3, padding=1, weight_attr=initializer, bias_attr=None if bias else False
    )


def _instance_norm(channels: int) -> InstanceNorm:
    return InstanceNorm(channels, epsilon=EPSILON, weight_attr=False, bias_attr=False)


def _nearest(x: Tensor, size: list[int]) -> Tensor:
    """Resizes by taking source pixel floor(i * in / out)."""
    if list(x.shape[2:]) == list(size):
        return x
    (height, width), (rows, columns) = x.shape[2:], size
    if height % rows == 0 and width % columns == 0:
        # Not `interpolate`: oneDNN's takes the middle of each group of pixels instead of the first.
        return x[:, :, :: height // rows, :: width // columns]
    return F.interpolate(x, size=list(size), mode="nearest")


def _doubled(x: Tensor) -> Tensor:
    return _nearest(x, [2 * side for side in x.shape[2:]])
