"""GFP-GAN's training: pixels, pyramid, VGG19, whole-face and component GANs, identity, lazy R1, moving average.

Paper: Wang et al., "Towards Real-World Blind Face Restoration with Generative Facial Prior", CVPR 2021, section 3.4.
Read from: TencentARC/GFPGAN `gfpgan/models/gfpgan_model.py` and `options/train_gfpgan_v1.yml` (Apache-2.0).

The order of a step is the original's: generator, discriminator, component discriminators; the latter see the picture
that the generator made *before* its update. Facts kept as they are there:

- R1 is added to the same step of the discriminator every `r1_every` steps. Its betas are scaled by
  `r1_every / (r1_every + 1)`; its learning rate is not (the original computes the scaled one and does not use it).
- Real components are judged by binary cross entropy, fake ones by softplus: the same function.
- The moving average has the decay 0.5 ** (32 / 10000), whatever the batch size.

Different: the pyramid terms end after `pyramid_until` steps (the original keeps them with weight 1e-12), and components
scale with the picture below 512 pixels, where the original's integer arithmetic leaves nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import paddle
from paddle import Tensor, nn
from pydantic import Field, model_validator

from ppgan_fr import losses
from ppgan_fr.archs import vgg19
from ppgan_fr.config import Arch, Frozen
from ppgan_fr.config import build as build_network
from ppgan_fr.recipes._adversary import discriminator_phase
from ppgan_fr.recipes._frozen import identity_judge, perceptual_judge
from ppgan_fr.train.recipe import Batch, Optim, Phase, Recipe, Schedule, Terms

if TYPE_CHECKING:
    from ppgan_fr.config import Config as RunConfig

PARTS = ("left_eye", "right_eye", "mouth")
CROP_SIZES = {"left_eye": 80, "right_eye": 80, "mouth": 120}
"""Pixels, of a face of 512."""

Weight = Annotated[float, Field(ge=0)]


class LossWeights(Frozen):
    """What multiplies each loss; one of 0 is not computed."""

    pixel: Weight = 0.1
    pyramid: Weight = 1.0
    perceptual: Weight = 1.0
    style: Weight = 50.0
    gan: Weight = 0.1
    component_gan: Weight = 1.0
    component_style: Weight = 200.0
    identity: Weight = 10.0
    r1: Weight = 10.0


class Config(Frozen):
    """The defaults are the published training of GFPGANv1."""

    name: Literal["gfpgan"] = "gfpgan"
    discriminator: Arch = Field(default_factory=lambda: {"arch": "stylegan2_discriminator"})
    component_discriminator: Arch | None = Field(default_factory=lambda: {"arch": "component_discriminator"})
    """`null`: without component losses (`train_gfpgan_v1_simple.yml`)."""
    vgg: vgg19.Config = vgg19.Config()
    vgg_weights: str | None = None
    """VGG19 trained on ImageNet; `random` for smoke tests."""
    vgg_layers: dict[str, float] = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
    identity: Arch | None = Field(default_factory=lambda: {"arch": "arcface"})
    """`null`: without identity loss."""
    identity_weights: str | None = None
    loss_weights: LossWeights = LossWeights()
    pyramid_until: int = 50_000
    """Last step with the pyramid terms."""
    r1_every: Annotated[int, Field(gt=0)] = 16
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.5 ** (32 / 10_000)
    randomize_noise: bool = True
    """Fresh noise in the decoder at every step; false makes a run on several processes equal to one."""
    optim_g: Optim = Optim(lr=2e-3, betas=(0.0, 0.99))
    optim_d: Optim = Optim(lr=2e-3, betas=(0.0, 0.99))
    """Betas before they are scaled for the lazy R1."""
    optim_component: Optim = Optim(lr=2e-3, betas=(0.9, 0.99))
    schedule: Schedule = Schedule(milestones=(600_000, 700_000), factor=0.5)

    @model_validator(mode="after")
    def _layers_exist(self) -> Config:
        missing = set(self.vgg_layers) - set(self.vgg.layers)
        if missing:
            raise ValueError(f"vgg_layers: {', '.join(sorted(missing))} are not among vgg.layers")
        return self

    def check(self, run: RunConfig) -> None:
        """Relations to other sections of the configuration.

        Raises:
            ValueError: what does not fit.
        """
        size, data = getattr(run.generator, "out_size", None), run.data
        if size != getattr(self.discriminator, "out_size", size):
            raise ValueError(f"recipe.discriminator.out_size: the generator makes {size} pixels")
        if data is None:
            return
        if size is not None and data.size != size:
            raise ValueError(f"data.size: the generator takes {size} pixels, got {data.size}")
        if self.component_discriminator is not None and data.component_boxes is None:
            raise ValueError(
                "data.component_boxes: missing, the component losses need it (or component_discriminator=null)"
            )


@dataclass(frozen=True)
class Sample:
    """What the phases of a step share."""

    lq: Tensor
    """(N, 3, S, S) RGB in [-1, 1]."""
    gt: Tensor
    image: Tensor
    """The generator's answer before its step, with gradients."""
    out_rgbs: list[Tensor]
    """The answers at 8, 16, ..., S pixels."""
    crops: dict[str, tuple[Tensor, Tensor]]
    """Component -> (of the answer, of the target)."""
    step: int


