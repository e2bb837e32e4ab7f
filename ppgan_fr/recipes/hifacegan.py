"""HiFaceGAN's training: conditional least-squares GAN, feature matching and VGG19, with two learning rates.

Paper: Yang et al., "HiFaceGAN: Face Renovation via Collaborative Suppression and Replenishment", ACM MM 2020; the step
is pix2pixHD's (Wang et al., CVPR 2018). Described from the behaviour of Lotayou/Face-Renovation at d7996608; no line
comes from there.

Per step: the generator's loss and step; then the discriminator's, on a fresh picture of the updated generator. Both
networks stay in training mode, so spectral norms and batch statistics of the generator advance twice per step.
Pictures of a batch come in [-1, 1] and are brought to [0, 1], where this network lives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from pydantic import Field

from ppgan_fr import losses
from ppgan_fr.archs import vgg19
from ppgan_fr.archs.hifacegan import LAST_PHASE
from ppgan_fr.config import Arch, Frozen
from ppgan_fr.config import build as build_network
from ppgan_fr.recipes._frozen import frozen
from ppgan_fr.train.recipe import Batch, Optim, Phase, Recipe, Schedule, Terms

if TYPE_CHECKING:
    from ppgan_fr.config import Config as RunConfig

VGG_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
VGG_SMALLEST = 64
"""Pictures with a shorter side below this are not compared by VGG19."""
GAN_FAMILY = {"ls": "lsgan", "hinge": "hinge", "original": "vanilla", "w": "wgan"}

Weight = Annotated[float, Field(ge=0)]


class Config(Frozen):
    """The defaults are the released training configuration; a step is a batch."""

    name: Literal["hifacegan"] = "hifacegan"
    discriminator: Arch = Field(default_factory=lambda: {"arch": "patch_discriminator"})
    gan_mode: Literal["ls", "hinge", "original", "w"] = "ls"
    lambda_gan: Weight = 1.0
    lambda_feat: Weight = 10.0
    """Feature matching."""
    lambda_vgg: Weight = 10.0
    """VGG19, fed with [0, 1] as it is; 0: not used and not needed."""
    lambda_pixel: Weight = 0.0
    """l1 of pixels, which the original does not have."""
    vgg: vgg19.Config = vgg19.Config(layers=VGG_LAYERS, preprocess="raw")
    vgg_weights: str | None = None
    """VGG19 trained on ImageNet; `random` for smoke tests."""
    optim_g: Optim = Optim(lr=1e-4, betas=(0.0, 0.9))
    """Half of the nominal rate of 2e-4, the discriminator's is twice the nominal one (TTUR)."""
    optim_d: Optim = Optim(lr=4e-4, betas=(0.0, 0.9))
    schedule: Schedule = Schedule(decay_from=150_000, decay_to=250_000, every=5_000)
    """30 epochs of 5000 steps, then 20 along a line to zero that moves once per epoch."""
    train_phase: Annotated[int, Field(ge=0, le=LAST_PHASE)] = LAST_PHASE
    """Where progressive training starts: the pictures are 2 ** (3 - train_phase) times smaller than the input."""
    max_train_phase: Annotated[int, Field(ge=0, le=LAST_PHASE)] = LAST_PHASE
    steps_per_epoch: Annotated[int, Field(gt=0)] = 5_000
    """After epochs 4, 9, 14, ... the phase is raised by one."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the generator, which the original does not have."""

    def check(self, run: RunConfig) -> None:
        """Relations to other sections of the configuration.

        Raises:
            ValueError: what does not fit.
        """
        arch = getattr(run.generator, "arch", None)
        if arch != "hifacegan":
            raise ValueError(f"recipe hifacegan trains the generator hifacegan, got {arch!r}")
        if run.data is not None and run.data.size % 32:
            raise ValueError(f"data.size must be a multiple of 32 for hifacegan, got {run.data.size}")


@dataclass(frozen=True)
class Sample:
    """What the phases of a step share."""

    lq: Tensor
    """(N, 3, H, W) RGB in [0, 1]."""
    gt: Tensor
    """(N, 3, H, W) RGB in [0, 1]."""
    fake: Tensor
    """(N, 3, h, w), the generator before its step, with gradients."""
    train_phase: int
    generator: nn.Layer


