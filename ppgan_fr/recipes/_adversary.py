"""What recipes with a StyleGAN2 discriminator share: its losses, lazy R1 and the optimizers of lazy phases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paddle import Tensor, nn

from ppgan_fr import losses
from ppgan_fr.train.recipe import Optim, Phase, Terms


def discriminator_phase(
    network: nn.Layer,
    pictures: Callable[[Any], tuple[Tensor, Tensor]],
    optim: Optim,
    r1: float,
    every: int,
    scale_lr: bool = False,
) -> Phase:
    """Logistic loss softplus(-D(real)) + softplus(D(fake)), and R1 at every so many steps (StyleGAN2, section 4.2).

    Args:
        network: the discriminator.
        pictures: the sample of a step -> (fake, real), both (N, 3, S, S); no gradient reaches the generator.
        optim: its optimizer, before the correction for laziness.
        r1: weight of R1; 0 leaves it out.
        every: steps from one R1 to the next.
        scale_lr: see `lazy_optim`.
    """

    def terms(sample: Any) -> Terms:
        fake, real = pictures(sample)
        fake, real = network(fake.detach()), network(real)
        return {
            "gan": losses.softplus_real(real) + losses.softplus_fake(fake),
            "real_score": real.detach().mean(),
            "fake_score": fake.detach().mean(),
        }

    def lazy(sample: Any) -> Terms:
        real = sample.gt.detach()
        real.stop_gradient = False
        return {"r1": r1 / 2 * losses.r1_penalty(network(real), real)}

    return Phase(
        name="d",
        network=network,
        losses=terms,
        lazy_losses=lazy if r1 else None,
        lazy_every=every,
        optim=lazy_optim(optim, every, scale_lr),
    )


def lazy_optim(optim: Optim, every: int, scale_lr: bool = False) -> Optim:
    """The optimizer of a phase with a lazy term: betas ** c, c = every / (every + 1) (StyleGAN2, appendix B).

    Args:
        optim: without the correction.
        every: steps from one lazy term to the next.
        scale_lr: the learning rate times c as well, as in StyleGAN2's own training; GFP-GAN leaves it.
    """
    part = every / (every + 1)
    beta1, beta2 = (beta**part for beta in optim.betas)
    return optim.model_copy(update={"betas": (beta1, beta2), "lr": optim.lr * part if scale_lr else optim.lr})
