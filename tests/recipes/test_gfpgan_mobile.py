"""The recipe of gfpgan_mobile: which terms a stage has, what they measure, what learns."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppgan_fr.archs import gfpgan_mobile as arch
from ppgan_fr.recipes import gfpgan_mobile as recipe
from ppgan_fr.recipes._frozen import RecipeError

SMALL_VGG = {"width": 0.0625, "preprocess": "caffe"}


@pytest.fixture
def generator():
    paddle.seed(0)
    return arch.build(arch.Config(out_size=64, narrow=0.1, num_style_feat=32))


@pytest.fixture
def batch():
    return {
        "lq": paddle.rand([2, 3, 64, 64]) * 2 - 1,
        "gt": paddle.rand([2, 3, 64, 64]) * 2 - 1,
        "latent": paddle.rand([2, 32]),
    }


def terms(built, batch):
    return built.phases[0].losses(built.sample(batch, 1))


def test_the_latent_stage_needs_no_decoder(generator, batch):
    generator.decoder = None
    found = terms(recipe.build(recipe.Config(stage="latent"), generator), batch)
    assert set(found) == {"pyramid", "latent"}


def test_the_prior_stage_has_every_term_and_all_of_them_can_learn(generator, batch):
    built = recipe.build(recipe.Config(vgg=SMALL_VGG, vgg_weights="random"), generator)
    found = terms(built, batch)
    assert set(found) == {"pyramid", "latent", "pixel", "detail", "perceptual", "style", "identity"}
    sum(found.values()).backward()
    assert generator.transform[0].scale.weight.grad is not None
    assert generator.to_bands.skip.weight.grad is not None


def test_a_perfect_picture_costs_nothing(generator, batch):
    built = recipe.build(recipe.Config(vgg=SMALL_VGG, vgg_weights="random"), generator)
    gt = batch["gt"]
    rgbs = [paddle.nn.functional.avg_pool2d(gt, 64 // size) for size in (8, 16)] + [gt]
    sample = recipe.Sample(gt, gt, rgbs, batch["latent"], batch["latent"], gt, 1)
    assert float(sum(built.phases[0].losses(sample).values())) == pytest.approx(0, abs=1e-5)


def test_identity_is_blind_to_size_but_not_to_the_face():
    identity = recipe.FaceIdentity("weights/sface.npz")
    rng = np.random.default_rng(0)
    big = paddle.to_tensor(rng.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32).repeat(32, 2).repeat(32, 3))
    other = paddle.to_tensor(rng.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32).repeat(32, 2).repeat(32, 3))
    small = paddle.nn.functional.avg_pool2d(big, 2)
    assert float(identity(small, big)) < 0.05 < float(identity(other, big))


def test_missing_vgg_weights_are_named_with_the_command_that_makes_them(generator):
    with pytest.raises(RecipeError, match="tools/third_party/vgg19.py"):
        recipe.build(recipe.Config(), generator)
