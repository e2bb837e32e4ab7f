"""Loss functions, named by their formula; networks are handed in.

Every function takes and returns float tensors; scalars are 0-d. Generator-side GAN losses are the `*_real` function of
the family applied to the prediction for the fake (and `hinge_generator` for the hinge family).
Sources: BasicSR `losses` (Apache-2.0), GFP-GAN `gfpgan_model.py` (Apache-2.0), pix2pixHD / SPADE (least squares,
feature matching), read for their formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.vision import ops

Reduction = Literal["mean", "sum", "none"]

# ---------------------------------------------------------------- GAN losses


def softplus_real(prediction: Tensor) -> Tensor:
    """Mean log(1 + exp(-D)): logistic loss for "this is real" (StyleGAN2; also its non-saturating generator loss)."""
    return F.softplus(-prediction).mean()


def softplus_fake(prediction: Tensor) -> Tensor:
    """Mean log(1 + exp(D)): logistic loss for "this is fake"."""
    return F.softplus(prediction).mean()


def bce_real(prediction: Tensor) -> Tensor:
    """Binary cross-entropy of logits against 1; equals `softplus_real`."""
    return F.binary_cross_entropy_with_logits(prediction, paddle.ones_like(prediction))


def bce_fake(prediction: Tensor) -> Tensor:
    """Binary cross-entropy of logits against 0; equals `softplus_fake`."""
    return F.binary_cross_entropy_with_logits(prediction, paddle.zeros_like(prediction))


def lsgan_real(prediction: Tensor) -> Tensor:
    """Mean (D - 1)^2, least squares."""
    return ((prediction - 1.0) ** 2).mean()


def lsgan_fake(prediction: Tensor) -> Tensor:
    """Mean D^2, least squares."""
    return (prediction**2).mean()


def wgan_real(prediction: Tensor) -> Tensor:
    """-mean D."""
    return -prediction.mean()


def wgan_fake(prediction: Tensor) -> Tensor:
    """Mean D."""
    return prediction.mean()


def hinge_real(prediction: Tensor) -> Tensor:
    """Mean max(0, 1 - D), for the discriminator."""
    return F.relu(1.0 - prediction).mean()


def hinge_fake(prediction: Tensor) -> Tensor:
    """Mean max(0, 1 + D), for the discriminator."""
    return F.relu(1.0 + prediction).mean()


def hinge_generator(prediction: Tensor) -> Tensor:
    """-mean D, for the generator."""
    return -prediction.mean()


GAN_LOSSES: dict[str, tuple[Callable, Callable, Callable]] = {
    "vanilla": (bce_real, bce_fake, bce_real),
    "lsgan": (lsgan_real, lsgan_fake, lsgan_real),
    "wgan": (wgan_real, wgan_fake, wgan_real),
    "wgan_softplus": (softplus_real, softplus_fake, softplus_real),
    "hinge": (hinge_real, hinge_fake, hinge_generator),
}
"""Reference name of a family -> (discriminator on real, discriminator on fake, generator)."""


def gan_loss(prediction: Tensor, kind: str, role: Literal["real", "fake", "generator"]) -> Tensor:
    """The loss of a family of `GAN_LOSSES`, for the discriminator on real or fake, or for the generator."""
    if kind not in GAN_LOSSES:
        raise ValueError(f"unknown GAN loss '{kind}'; there are {', '.join(GAN_LOSSES)}")
    return GAN_LOSSES[kind][("real", "fake", "generator").index(role)](prediction)


def multiscale(loss: Callable[[Tensor], Tensor], predictions: Sequence) -> Tensor:
    """Mean of a GAN loss over scales; of a scale given as a list of features only the last entry counts."""
    terms = [loss(p[-1] if isinstance(p, (list, tuple)) else p) for p in predictions]
    return sum(terms[1:], terms[0]) / len(terms)


# ---------------------------------------------------------------- regularisers with second derivatives


def r1_penalty(prediction: Tensor, real: Tensor) -> Tensor:
    """Mean over the batch of |dD/dx|^2 at real images (Mescheder 2018, equation 9).

    Args:
        prediction: D(real), computed with `real.stop_gradient = False`.
        real: (N, C, H, W).
    """
    (gradient,) = paddle.grad(prediction.sum(), real, create_graph=True)
    return (gradient**2).reshape([gradient.shape[0], -1]).sum(axis=1).mean()


def path_length(
    image: Tensor, latents: Tensor, mean_length: Tensor | float, decay: float = 0.01, noise: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Path-length regulariser of StyleGAN2: mean (|J^T y| - a)^2, y normal noise, a the running mean of the lengths.

    Args:
        image: (N, C, H, W), a function of `latents`.
        latents: (N, layers, style).
        mean_length: a before this step.
        decay: weight of the new lengths in the running mean.
        noise: y before its division by sqrt(H W); drawn when not given.

    Returns:
        penalty, mean length of this batch (detached), new running mean (detached).
    """
    noise = paddle.randn(image.shape, image.dtype) if noise is None else noise
    noise = noise / (image.shape[2] * image.shape[3]) ** 0.5
    (gradient,) = paddle.grad((image * noise).sum(), latents, create_graph=True)
    lengths = paddle.sqrt((gradient**2).sum(axis=2).mean(axis=1))
    mean = mean_length + decay * (lengths.mean() - mean_length)
    return ((lengths - mean) ** 2).mean(), lengths.mean().detach(), mean.detach()


