"""Training of `gfpgan_mobile`, a recipe of our own in two stages.

Stage `latent` needs no decoder: the synthetic faces of `tools/make_faces.py` come with the style they were drawn from,
so the latent mapping is a regression, and the U-Net learns to restore at every scale (GFP-GAN's pyramid loss).
Stage `prior` draws through the frozen prior and adds what is seen: pixels, detail bands, VGG19 features and their Gram
matrices, identity. A share of the steps uses a random fidelity, so that the knob means something at every value.

Distances of features are divided by the size of the target's features, which makes the weights independent of how the
feature network was scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from pydantic import Field

from ppgan_fr import losses, weights
from ppgan_fr.archs import sface, vgg19
from ppgan_fr.archs.mobile_stylegan import haar
from ppgan_fr.config import Frozen, find_file
from ppgan_fr.recipes._frozen import RecipeError, frozen
from ppgan_fr.train.recipe import Batch, Optim, Phase, Recipe, Schedule, Terms

if TYPE_CHECKING:
    from ppgan_fr.config import Config as RunConfig

Weight = Annotated[float, Field(ge=0)]
FFHQ_512 = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Eyes, nose tip and mouth corners of a face aligned to 512 pixels."""


class LossWeights(Frozen):
    """What multiplies each loss; one of 0 is not computed."""

    pyramid: Weight = 1.0
    latent: Weight = 0.3
    pixel: Weight = 1.0
    detail: Weight = 2.0
    perceptual: Weight = 0.15
    style: Weight = 0.03
    identity: Weight = 0.3


class Config(Frozen):
    """The defaults are the training of the shipped weights."""

    name: Literal["gfpgan_mobile"] = "gfpgan_mobile"
    stage: Literal["latent", "prior"] = "prior"
    vgg: vgg19.Config = vgg19.Config()
    vgg_weights: str | None = None
    """VGG19 trained on ImageNet (`tools/third_party/vgg19.py`); `random` for smoke tests."""
    vgg_layers: dict[str, float] = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 0.5}
    identity_weights: str | None = "weights/sface.npz"
    """SFace weights; `null`: without identity loss."""
    loss_weights: LossWeights = LossWeights()
    full_fidelity: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Share of the steps at fidelity 1; the others draw it from [0, 1]."""
    crop: Annotated[int, Field(gt=0)] = 224
    """Side in pixels of the window that VGG19 sees at full size; now and then it sees the whole face at half size."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.998
    optim_g: Optim = Optim(lr=6e-4, betas=(0.9, 0.99), clip_norm=5.0)
    schedule: Schedule = Schedule(warmup=50)

    def check(self, run: RunConfig) -> None:
        """Relations to other sections of the configuration.

        Raises:
            ValueError: what does not fit.
        """
        if getattr(run.generator, "arch", None) != "gfpgan_mobile":
            raise ValueError("recipe.name: gfpgan_mobile trains the generator gfpgan_mobile")
        if self.stage == "latent" and run.data is not None and run.data.kind != "latent_pairs":
            raise ValueError("data.kind: the stage 'latent' needs latent_pairs (tools/make_faces.py)")


@dataclass(frozen=True)
class Sample:
    """What the losses of a step share."""

    gt: Tensor
    """(N, 3, S, S) RGB in [-1, 1]."""
    image: Tensor | None
    """The restored picture; None in the stage `latent`."""
    out_rgbs: list[Tensor]
    style: Tensor
    """(N, D) predicted style."""
    latent: Tensor | None
    """(N, D) the style the target was drawn from, where it is known."""
    lq: Tensor
    step: int


def build(config: Config, generator: nn.Layer) -> Recipe:
    """Networks, phase and schedule of one stage.

    Raises:
        RecipeError, WeightsError: weights of VGG19 or SFace are missing or do not fit.
    """
    w = config.loss_weights
    drawn = config.stage == "prior"
    vgg = _vgg(config) if drawn and (w.perceptual or w.style) else None
    identity = FaceIdentity(config.identity_weights) if drawn and w.identity and config.identity_weights else None

    def sample(batch: Batch, step: int) -> Sample:
        latent = batch.get("latent")
        if not drawn:
            style, _, _, out_rgbs, _ = generator.encode(batch["lq"])
            return Sample(batch["gt"], None, out_rgbs, style, latent, batch["lq"], step)
        rng = np.random.default_rng([step, 1])
        fidelity = 1.0 if rng.random() < config.full_fidelity else float(rng.random())
        image, out_rgbs, style = generator(batch["lq"], fidelity, return_latents=True)
        return Sample(batch["gt"], image, out_rgbs, style, latent, batch["lq"], step)

    def terms(s: Sample) -> Terms:
        found: Terms = {"pyramid": w.pyramid * pyramid(s.out_rgbs, s.gt)}
        if w.latent and s.latent is not None:
            found["latent"] = w.latent * losses.l1(s.style, s.latent)
        if s.image is None:
            return found
        found["pixel"] = w.pixel * losses.l1(s.image, s.gt)
        if w.detail:
            found["detail"] = w.detail * losses.l1(haar(s.image)[:, 3:], haar(s.gt)[:, 3:])
        if vgg is not None:
            fake, real = window(s.image, s.gt, config.crop, np.random.default_rng([s.step, 2]))
            content, style = relative_features(vgg, fake, real, config.vgg_layers)
            found["perceptual"], found["style"] = w.perceptual * content, w.style * style
        if identity is not None:
            found["identity"] = w.identity * identity(s.image, s.gt)
        return found

    return Recipe(
        networks={"generator": generator},
        phases=[Phase(name="g", network=generator, losses=terms, optim=config.optim_g)],
        sample=sample,
        schedule=config.schedule,
        ema=config.ema_decay,
        pictures=lambda s: {
            "lq": s.lq,
            "output": (s.out_rgbs[-1] if s.image is None else s.image).detach(),
            "gt": s.gt,
        },
        batch_keys=("lq", "gt", "latent") if config.stage == "latent" else ("lq", "gt"),
    )


