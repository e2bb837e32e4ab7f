"""Convolution under spectral normalisation, shared by HiFaceGAN's generator and its discriminator.

Formula: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018. Names and the moments
at which the state advances are those of PyTorch's `torch.nn.utils.spectral_norm` hook, so that checkpoints load and
training states agree.
"""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

EPSILON = 1e-12


class SpectralConv2D(nn.Layer):
    """A zero-padded convolution whose weight is divided by an estimate of its largest singular value.

    `weight_orig` is the trained parameter; the unit vectors `weight_u` (out_channels) and `weight_v` (in_channels k k)
    are buffers that belong to a checkpoint. While training, each forward pass advances them by one power iteration,
    also under `no_grad`. In evaluation the stored vectors are used as they are, unless `iterate_in_eval` is set: then
    every forward pass makes that one iteration but forgets it, so no result depends on what was seen before.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        init_gain: float = 0.02,
    ):
        super().__init__()
        self.stride, self.padding = stride, padding
        self.iterate_in_eval = False
        self.weight_orig = self.create_parameter(
            [out_channels, in_channels, kernel_size, kernel_size],
            default_initializer=nn.initializer.XavierNormal(gain=init_gain),
        )
        if bias:
            self.bias = self.create_parameter([out_channels], is_bias=True)
        else:
            self.bias = None
        columns = in_channels * kernel_size * kernel_size
        self.register_buffer("weight_u", F.normalize(paddle.randn([out_channels]), axis=0, epsilon=EPSILON))
        self.register_buffer("weight_v", F.normalize(paddle.randn([columns]), axis=0, epsilon=EPSILON))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        return F.conv2d(x, self.weight(), self.bias, stride=self.stride, padding=self.padding)

    def weight(self) -> Tensor:
        """The normalised weight, `weight_orig / sigma`, after one power iteration where the mode asks for it."""
        if not self.training:
            return self.weight_orig / self._sigma(*self._vectors(self.iterate_in_eval))
        with paddle.amp.auto_cast(enable=False):
            u, v = self._vectors(iterate=True)
            paddle.assign(u, self.weight_u)
            paddle.assign(v, self.weight_v)
            return self.weight_orig / self._sigma(u, v)

    def _vectors(self, iterate: bool) -> tuple[Tensor, Tensor]:
        u, v = self.weight_u, self.weight_v
        if not iterate:
            return u, v
        with paddle.no_grad():
            matrix = self._matrix()
            v = _unit(paddle.matmul(matrix, u, transpose_x=True))
            return _unit(paddle.matmul(matrix, v)), v

    def _sigma(self, u: Tensor, v: Tensor) -> Tensor:
        """Gradients reach `weight_orig` through it; `u` and `v` count as constants."""
        return (u * paddle.matmul(self._matrix(), v)).sum()

    def _matrix(self) -> Tensor:
        rows = self.weight_orig.shape[0]
        return self.weight_orig.reshape([rows, math.prod(self.weight_orig.shape[1:])])


def _unit(vector: Tensor) -> Tensor:
    return vector / paddle.clip((vector * vector).sum().sqrt(), min=EPSILON)