def build(config: Config, generator: nn.Layer) -> Recipe:
    """Networks, phases and schedule of a training.

    Args:
        config: what is minimised.
        generator: `archs.hifacegan`; its `forward` takes `train_phase`.

    Raises:
        RecipeError, WeightsError: VGG19 is wanted, but its weights are missing or do not fit.
    """
    discriminator = build_network(config.discriminator)
    perceptual = _perceptual(config)
    real_loss, fake_loss, generator_loss = losses.GAN_LOSSES[GAN_FAMILY[config.gan_mode]]

    def sample(batch: Batch, step: int) -> Sample:
        lq, gt = (batch[key] * 0.5 + 0.5 for key in ("lq", "gt"))
        train_phase = train_phase_at(config, step)
        return Sample(lq, gt, generator(lq, train_phase=train_phase)[0], train_phase, generator)

    def generator_terms(s: Sample) -> Terms:
        lq, gt = at_size_of(s.fake, s.lq), at_size_of(s.fake, s.gt)
        judged_fake, judged_real = judge(discriminator, lq, s.fake, gt)
        terms = {}
        if config.lambda_gan:
            terms["gan"] = config.lambda_gan * losses.multiscale(generator_loss, judged_fake)
        if config.lambda_feat:
            terms["feat"] = config.lambda_feat * losses.feature_matching(judged_fake, judged_real)
        if perceptual is not None and min(s.fake.shape[2:]) >= VGG_SMALLEST:
            terms["vgg"] = config.lambda_vgg * perceptual(s.fake, gt, style=False)[0]
        if config.lambda_pixel:
            terms["pixel"] = config.lambda_pixel * losses.l1(s.fake, gt)
        return terms

    def discriminator_terms(s: Sample) -> Terms:
        with paddle.no_grad():
            fake = s.generator(s.lq, train_phase=s.train_phase)[0]
        lq, gt = at_size_of(fake, s.lq), at_size_of(fake, s.gt)
        judged_fake, judged_real = judge(discriminator, lq, fake.detach(), gt)
        return {
            "fake": losses.multiscale(fake_loss, judged_fake),
            "real": losses.multiscale(real_loss, judged_real),
        }

    return Recipe(
        networks={"generator": generator, "discriminator": discriminator},
        phases=[
            Phase(name="g", network=generator, losses=generator_terms, optim=config.optim_g),
            Phase(name="d", network=discriminator, losses=discriminator_terms, optim=config.optim_d),
        ],
        sample=sample,
        schedule=config.schedule,
        ema=config.ema,
        pictures=_pictures,
    )


def train_phase_at(config: Config, step: int) -> int:
    """The phase of progressive training at `step` (the first step is 1)."""
    finished = (step - 1) // config.steps_per_epoch
    raised = sum(epoch % 5 == 4 for epoch in range(1, finished + 1))
    return min(config.train_phase + raised, max(config.max_train_phase, config.train_phase))


def judge(
    discriminator: Callable[[Tensor], list[list[Tensor]]], lq: Tensor, fake: Tensor, real: Tensor
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """One forward pass of the discriminator over fake and real, each beside the degraded picture.

    Returns:
        per scale the features and the prediction, for the fake and for the real half of the batch.
    """
    pairs = paddle.concat([paddle.concat([lq, fake], axis=1), paddle.concat([lq, real], axis=1)], axis=0)
    answers = discriminator(pairs)
    count = fake.shape[0]
    return (
        [[features[:count] for features in scale] for scale in answers],
        [[features[count:] for features in scale] for scale in answers],
    )


def at_size_of(picture: Tensor, other: Tensor) -> Tensor:
    """`other`, resized by taking nearest pixels when `picture` has another size."""
    if picture.shape[2:] == other.shape[2:]:
        return other
    return F.interpolate(other, size=picture.shape[2:], mode="nearest")


def _pictures(s: Sample) -> dict[str, Tensor]:
    named = {"lq": at_size_of(s.fake, s.lq), "output": s.fake.detach(), "gt": at_size_of(s.fake, s.gt)}
    return {name: paddle.clip(picture, 0, 1) * 2 - 1 for name, picture in named.items()}


def _perceptual(config: Config) -> losses.Perceptual | None:
    if not config.lambda_vgg:
        return None
    hint = "give VGG19's weights or set recipe.lambda_vgg=0"
    network = frozen(config.vgg, config.vgg_weights, "recipe.vgg_weights", hint)
    return losses.Perceptual(
        network, dict(zip(config.vgg.layers, VGG_WEIGHTS, strict=False))
    )  # fewer layers: a cheaper judge