def pyramid(out_rgbs: list[Tensor], gt: Tensor) -> Tensor:
    """L1 of the finest picture plus half the L1 of each coarser one to the target's area average."""
    total, target = losses.l1(out_rgbs[-1], gt), gt
    for rgb in reversed(out_rgbs[:-1]):
        target = F.avg_pool2d(target, target.shape[-1] // rgb.shape[-1])
        total = total + 0.5 * losses.l1(rgb, target)
    return total


def window(fake: Tensor, real: Tensor, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The same window of both batches: at full size around the features, or the whole face at half size (2 of 5)."""
    side = fake.shape[-1]
    if rng.random() < 0.4 or size >= side:
        return F.avg_pool2d(fake, 2), F.avg_pool2d(real, 2)
    y = int(rng.integers(side * 3 // 16, max(side * 15 // 16 - size, side * 3 // 16) + 1))
    x = int(rng.integers(side // 8, max(side * 7 // 8 - size, side // 8) + 1))
    y, x = min(y, side - size), min(x, side - size)
    return fake[:, :, y : y + size, x : x + size], real[:, :, y : y + size, x : x + size]


def relative_features(network: nn.Layer, fake: Tensor, real: Tensor, layers: dict[str, float]) -> tuple[Tensor, Tensor]:
    """Weighted distances of features and of their Gram matrices, each relative to the target's mean magnitude."""
    got = network(fake)
    with paddle.no_grad():
        wanted = network(real)
    content, style = paddle.zeros([]), paddle.zeros([])
    for name, weight in layers.items():
        x, y = got[name], wanted[name]
        scale = y.abs().mean(axis=[1, 2, 3], keepdim=True)
        content = content + weight * ((x - y).abs() / scale).mean()
        a, b = _gram(F.relu(x) / scale), _gram(F.relu(y) / scale)
        style = style + weight * (a - b).abs().mean() / b.abs().mean()
    return content, style


def _gram(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape([n, c, h * w])
    return paddle.bmm(x, x.transpose([0, 2, 1])) / (h * w)


class FaceIdentity(nn.Layer):
    """1 - cosine of the SFace embeddings of two batches of aligned faces (N, 3, S, S) in [-1, 1]."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.network = _sface(path)
        self.grid = paddle.to_tensor(similarity_grid(sface.TEMPLATE_112.astype(np.float64), FFHQ_512 / 512, 112))

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch; the target gets no gradient."""
        with paddle.no_grad():
            wanted = self.embed(target)
        return (1 - (self.embed(image) * wanted).sum(axis=1)).mean()

    def embed(self, image: Tensor) -> Tensor:
        """(N, 3, S, S) -> unit vectors (N, 128)."""
        while image.shape[-1] > 256:  # bilinear sampling of a larger picture would alias
            image = F.avg_pool2d(image, 2)
        grid = self.grid.tile([image.shape[0], 1, 1, 1])
        return F.normalize(self.network((F.grid_sample(image, grid, align_corners=False) + 1) * 127.5))


def similarity_grid(points: np.ndarray, source: np.ndarray, size: int) -> np.ndarray:
    """Sampling grid (1, size, size, 2) for `grid_sample`, by the least-squares similarity.

    It tells where each pixel of a crop of `size`, whose points lie at `points` (pixels), comes from in a picture whose
    points lie at `source` (shares of its side).
    """
    a, b = points - points.mean(0), source - source.mean(0)
    u, v = a[:, 0] + 1j * a[:, 1], b[:, 0] + 1j * b[:, 1]
    factor = (np.conj(u) * v).sum() / (np.abs(u) ** 2).sum()
    ys, xs = np.mgrid[0:size, 0:size]
    z = factor * ((xs - points[:, 0].mean()) + 1j * (ys - points[:, 1].mean()))
    grid = np.stack([z.real + source[:, 0].mean(), z.imag + source[:, 1].mean()], axis=-1)
    return (2 * grid - 1).astype(np.float32)[None]


def _vgg(config: Config) -> nn.Layer:
    hint = "python tools/third_party/vgg19.py makes it, or set the weights perceptual and style to 0"
    return frozen(config.vgg, config.vgg_weights, "recipe.vgg_weights", hint)


def _sface(path: str) -> nn.Layer:
    file = find_file(path)
    if not file.is_file():
        raise RecipeError(
            f"recipe.identity_weights: {path}: no such file; it ships with the package, or set it to null"
        )
    network = sface.build(sface.Config())
    weights.from_torch(network, sface.expand(weights.load_npz(file)))
    for parameter in network.parameters():
        parameter.stop_gradient = True
    network.eval()
    return network
