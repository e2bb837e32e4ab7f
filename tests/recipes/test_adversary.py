"""What recipes with a StyleGAN2 discriminator share."""

from __future__ import annotations

from ppgan_fr.recipes._adversary import lazy_optim
from ppgan_fr.train.recipe import Optim


def test_betas_are_scaled_and_rates_only_on_request():
    optim = Optim(lr=1.0, betas=(0.0, 0.99))
    assert lazy_optim(optim, 4).lr == 1.0
    assert lazy_optim(optim, 4, scale_lr=True).lr == 0.8
    assert lazy_optim(optim, 4, scale_lr=True).betas == (0.0, 0.99**0.8)
