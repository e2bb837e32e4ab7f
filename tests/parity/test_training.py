"""GFP-GAN's training against the original's: every logged loss of every step, norms of all weights, weights at the end.

The real recipe and the real step run from the same weights on the same pictures. With Adam's beta1 = 0 the first steps
are sign-like, so a weight whose gradient is rounding moves by its own sign: the step itself magnifies differences of
1e-7 to the size of the learning rate, in the original as well. After three steps the original in float32 is 5.6e-3 from
the original in float64. That this, and no difference of the algorithms, is all there is, the run in float64 shows: it
follows the original's float64 history within 1e-7.
"""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from ppgan_fr import weights
from ppgan_fr.archs import gfpgan
from ppgan_fr.recipes import _frozen
from ppgan_fr.recipes import gfpgan as recipe_gfpgan
from ppgan_fr.train.recipe import Optim, Schedule, lr_at
from ppgan_fr.train.step import Stepper
from tests.parity.reference import Fixture, fill, manifest, parametrize, root, uniform_image
from tests.parity.tolerances import check, check_training

pytestmark = pytest.mark.parity

BOXES = {  # of the fixture's README
    "left_eye": [[150.3, 200.7, 235.1, 285.5], [160, 190.2, 250.4, 280.6]],
    "right_eye": [[280.1, 201.2, 365, 286], [270.5, 190, 355.5, 275]],
    "mouth": [[190.2, 320.5, 330.7, 461], [200, 330.3, 325, 455.3]],
}
NAMES = {
    "l_g_pix": "g/pixel",
    "l_g_percep": "g/perceptual",
    "l_g_style": "g/style",
    "l_g_gan": "g/gan",
    "l_g_comp_style_loss": "g/component_style",
    "l_identity": "g/identity",
    "l_d": "d/gan",
    "l_d_r1": "d/r1",
    "real_score": "d/real_score",
    "fake_score": "d/fake_score",
}


def ours(name: str) -> str:
    """The original's name of a loss -> ours."""
    if name.startswith("l_p_"):
        return f"g/pyramid_{name.removeprefix('l_p_')}"
    if name.startswith("l_g_gan_"):
        return f"g/gan_{name.removeprefix('l_g_gan_')}"
    if name.startswith("l_d_") and name not in NAMES:
        return f"d_{name.removeprefix('l_d_')}/gan"
    return NAMES[name]


def recipe_of(fixture: Fixture) -> tuple[recipe_gfpgan.Config, gfpgan.Config]:
    """The fixture's options as our configurations."""
    opt = fixture.meta["opt"]
    train = opt["train"]
    network_g = {key: value for key, value in opt["network_g"].items() if key != "type"}
    network_d = {key: value for key, value in opt["network_d"].items() if key != "type"}
    variant = {"GFPGANv1": "original", "GFPGANv1Clean": "clean", "GFPGANBilinear": "bilinear"}
    identity = {key: value for key, value in opt["network_identity"].items() if key != "type"}
    component = "network_d_left_eye" in opt
    return recipe_gfpgan.Config(
        discriminator={"arch": "stylegan2_discriminator", **network_d},
        component_discriminator={"arch": "component_discriminator"} if component else None,
        vgg_weights=_frozen.RANDOM,
        vgg_layers=train["perceptual_opt"]["layer_weights"],
        identity={"arch": "arcface", **identity},
        identity_weights=_frozen.RANDOM,
        loss_weights={
            "pixel": train["pixel_opt"]["loss_weight"],
            "pyramid": train["pyramid_loss_weight"],
            "perceptual": train["perceptual_opt"]["perceptual_weight"],
            "style": train["perceptual_opt"]["style_weight"],
            "gan": train["gan_opt"]["loss_weight"],
            "component_gan": train.get("gan_component_opt", {}).get("loss_weight", 0.0),
            "component_style": train.get("comp_style_weight", 0.0),
            "identity": train["identity_weight"],
            "r1": train["r1_reg_weight"],
        },
        pyramid_until=train["remove_pyramid_loss"],
        r1_every=train["net_d_reg_every"],
        randomize_noise=False,
        optim_g=Optim(lr=train["optim_g"]["lr"], betas=(0.0, 0.99)),
        optim_d=Optim(lr=train["optim_d"]["lr"], betas=(0.0, 0.99)),
        optim_component=Optim(lr=train["optim_component"]["lr"], betas=(0.9, 0.99)),
        schedule=Schedule(milestones=train["scheduler"]["milestones"], factor=train["scheduler"]["gamma"]),
    ), gfpgan.Config(variant=variant[opt["network_g"]["type"]], **network_g)


def state_of(fixture: Fixture, tag: str) -> dict[str, np.ndarray]:
    """The weights a network of the fixture starts from."""
    made = fixture.meta["fill_specs"][tag]
    spec = made["spec"]
    if isinstance(spec, str):  # "losses.vgg_fill_spec": where it stands in the manifest
        entry, _, key = spec.partition(".")
        spec = manifest(fixture.area)[entry][key]
    return fill(spec, made["seed"])