# ---------------------------------------------------------------- pixels


def _reduce(value: Tensor, weight: Tensor | None, reduction: Reduction) -> Tensor:
    """Weighted reduction as in BasicSR: "mean" with a weight divides by the sum of the weight over all channels."""
    if weight is not None:
        value = value * weight
    if reduction == "none":
        return value
    if reduction == "sum":
        return value.sum()
    if weight is None:
        return value.mean()
    total = weight.sum() if weight.shape[1] > 1 else weight.sum() * value.shape[1]
    return value.sum() / total


def l1(prediction: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """|p - t|."""
    return _reduce(paddle.abs(prediction - target), weight, reduction)


def mse(prediction: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """(p - t)^2."""
    return _reduce((prediction - target) ** 2, weight, reduction)


def charbonnier(
    prediction: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    eps: float = 1e-12,
) -> Tensor:
    """sqrt((p - t)^2 + eps)."""
    return _reduce(paddle.sqrt((prediction - target) ** 2 + eps), weight, reduction)


def total_variation(image: Tensor, weight: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """|x[i] - x[i+1]| along width plus along height, each reduced on its own."""
    down = None if weight is None else weight[:, :, :-1, :]
    right = None if weight is None else weight[:, :, :, :-1]
    vertical = l1(image[:, :, :-1, :], image[:, :, 1:, :], down, reduction)
    return l1(image[:, :, :, :-1], image[:, :, :, 1:], right, reduction) + vertical


def pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """The image and its bilinear halvings, coarse to fine, `levels` in all."""
    out = [image]
    for _ in range(levels - 1):
        # Halving bilinearly without aligned corners samples exactly between two pixels: it is a mean of 2 x 2.
        out.insert(0, F.avg_pool2d(out[0], 2))
    return out


def pyramid_loss(images: Sequence[Tensor], target: Tensor) -> list[Tensor]:
    """l1 of each coarse-to-fine image against the level of the target's pyramid with its size."""
    return [l1(image, level) for image, level in zip(images, pyramid(target, len(images)))]


# ---------------------------------------------------------------- features


def gram(features: Tensor) -> Tensor:
    """(N, C, H, W) -> Gram matrices (N, C, C), divided by C H W."""
    n, c, h, w = features.shape
    flat = features.reshape([n, c, h * w])
    return paddle.bmm(flat, flat.transpose([0, 2, 1])) / (c * h * w)


def feature_matching(fake: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean over scales of the sum of l1 between features; the last entry of a scale, its prediction, is left out."""
    total = None
    for fake_scale, real_scale in zip(fake, real):
        for a, b in zip(fake_scale[:-1], real_scale[:-1]):
            term = l1(a, b.detach())
            total = term if total is None else total + term
    if total is None:
        raise ValueError("feature matching needs at least one feature beside the prediction")
    return total / len(fake)


def component_style(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Style loss of GFP-GAN's component discriminators: l1 of Gram matrices on two levels, weights 0.5 and 1."""
    return 0.5 * l1(gram(fake[0]), gram(real[0].detach())) + l1(gram(fake[1]), gram(real[1].detach()))


class Perceptual(nn.Layer):
    """Perceptual and style loss on the features of a frozen network.

    Args:
        network: image -> {layer: features}, for example `archs.vgg19` built with these layers.
        layer_weights: layer name -> weight, in both losses.
        criterion: "l1", "l2" (mean) or "fro" (Frobenius norm of the difference).
    """

    def __init__(
        self, network: nn.Layer, layer_weights: Mapping[str, float], criterion: Literal["l1", "l2", "fro"] = "l1"
    ):
        super().__init__()
        if criterion not in ("l1", "l2", "fro"):
            raise ValueError(f"unknown perceptual criterion '{criterion}'; there are l1, l2, fro")
        self.network = network
        self.layer_weights = dict(layer_weights)
        self.criterion = criterion

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The criterion between two features."""
        if self.criterion == "l1":
            return l1(a, b)
        if self.criterion == "l2":
            return mse(a, b)
        return paddle.sqrt(((a - b) ** 2).sum())

    def forward(self, image: Tensor, target: Tensor, style: bool = True) -> tuple[Tensor, Tensor | None]:
        """(content loss, style loss), both unweighted; the style loss is None when it is not asked for."""
        got = self.network(image)
        with paddle.no_grad():
            wanted = self.network(target.detach())
        content = sum(self.distance(got[k], wanted[k]) * w for k, w in self.layer_weights.items())
        if not style:
            return content, None
        return content, sum(self.distance(gram(got[k]), gram(wanted[k])) * w for k, w in self.layer_weights.items())


# ---------------------------------------------------------------- faces


def gray_resize(image: Tensor, size: int = 128) -> Tensor:
    """(N, 3, H, W) RGB -> luminance (N, 1, size, size), bilinear without antialiasing: the input of ArcFace-R18."""
    gray = 0.2989 * image[:, 0:1] + 0.5870 * image[:, 1:2] + 0.1140 * image[:, 2:3]
    return F.interpolate(gray, size=[size, size], mode="bilinear", align_corners=False)


class Identity(nn.Layer):
    """l1 between the identity features of two images (GFP-GAN's identity loss).

    Args:
        network: gray (N, 1, size, size) in [-1, 1] -> (N, features); frozen.
        size: input size of the network.
    """

    def __init__(self, network: nn.Layer, size: int = 128):
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Distance of two (N, 3, H, W) RGB batches in [-1, 1]; the target gets no gradient."""
        with paddle.no_grad():
            wanted = self.network(gray_resize(target, self.size))
        return l1(self.network(gray_resize(image, self.size)), wanted.detach())


def roi_align(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crops one box per image, bilinear, as torchvision's `roi_align` with aligned=False and adaptive samples.

    Args:
        image: (N, C, H, W).
        boxes: (N, 4) x0, y0, x1, y1 in pixels; they may reach outside (zeros there, beyond one pixel).
        size: side of the result.

    Returns:
        (N, C, size, size).
    """
    count = paddle.ones([image.shape[0]], dtype="int32")
    return ops.roi_align(
        image, boxes.astype(image.dtype), count, size, spatial_scale=1.0, sampling_ratio=-1, aligned=False
    )


def crop_components(
    image: Tensor, left_eye: Tensor, right_eye: Tensor, mouth: Tensor, eye_size: int = 80, mouth_size: int = 120
) -> tuple[Tensor, Tensor, Tensor]:
    """Left eyes, right eyes and mouths of a batch; the sizes are those at 512 pixels."""
    return (
        roi_align(image, left_eye, eye_size),
        roi_align(image, right_eye, eye_size),
        roi_align(image, mouth, mouth_size),
    )
