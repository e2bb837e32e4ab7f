"""StyleGAN2's recipe: lazy terms, the running mean of path lengths, mixing that follows the step."""

import numpy as np
import paddle
import pytest

from ppgan_fr.archs import stylegan2_generator
from ppgan_fr.recipes import stylegan2
from ppgan_fr.train.step import Stepper

SIZE = 16


def stepper(**changes):
    paddle.seed(0)
    made = stylegan2_generator.Config(
        variant="original", out_size=SIZE, num_style_feat=8, channel_multiplier=1, narrow=1 / 32, num_mlp=2
    )
    small = {
        "discriminator": {"arch": "stylegan2_discriminator", "out_size": SIZE, "narrow": 1 / 32},
        "r1_every": 2,
        "path_every": 2,
    }
    return Stepper(stylegan2.build(stylegan2.Config(**(small | changes)), stylegan2_generator.build(made)))


def batch():
    pictures = np.random.default_rng(0).uniform(-1, 1, (4, 3, SIZE, SIZE)).astype(np.float32)
    return {"gt": paddle.to_tensor(pictures)}


def test_the_regularisers_join_every_second_step_only():
    run = stepper()
    assert set(run.step([batch()], 1)) == {"d/gan", "d/real_score", "d/fake_score", "g/gan"}
    assert set(run.step([batch()], 2)) >= {"d/r1", "g/path", "g/path_length"}


def test_the_mean_path_length_moves_by_a_hundredth_and_is_kept():
    run = stepper()
    length = run.step([batch()], 2)["g/path_length"].item()
    assert run.recipe.networks["mean_length"].state_dict()["value"].item() == pytest.approx(0.01 * length, rel=1e-4)


def test_a_step_is_drawn_again_from_its_number():
    first, second = (stepper().step([batch()], 2) for _ in range(2))
    assert {name: value.item() for name, value in first.items()} == {name: v.item() for name, v in second.items()}