def build(config: Config, generator: nn.Layer) -> Recipe:
    """Networks, phases and schedule of the training.

    Args:
        config: what is minimised.
        generator: `archs.gfpgan`, or another whose forward takes `randomize_noise` and gives (image, out_rgbs).

    Raises:
        RecipeError, WeightsError: weights of VGG19 or ArcFace are missing or do not fit.
    """
    w = config.loss_weights
    discriminator = build_network(config.discriminator)
    judges = _component_discriminators(config)
    perceptual, identity = perceptual_judge(config), identity_judge(config)

    def sample(batch: Batch, step: int) -> Sample:
        image, out_rgbs = generator(batch["lq"], randomize_noise=config.randomize_noise)
        crops = crop(image, batch["gt"], batch["boxes"]) if judges else {}
        return Sample(batch["lq"], batch["gt"], image, out_rgbs, crops, step)

    def generator_terms(s: Sample) -> Terms:
        terms: Terms = {}
        if w.pixel:
            terms["pixel"] = w.pixel * losses.l1(s.image, s.gt)
        if w.pyramid and s.step <= config.pyramid_until:
            for rgb, value in zip(s.out_rgbs, losses.pyramid_loss(s.out_rgbs, s.gt), strict=True):
                terms[f"pyramid_{rgb.shape[-1]}"] = w.pyramid * value
        if perceptual is not None:
            content, style = perceptual(s.image, s.gt, style=w.style > 0)
            if w.perceptual:
                terms["perceptual"] = w.perceptual * content
            if style is not None:
                terms["style"] = w.style * style
        terms["gan"] = w.gan * losses.softplus_real(discriminator(s.image))
        if judges:
            terms |= component_terms(s)
        if identity is not None:
            terms["identity"] = w.identity * identity(s.image, s.gt)
        return terms

    def component_terms(s: Sample) -> Terms:
        terms: Terms = {}
        styles = []
        for part, judge in judges.items():
            fake, real = s.crops[part]
            logits, fake_features = judge(fake)
            terms[f"gan_{part}"] = w.component_gan * losses.bce_real(logits)
            if w.component_style:
                with paddle.no_grad():
                    _, real_features = judge(real)
                styles.append(losses.component_style(fake_features, real_features))
        if styles:
            terms["component_style"] = w.component_style * sum(styles[1:], styles[0])
        return terms

    def judge_terms(part: str, judge: nn.Layer) -> Callable[[Sample], Terms]:
        def terms(s: Sample) -> Terms:
            fake, real = s.crops[part]
            return {"gan": losses.bce_real(judge(real)[0]) + losses.softplus_fake(judge(fake.detach())[0])}

        return terms

    parts = [
        Phase(name=f"d_{part}", network=judge, losses=judge_terms(part, judge), optim=config.optim_component)
        for part, judge in judges.items()
    ]
    return Recipe(
        networks={"generator": generator, "discriminator": discriminator}
        | {f"discriminator_{part}": judge for part, judge in judges.items()},
        phases=[
            Phase(name="g", network=generator, losses=generator_terms, optim=config.optim_g),
            discriminator_phase(
                discriminator, lambda s: (s.image, s.gt), config.optim_d, r1=w.r1, every=config.r1_every
            ),
            *parts,
        ],
        sample=sample,
        schedule=config.schedule,
        ema=config.ema_decay,
        pictures=lambda s: {"lq": s.lq, "output": s.image.detach(), "gt": s.gt},
        batch_keys=("lq", "gt", "boxes") if judges else ("lq", "gt"),
    )


def crop(image: Tensor, target: Tensor, boxes: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Eyes and mouth of both pictures.

    Args:
        image: (N, 3, S, S).
        target: the same shape.
        boxes: (N, 3, 4) x0, y0, x1, y1 in pixels: left eye, right eye, mouth.

    Returns:
        component -> (of the image, of the target), each (N, 3, s, s) with s = 80 (120 for the mouth) at S = 512.
    """
    crops = {}
    for number, part in enumerate(PARTS):
        size = max(round(CROP_SIZES[part] * image.shape[-1] / 512), 4)
        crops[part] = tuple(losses.roi_align(picture, boxes[:, number], size) for picture in (image, target))
    return crops


def _component_discriminators(config: Config) -> dict[str, nn.Layer]:
    w = config.loss_weights
    if config.component_discriminator is None or not (w.component_gan or w.component_style):
        return {}
    return {part: build_network(config.component_discriminator) for part in PARTS}
