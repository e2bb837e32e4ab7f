import numpy as np
import paddle
import pytest

from ppgan_fr.archs import sgpn as network
from ppgan_fr.config import ConfigError, make_config
from ppgan_fr.recipes import sgpn
from ppgan_fr.recipes._frozen import RecipeError
from ppgan_fr.train.step import Stepper

GENERATOR = {"size": 32, "narrow": 1 / 32, "style_dim": 16, "enc_style_dim": 8, "channel_multiplier": 1}
SHAPE = {"arch": "d3dfr", "layers": [1, 1, 1, 1], "width_per_group": 2}
DISCRIMINATOR = {"arch": "stylegan2_discriminator", "out_size": 32, "narrow": 1 / 32}


def recipe(**options):
    paddle.seed(0)
    config = sgpn.Config(face_model="synthetic", shape=SHAPE, discriminator=DISCRIMINATOR, r1_every=2, **options)
    return sgpn.build(config, network.build(network.Config(**GENERATOR)))


def batch():
    rng = np.random.default_rng(0)
    return {key: paddle.to_tensor(rng.uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)) for key in ("lq", "gt")}


def state(networks):
    return {name: [p.numpy().copy() for p in layer.parameters()] for name, layer in networks.items()}


def test_two_steps_move_all_three_networks_and_name_every_term():
    built = recipe()
    stepper = Stepper(built)
    before = state(built.networks)
    stepper.step([batch()], 1)
    said = stepper.step([batch()], 2)
    assert set(said) == {
        *(f"shape/{term}" for term in ("landmark", "colour", "size", "light", "agreement")),
        *(f"g/{term}" for term in ("pixel", "gan")),
        *(f"d/{term}" for term in ("gan", "real_score", "fake_score", "r1")),
    }
    assert all(np.isfinite(value.item()) for value in said.values())
    for name, layer in built.networks.items():
        still = [np.array_equal(a, p.numpy()) for a, p in zip(before[name], layer.parameters())]
        assert not all(still), name


def test_the_generators_loss_does_not_reach_the_shape_network():
    built = recipe()
    sample = built.sample(batch(), 1)
    phase = next(phase for phase in built.phases if phase.name == "g")
    sum(phase.losses(sample).values()).backward()
    assert all(p.grad is None for p in built.networks["shape"].parameters())
    assert any(p.grad is not None for p in built.networks["generator"].parameters())


def test_without_shape_the_generator_sees_an_empty_drawing_and_nothing_else_is_built():
    built = recipe(use_shape=False)
    assert set(built.networks) == {"generator", "discriminator"}
    assert [phase.name for phase in built.phases] == ["g", "d"]
    sample = built.sample(batch(), 1)
    assert sample.rendered.max().item() == -1
    assert sample.coefficients.abs().max().item() == 0
    Stepper(built).step([batch()], 1)


def test_with_and_without_shape_the_generator_starts_from_the_same_weights():
    with_shape, without = recipe(), recipe(use_shape=False)
    for a, b in zip(with_shape.networks["generator"].parameters(), without.networks["generator"].parameters()):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_shape_network_that_does_not_learn_has_no_phase():
    built = recipe(train_shape=False)
    assert [phase.name for phase in built.phases] == ["g", "d"]
    built.sample(batch(), 1)


def test_terms_of_weight_zero_are_not_computed():
    built = recipe(loss_weights={"gan": 0, "landmark": 0, "colour": 0, "agreement": 0, "r1": 0})
    sample = built.sample(batch(), 1)
    terms = {phase.name: set(phase.losses(sample)) for phase in built.phases}
    assert terms["shape"] == {"size", "light"}
    assert terms["g"] == {"pixel"}


def test_without_generator_losses_the_shape_network_learns_alone():
    built = recipe(loss_weights={"pixel": 0, "gan": 0})
    assert [phase.name for phase in built.phases] == ["shape"]
    assert "discriminator" not in built.networks
    assert built.sample(batch(), 1).image is None
    before = state(built.networks)
    Stepper(built).step([batch()], 1)
    assert not all(np.array_equal(a, p.numpy()) for a, p in zip(before["shape"], built.networks["shape"].parameters()))
    assert set(built.pictures(built.sample(batch(), 2))) == {"lq", "rendered", "gt"}


def test_without_a_gan_term_there_is_no_discriminator():
    built = recipe(loss_weights={"gan": 0})
    assert [phase.name for phase in built.phases] == ["shape", "g"]
    Stepper(built).step([batch()], 1)


def test_weights_with_which_nothing_would_learn_are_refused():
    with pytest.raises(RecipeError, match="nothing would learn"):
        recipe(loss_weights={"pixel": 0, "gan": 0}, train_shape=False)


def test_white_light_costs_nothing_and_coloured_light_does():
    white = paddle.to_tensor(np.tile(np.arange(9, dtype=np.float32), 3)[None])
    assert sgpn.light_difference(white).item() == 0
    coloured = white.clone()
    coloured[0, 0] = 3.0
    assert sgpn.light_difference(coloured).item() == pytest.approx((4 + 1 + 1) / 27)


def run_config(**changes):
    tree = {
        "name": "x",
        "generator": {"arch": "sgpn", **GENERATOR},
        "recipe": {"name": "sgpn", "face_model": "synthetic", "discriminator": DISCRIMINATOR, "shape": SHAPE},
        "data": {"root": "faces", "size": 32},
        "train": {"total_steps": 1},
    }
    for key, value in changes.items():
        section, name = key.split("__")
        tree[section][name] = value
    return make_config(tree)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"recipe__face_model": None}, "recipe.face_model: missing"),
        ({"data__size": 64}, "data.size: the generator takes 32"),
        ({"recipe__discriminator": {**DISCRIMINATOR, "out_size": 64}}, "recipe.discriminator.out_size"),
        ({"generator__arch": "d3dfr"}, "sgpn"),
    ],
)
def test_sections_that_do_not_fit_are_named(changes, complaint):
    if "generator__arch" in changes:
        with pytest.raises(ConfigError):
            run_config(**changes)
        return
    with pytest.raises(ConfigError, match=complaint):
        run_config(**changes)


def test_a_whole_configuration_fits():
    assert run_config().recipe.use_shape