class Training:
    """The fixture's run, replayed."""

    def __init__(self, fixture: Fixture, monkeypatch, dtype: str = "float32"):
        self.dtype = dtype
        config, generator_config = recipe_of(fixture)
        made = {"vgg19": "vgg", "arcface": "network_identity"}
        built = _frozen.build

        def build(section):  # the frozen judges get the fixture's weights
            network = built(section)
            weights.from_torch(network, state_of(fixture, made[section.arch]))
            return network

        monkeypatch.setattr(_frozen, "build", build)
        self.fixture = fixture
        self.generator = gfpgan.build(generator_config)
        weights.from_torch(self.generator, state_of(fixture, "net_g"))
        self.recipe = recipe_gfpgan.build(config, self.generator)
        for name, tag in self.tags().items():
            weights.from_torch(self.recipe.networks[name], state_of(fixture, tag))
        self.stepper = Stepper(self.recipe)
        self.size = generator_config.out_size

    def tags(self) -> dict[str, str]:
        """Our network -> its name in the fixture."""
        tags = {"discriminator": "net_d"}
        return tags | {
            f"discriminator_{part}": f"net_d_{part}"
            for part in recipe_gfpgan.PARTS
            if f"discriminator_{part}" in self.recipe.networks
        }

    def batch(self, step: int) -> dict[str, paddle.Tensor]:
        """The pictures of a step."""
        meta = self.fixture.meta
        shape, name = (meta["batch"], 3, self.size, self.size), self.fixture.name
        made = {
            key: paddle.to_tensor(uniform_image(meta["seed"], f"{name}/{key}{step}", shape)) for key in ("lq", "gt")
        }
        boxes = np.stack([np.array(BOXES[part], np.float32)[: meta["batch"]] for part in recipe_gfpgan.PARTS], axis=1)
        made["boxes"] = paddle.to_tensor(boxes)
        return {key: value.astype(self.dtype) for key, value in made.items()}


def is_training(name: str, entry: dict) -> bool:
    return "history_file" in entry and name.startswith("train_")


def parameters(fixture: Fixture, tag: str, state) -> list[str]:
    """Names in the original's order; its buffers (the stored noise, the blur kernels) are not among them."""
    return [name for name in fixture.meta["fill_specs"][tag]["spec"] if name in state and "noises." not in name]


def norms(state, names: list[str]) -> np.ndarray:
    """The Euclidean norm of each tensor."""
    return np.array([np.linalg.norm(state[name].numpy().astype(np.float64)) for name in names])


@parametrize("gfpgan", is_training)
def test_training_follows_the_original(fixture, monkeypatch):
    training = Training(Fixture(*fixture), monkeypatch)
    reference = training.fixture
    history = json.loads((reference.folder / reference.meta["history_file"]).read_text())["history"]
    own = training.generator.state_dict()
    for step in range(1, reference.meta["iters"] + 1):
        said = {name: value.item() for name, value in training.stepper.step([training.batch(step)], step).items()}
        wanted = {ours(key): value for key, value in history[step - 1].items() if isinstance(value, float)}
        assert said.keys() == wanted.keys()
        for key, value in wanted.items():
            check_training(said[key], value, step, key)
        rates = [lr_at(phase.optim, training.recipe.schedule, step) for phase in training.recipe.phases]
        betas = [list(phase.optim.betas) for phase in training.recipe.phases]
        assert rates == pytest.approx(history[step - 1]["lr"])
        assert np.allclose(betas, history[step - 1]["betas"])
        average = training.stepper.ema.state_dict()
        discriminator = training.recipe.networks["discriminator"].state_dict()
        for kind, state, tag in (("g", own, "net_g"), ("gema", average, "net_g"), ("d", discriminator, "net_d")):
            got = norms(state, parameters(reference, tag, state))
            np.testing.assert_allclose(got, reference[f"it{step}_{kind}_norms"], rtol=1e-3, atol=1e-3)
    assert_final(training)
    assert_averaged_picture(training)


def has_exact_history(name: str, entry: dict) -> bool:
    return is_training(name, entry) and (root() / "gfpgan" / f"{name}_history_fp64.json").is_file()


@pytest.fixture
def in_float64():
    """Networks are built in double precision."""
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


@parametrize("gfpgan", has_exact_history)
def test_training_in_float64_is_the_original_in_float64(fixture, monkeypatch, in_float64):
    training = Training(Fixture(*fixture), monkeypatch, "float64")
    reference = training.fixture
    history = json.loads((reference.folder / f"{reference.name}_history_fp64.json").read_text())["history"]
    for step, wanted in enumerate(history, start=1):
        said = training.stepper.step([training.batch(step)], step)
        for key, value in wanted.items():
            if isinstance(value, float):
                name = f"step {step}, {key}"
                check(said[ours(key)].item(), value, "training_float64", name)


def assert_averaged_picture(training: Training) -> None:
    """The averaged network's answer to the first batch, every n-th pixel."""
    wanted = training.fixture["final_ema_output_sub"]
    with training.stepper.ema.applied() as network, paddle.no_grad():
        picture = network(training.batch(1)["lq"], randomize_noise=False)[0].numpy()
    stride = picture.shape[-1] // wanted.shape[-1]
    check(picture[..., ::stride, ::stride], wanted, "averaged_picture")


def assert_final(training: Training) -> None:
    reference = training.fixture
    rate = reference.meta["opt"]["train"]["optim_g"]["lr"]
    states = {
        "g": training.generator.state_dict(),
        "gema": training.stepper.ema.state_dict(),
        "d": training.recipe.networks["discriminator"].state_dict(),
    }
    apart = []
    for key in reference.keys("final_"):
        kind, _, name = key.removeprefix("final_").partition("_")
        if kind == "ema":  # a picture, not weights
            continue
        apart.append(np.abs(states[kind][name].numpy() - reference[key]).ravel())
    assert apart, "the fixture has no final weights"
    everything = np.concatenate(apart)
    assert everything.max() <= 2 * rate
    assert (everything <= 1e-4).mean() >= 0.99
