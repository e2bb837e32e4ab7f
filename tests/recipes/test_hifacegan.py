from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from ppgan_fr.archs import hifacegan as arch
from ppgan_fr.recipes import hifacegan as recipe
from ppgan_fr.train.recipe import lr_at
from ppgan_fr.train.step import Stepper


def config(**options) -> recipe.Config:
    options = {"lambda_vgg": 0, **options}
    return recipe.Config(discriminator={"arch": "patch_discriminator", "ndf": 4}, **options)


def built(**options):
    paddle.seed(0)
    generator = arch.build(arch.Config(variant="spade", ngf=2))
    made = recipe.build(config(**options), generator)
    for network in made.networks.values():
        network.train()
    return made


def batch(size: int = 32) -> dict[str, paddle.Tensor]:
    rng = np.random.default_rng(0)
    return {key: paddle.to_tensor(rng.uniform(-1, 1, (2, 3, size, size)).astype("float32")) for key in ("lq", "gt")}


def test_pictures_are_brought_to_zero_to_one():
    given = batch()
    sample = built().sample(given, 1)
    np.testing.assert_allclose(sample.gt.numpy(), (given["gt"].numpy() + 1) / 2, atol=1e-6)
    assert sample.lq.min() >= 0
    assert sample.lq.max() <= 1


def test_a_step_learns_in_both_phases_and_says_every_term():
    made = built(lambda_pixel=1)
    before = {n: {k: v.numpy().copy() for k, v in net.state_dict().items()} for n, net in made.networks.items()}
    said = Stepper(made).step([batch()], 1)
    assert set(said) == {"g/gan", "g/feat", "g/pixel", "d/fake", "d/real"}
    assert all(np.isfinite(float(value)) for value in said.values())
    for name, network in made.networks.items():
        assert any((v.numpy() != before[name][k]).any() for k, v in network.named_parameters())


def test_the_discriminator_sees_a_fresh_picture_of_the_generator():
    made = built()
    sample = made.sample(batch(), 1)
    seen = made.networks["generator"].head_0.conv_0.weight_u.numpy().copy()
    made.phases[1].losses(sample)
    assert (made.networks["generator"].head_0.conv_0.weight_u.numpy() != seen).any()


def test_terms_of_weight_zero_are_not_computed():
    made = built(lambda_gan=0, lambda_feat=0, lambda_pixel=2)
    sample = made.sample(batch(), 1)
    terms = made.phases[0].losses(sample)
    assert set(terms) == {"pixel"}
    np.testing.assert_allclose(float(terms["pixel"]), 2 * float((sample.fake - sample.gt).abs().mean()), rtol=1e-5)


def test_vgg_compares_only_pictures_of_at_least_64_pixels():
    vgg = {"arch": "vgg19", "layers": recipe.VGG_LAYERS, "preprocess": "raw", "width": 1 / 32}
    made = built(lambda_vgg=10, vgg=vgg, vgg_weights="random")
    assert "vgg" not in made.phases[0].losses(made.sample(batch(32), 1))
    assert "vgg" in made.phases[0].losses(made.sample(batch(64), 1))


def test_vgg_without_weights_is_an_error_that_names_the_key():
    with pytest.raises(ValueError, match="recipe.vgg_weights: missing"):
        built(lambda_vgg=10)


@pytest.mark.parametrize("phase", [0, 2])
def test_an_earlier_phase_compares_smaller_pictures(phase):
    made = built(train_phase=phase, max_train_phase=phase)
    sample = made.sample(batch(64), 1)
    assert list(sample.fake.shape[2:]) == [8 * 2**phase] * 2
    assert set(made.phases[0].losses(sample)) == {"gan", "feat"}
    assert set(made.phases[1].losses(sample)) == {"fake", "real"}
    pictures = made.pictures(sample)
    assert {tuple(picture.shape) for picture in pictures.values()} == {(2, 3, 8 * 2**phase, 8 * 2**phase)}


def test_the_phase_rises_after_every_fourth_and_ninth_epoch():
    progressive = config(train_phase=1, steps_per_epoch=10)
    assert [recipe.train_phase_at(progressive, step) for step in (1, 40, 41, 90, 91, 500)] == [1, 1, 2, 2, 3, 3]
    limited = config(train_phase=0, max_train_phase=1, steps_per_epoch=10)
    assert recipe.train_phase_at(limited, 1000) == 1
    assert recipe.train_phase_at(config(), 1) == 3


def test_learning_rates_are_split_in_two_and_fall_to_zero_once_per_epoch():
    made = config()
    epochs = {1: 1e-4, 31: 1e-4, 32: 9.5e-5, 50: 5e-6}
    for epoch, rate in epochs.items():
        for step in ((epoch - 1) * 5000 + 1, epoch * 5000):
            assert lr_at(made.optim_g, made.schedule, step) == pytest.approx(rate)
            assert lr_at(made.optim_d, made.schedule, step) == pytest.approx(4 * rate)


def test_only_its_own_generator_and_sizes_it_can_halve_five_times_are_accepted():
    good = SimpleNamespace(generator=arch.Config(), data=SimpleNamespace(size=96))
    config().check(good)
    with pytest.raises(ValueError, match="trains the generator hifacegan"):
        config().check(SimpleNamespace(generator=SimpleNamespace(arch="gfpgan"), data=None))
    with pytest.raises(ValueError, match="multiple of 32"):
        config().check(SimpleNamespace(generator=arch.Config(), data=SimpleNamespace(size=100)))
