"""GFP-GAN's recipe: which terms there are, when, and who learns from them."""

import numpy as np
import paddle
import pytest

from ppgan_fr.archs import gfpgan
from ppgan_fr.config import ConfigError, make_config
from ppgan_fr.recipes import gfpgan as recipe_gfpgan
from ppgan_fr.recipes._frozen import RecipeError
from ppgan_fr.train.step import Stepper

SIZE = 32


@pytest.fixture(scope="module")
def generator():
    paddle.seed(0)
    config = gfpgan.Config(variant="original", out_size=SIZE, num_style_feat=8, channel_multiplier=1, narrow=1 / 16)
    return gfpgan.build(config)


def config(**changes):
    small = {
        "discriminator": {"arch": "stylegan2_discriminator", "out_size": SIZE, "narrow": 1 / 32},
        "vgg": {"arch": "vgg19", "width": 0.0625},
        "vgg_weights": "random",
        "identity": None,
        "r1_every": 2,
        "pyramid_until": 1,
        "randomize_noise": False,
    }
    return recipe_gfpgan.Config(**(small | changes))


def batch(count=2):
    rng = np.random.default_rng(0)
    pictures = {key: rng.uniform(-1, 1, (count, 3, SIZE, SIZE)).astype(np.float32) for key in ("lq", "gt")}
    boxes = np.tile(np.array([[4, 8, 12, 16], [20, 8, 28, 16], [9, 20, 23, 30]], np.float32), (count, 1, 1))
    return {key: paddle.to_tensor(value) for key, value in (pictures | {"boxes": boxes}).items()}


def names(recipe, phase, step):
    sample = recipe.sample(batch(), step)
    return set(next(p for p in recipe.phases if p.name == phase).losses(sample))


def test_every_published_term_is_there(generator):
    recipe = recipe_gfpgan.build(config(), generator)
    pyramid = {"pyramid_8", "pyramid_16", "pyramid_32"}
    components = {"gan_left_eye", "gan_right_eye", "gan_mouth", "component_style"}
    assert names(recipe, "g", 1) == {"pixel", "perceptual", "style", "gan"} | pyramid | components
    assert names(recipe, "g", 2) == {"pixel", "perceptual", "style", "gan"} | components
    assert [phase.name for phase in recipe.phases] == ["g", "d", "d_left_eye", "d_right_eye", "d_mouth"]


def test_a_weight_of_zero_and_a_missing_judge_leave_their_terms_out(generator):
    weights = {"pixel": 0, "style": 0, "pyramid": 0}
    recipe = recipe_gfpgan.build(config(component_discriminator=None, loss_weights=weights), generator)
    assert names(recipe, "g", 1) == {"perceptual", "gan"}
    assert recipe.batch_keys == ("lq", "gt")


def test_scores_are_logged_and_not_minimised(generator):
    recipe = recipe_gfpgan.build(config(component_discriminator=None), generator)
    terms = recipe.phases[1].losses(recipe.sample(batch(), 1))
    assert terms["real_score"].stop_gradient
    assert not terms["gan"].stop_gradient


def test_the_learning_rate_of_the_discriminator_is_not_scaled_its_betas_are(generator):
    recipe = recipe_gfpgan.build(config(component_discriminator=None, r1_every=16), generator)
    optim = recipe.phases[1].optim
    assert optim.lr == 2e-3
    assert optim.betas == (0.0, pytest.approx(0.99 ** (16 / 17)))


def test_the_decoder_that_is_fixed_does_not_move_and_everything_else_does():
    paddle.seed(1)
    made = gfpgan.Config(
        variant="original", out_size=SIZE, num_style_feat=8, channel_multiplier=1, narrow=1 / 16, fix_decoder=True
    )
    generator = gfpgan.build(made)
    stepper = Stepper(recipe_gfpgan.build(config(), generator))
    before = {name: value.numpy().copy() for name, value in generator.state_dict().items()}
    stepper.step([batch()], 1)
    moved = {name for name, value in generator.state_dict().items() if (value.numpy() != before[name]).any()}
    assert moved
    assert not any(name.startswith("stylegan_decoder.") for name in moved)
    for network in stepper.recipe.networks.values():
        assert all(parameter.grad is None for parameter in network.parameters())


def test_crops_have_the_published_sizes_at_512_and_scale_below():
    picture = paddle.rand([1, 3, 512, 512])
    boxes = paddle.to_tensor(np.array([[[100, 200, 180, 280], [300, 200, 380, 280], [190, 330, 320, 460]]], np.float32))
    crops = recipe_gfpgan.crop(picture, picture, boxes)
    assert {part: pair[0].shape[-1] for part, pair in crops.items()} == {"left_eye": 80, "right_eye": 80, "mouth": 120}
    small = recipe_gfpgan.crop(picture[:, :, ::8, ::8], picture[:, :, ::8, ::8], boxes / 8)
    assert small["left_eye"][0].shape == [1, 3, 10, 10]


def test_missing_weights_say_where_to_get_them(generator):
    with pytest.raises(RecipeError, match=r"recipe\.vgg_weights: missing; convert torchvision's"):
        recipe_gfpgan.build(config(vgg_weights=None), generator)
    with pytest.raises(RecipeError, match=r"recipe\.vgg_weights: nowhere\.pdparams: no such file"):
        recipe_gfpgan.build(config(vgg_weights="nowhere.pdparams"), generator)


def run_config(**data):
    tree = {
        "name": "x",
        "generator": {"arch": "gfpgan", "out_size": 64},
        "recipe": {"name": "gfpgan", "discriminator": {"arch": "stylegan2_discriminator", "out_size": 64}},
        "data": {"root": "x", "size": 64, "component_boxes": "b.npz"} | data,
    }
    return make_config(tree)


def test_sections_that_do_not_fit_together_are_refused():
    assert run_config().data.size == 64
    with pytest.raises(ConfigError, match=r"data\.component_boxes: missing"):
        run_config(component_boxes=None)
    with pytest.raises(ConfigError, match=r"data\.size: the generator takes 64 pixels, got 32"):
        run_config(size=32)
