"""StyleGAN2's training, which makes the prior that GFP-GAN builds on.

Paper: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
Read from: BasicSR `basicsr/models/stylegan2_model.py` and `options/train/StyleGAN` (Apache-2.0).

A step: discriminator (logistic loss, every `r1_every` steps R1), then generator (non-saturating, every `path_every`
steps path length on a smaller batch), then the moving average. Both regularisers join the gradient of the same step.
Both optimizers have their betas scaled for that; the paper scales the learning rates too, BasicSR computes the scaled
ones and does not use them: `scale_lr` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import paddle
from paddle import Tensor, nn
from pydantic import Field

from ppgan_fr import losses
from ppgan_fr.config import Arch, Frozen
from ppgan_fr.config import build as build_network
from ppgan_fr.recipes._adversary import discriminator_phase, lazy_optim
from ppgan_fr.train.recipe import Batch, Optim, Phase, Recipe, Schedule, Terms

if TYPE_CHECKING:
    from ppgan_fr.config import Config as RunConfig

Weight = Annotated[float, Field(ge=0)]


class LossWeights(Frozen):
    """What multiplies the regularisers; 0 leaves one out."""

    r1: Weight = 10.0
    path_length: Weight = 2.0


class Config(Frozen):
    """The defaults are the training of the 256-pixel FFHQ network in BasicSR."""

    name: Literal["stylegan2"] = "stylegan2"
    discriminator: Arch = Field(default_factory=lambda: {"arch": "stylegan2_discriminator"})
    loss_weights: LossWeights = LossWeights()
    r1_every: Annotated[int, Field(gt=0)] = 16
    path_every: Annotated[int, Field(gt=0)] = 4
    path_batch_shrink: Annotated[int, Field(gt=0)] = 2
    mixing_probability: Annotated[float, Field(ge=0, le=1)] = 0.9
    scale_lr: bool = False
    """Scale the learning rates by every / (every + 1) for the lazy terms, as the paper does and BasicSR does not."""
    randomize_noise: bool = True
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.5 ** (32 / 10_000)
    optim_g: Optim = Optim(lr=2e-3, betas=(0.0, 0.99))
    """Before it is scaled for the path length; the mapping network's own factor is in the architecture (`lr_mlp`)."""
    optim_d: Optim = Optim(lr=2e-3, betas=(0.0, 0.99))
    schedule: Schedule = Schedule(milestones=(600_000,), factor=0.5)

    def check(self, run: RunConfig) -> None:
        """Relations to other sections of the configuration.

        Raises:
            ValueError: what does not fit.
        """
        size = getattr(run.generator, "out_size", None)
        if size != getattr(self.discriminator, "out_size", size):
            raise ValueError(f"recipe.discriminator.out_size: the generator makes {size} pixels")
        if run.data is not None and run.data.size != size:
            raise ValueError(f"data.size: the generator makes {size} pixels, got {run.data.size}")


class MeanLength(nn.Layer):
    """The running mean of the path lengths, kept with the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", paddle.zeros([1]))


@dataclass(frozen=True)
class Sample:
    """What the phases of a step share: the pictures, and a private source of mixing points."""

    gt: Tensor
    """(N, 3, S, S) RGB in [-1, 1]."""
    rng: np.random.Generator


def build(config: Config, generator: nn.Layer) -> Recipe:
    """Networks, phases and schedule of the training.

    Args:
        config: what is minimised.
        generator: `archs.stylegan2_generator`.
    """
    w = config.loss_weights
    discriminator, mean_length = build_network(config.discriminator), MeanLength()

    def fakes(s: Sample, count: int, latents: bool = False) -> tuple[Tensor, Tensor | None]:
        codes = [paddle.randn([count, generator.num_style_feat])]
        inject = None
        if s.rng.uniform() < config.mixing_probability:
            codes.append(paddle.randn([count, generator.num_style_feat]))
            inject = int(s.rng.integers(1, generator.num_latent))
        return generator(codes, inject_index=inject, randomize_noise=config.randomize_noise, return_latents=latents)

    def fake_and_real(s: Sample) -> tuple[Tensor, Tensor]:
        with paddle.no_grad():
            return fakes(s, s.gt.shape[0])[0], s.gt

    def generator_terms(s: Sample) -> Terms:
        image, _ = fakes(s, s.gt.shape[0])
        return {"gan": losses.softplus_real(discriminator(image))}

    def path(s: Sample) -> Terms:
        image, latents = fakes(s, max(1, s.gt.shape[0] // config.path_batch_shrink), latents=True)
        penalty, length, mean = losses.path_length(image, latents, mean_length.value)
        mean_length.value.set_value(mean.reshape([1]))
        return {"path": w.path_length * penalty, "path_length": length / config.path_every}

    return Recipe(
        networks={"generator": generator, "discriminator": discriminator, "mean_length": mean_length},
        phases=[
            discriminator_phase(
                discriminator,
                fake_and_real,
                config.optim_d,
                r1=w.r1,
                every=config.r1_every,
                scale_lr=config.scale_lr and w.r1 > 0,
            ),
            Phase(
                name="g",
                network=generator,
                losses=generator_terms,
                lazy_losses=path if w.path_length else None,
                lazy_every=config.path_every,
                optim=lazy_optim(config.optim_g, config.path_every, config.scale_lr and w.path_length > 0),
            ),
        ],
        sample=lambda batch, step: sample(batch),
        schedule=config.schedule,
        ema=config.ema_decay,
        pictures=lambda s: {"fake": fakes(s, min(4, s.gt.shape[0]))[0], "real": s.gt},
        batch_keys=("gt",),
    )


def sample(batch: Batch) -> Sample:
    """The pictures, with mixing points drawn from Paddle's generator so that they, too, follow the step."""
    return Sample(batch["gt"], np.random.default_rng(int(paddle.randint(0, 2**31 - 1, [1]).item())))
