"""HiFaceGAN against the numbers of the original: forward passes, states, gradients, losses, one step, loaders."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppgan_fr import weights
from ppgan_fr.archs import hifacegan, patch_discriminator, vgg19
from ppgan_fr.data import pairs
from ppgan_fr.recipes import hifacegan as recipe
from ppgan_fr.train.recipe import lr_at
from tests.parity import reference
from tests.parity.reference import once_per
from tests.parity.tolerances import TOLERANCES, check

pytestmark = pytest.mark.parity

ROOT = reference.root() / "hifacegan"
FULLSIZE = reference.root() / "fullsize"
MANIFEST = reference.manifest("hifacegan")
GENERATORS = [n for n in MANIFEST.get("generators", {}) if (ROOT / n / "forward.npz").is_file()]
COMPLETE = [n for n in GENERATORS if (ROOT / n / "latest_net_G.pth").is_file()]
TRAINING = ["train"] if (ROOT / "train" / "train.npz").is_file() else []
FULL_TRAINING = [n for n in TRAINING if "hifacegan" in COMPLETE and (ROOT / n / "vgg19_narrow.pth").is_file()]
LOADERS = ["data"] if (ROOT / "data" / "data.npz").is_file() else []
SUPPRESSION = sorted(ROOT.glob("**/paper_suppression.npz"))


def gan_modes(table: str) -> list:
    """The GAN losses that a table of the manifest has numbers for."""
    return [pytest.param(mode, id=f"{n}-{mode}") for n in FULL_TRAINING for mode in MANIFEST["train"].get(table, {})]


LOSS_NAMES = {"gan": "GAN", "feat": "GAN_Feat", "vgg": "VGG", "fake": "D_Fake", "real": "D_real"}


def state_of(path: Path) -> dict[str, np.ndarray]:
    """A checkpoint, or the part of it that the small selection holds."""
    if path.is_file():
        return weights.inner_state(weights.load_torch(path))
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as part:
        return dict(part)


def generator(name: str, **options) -> hifacegan.HiFaceGAN:
    config = hifacegan.Config(variant=name, ngf=MANIFEST["generators"][name]["ngf"], **options)
    network = hifacegan.build(config)
    weights.from_torch(network, weights.load_torch(ROOT / name / "latest_net_G.pth"))
    return network


def discriminator() -> patch_discriminator.MultiscaleDiscriminator:
    network = patch_discriminator.build(patch_discriminator.Config(ndf=MANIFEST["ndf"]))
    weights.from_torch(network, state_of(ROOT / "train" / "latest_net_D.pth"))
    return network


def expected(name: str) -> dict[str, np.ndarray]:
    file = ROOT / name / ("train.npz" if name == "train" else "forward.npz")
    with np.load(file, allow_pickle=False) as archive:
        return dict(archive)


def output(network, lq: np.ndarray, **options) -> np.ndarray:
    with paddle.no_grad():
        return network(paddle.to_tensor(lq), **options)[0].numpy()


def released_name(name: str) -> str:
    """The name of a parameter in the original's checkpoints."""
    return name.replace("logit.1.scale", "logit.1.weight")


def assert_gradients_close(network, wanted: dict[str, np.ndarray]) -> None:
    """Each within a part of its own largest value; what is mathematically zero, within one of the largest of all."""
    found = {released_name(name): parameter.grad for name, parameter in network.named_parameters()}
    largest = max(np.abs(value).max() for value in wanted.values())
    tolerance = TOLERANCES["hifacegan_gradient"].rtol
    zero = TOLERANCES["hifacegan_zero_gradient"].rtol
    for name, value in wanted.items():
        assert found[name] is not None or not value.any(), f"{name} has no gradient"
        allowed = tolerance * np.abs(value).max() + zero * largest
        difference = np.abs((0 if found[name] is None else found[name].numpy()) - value).max()
        assert difference <= allowed, f"{name}: differs by {difference}, allowed {allowed}"


def without_prefix(arrays: dict[str, np.ndarray], prefix: str, *leave_out: str) -> dict[str, np.ndarray]:
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix) and not k.startswith(leave_out)}


# ---------------------------------------------------------------- generators


@once_per("name", COMPLETE)
def test_every_released_name_and_shape_is_there(name):
    network = hifacegan.build(hifacegan.Config(variant=name, ngf=MANIFEST["generators"][name]["ngf"]))
    found = {released_name(k): list(v.shape) for k, v in network.state_dict().items()}
    assert found == MANIFEST["generators"][name]["keys"]
    assert sum(p.size for p in network.parameters()) == MANIFEST["generators"][name]["n_params"]


@once_per("name", COMPLETE)
def test_evaluation_gives_the_output_and_every_feature_map(name):
    wanted, network = expected(name), generator(name)
    network.eval()
    taps, layers = {}, dict(network.named_sublayers())
    paths = without_prefix(wanted, "eval.tap.")
    for path in paths:
        layers[path].register_forward_post_hook(lambda _, __, out, path=path: taps.__setitem__(path, out.numpy()))
    check(output(network, wanted["lq"]), wanted["eval.out"], "hifacegan_forward")
    for path, value in paths.items():
        check(taps[path], value, "hifacegan_feature", path)


@once_per("name", COMPLETE)
def test_training_mode_gives_output_and_state_after_each_forward_pass(name):
    wanted, network = expected(name), generator(name)
    network.train()
    for turn in range(2):
        check(output(network, wanted["lq"]), wanted[f"train.out{turn}"], "hifacegan_forward")
        state = network.state_dict()
        buffers = without_prefix(wanted, f"train.buf{turn}.")
        assert buffers
        for key, value in buffers.items():
            check(state[key].numpy().reshape(value.shape), value, "hifacegan_state", key)


@once_per("name", COMPLETE)
def test_two_pictures_through_the_test_procedure(name):
    wanted, network = expected(name), generator(name)
    network.train()
    for index in range(2):
        got = output(network, wanted["lq"][index : index + 1])
        check(got, wanted[f"test_procedure.out{index}"], "hifacegan_forward")


@once_per("name", COMPLETE)
def test_batch_stats_gives_each_picture_what_the_test_procedure_gives_the_first(name):
    wanted = expected(name)
    network = generator(name, test_mode="batch_stats")
    network.eval()
    together = output(network, wanted["lq"])
    check(together[:1], wanted["test_procedure.out0"], "hifacegan_forward")
    for index in range(len(together)):
        alone = output(network, wanted["lq"][index : index + 1])
        check(together[index : index + 1], alone, "hifacegan_forward")


@once_per("name", COMPLETE)
def test_gradients_of_the_input_and_the_parameters(name):
    wanted, network = expected(name), generator(name)
    network.train()
    lq = paddle.to_tensor(wanted["lq"], stop_gradient=False)
    (network(lq)[0] * paddle.to_tensor(wanted["grad.probe"])).mean().backward()
    check(lq.grad.numpy(), wanted["grad.lq"], "hifacegan_gradient", "lq")
    assert_gradients_close(network, without_prefix(wanted, "grad.", "grad.probe", "grad.lq"))


@once_per("name", [n for n in COMPLETE if "phase0.out" in expected(n)])
def test_progressive_phases(name):
    wanted, network = expected(name), generator(name)
    network.eval()
    for phase in range(4):
        check(output(network, wanted["lq"], train_phase=phase), wanted[f"phase{phase}.out"], "hifacegan_forward")


@once_per("name", [n for n in COMPLETE if any(k.startswith("mixed.") for k in expected(n))])
def test_guidance_from_two_sources(name):
    """The fixture does not name its two sources; they must be the same pair and mode for all of its pictures."""
    wanted = expected(name)
    lq, gt = wanted["lq"], wanted["gt"]
    mixed = {
        tuple(re.fullmatch(r"mixed\.(\w+)\.(\d+)(?:\.out)?", k).groups()): v for k, v in wanted.items() if "mixed." in k
    }
    sources = {
        "lq, gt": (lq, gt),
        "gt, lq": (gt, lq),
        "first, second": (lq[:1], lq[1:2]),
        "second, first": (lq[1:2], lq[:1]),
        "lq, reversed batch": (lq, lq[::-1].copy()),
        "lq, mirrored": (lq, lq[..., ::-1].copy()),
    }
    differences = {}
    for label, pair in sources.items():
        first, second = map(paddle.to_tensor, pair)
        if list(pair[0].shape) != list(next(iter(mixed.values())).shape):
            continue
        for training in (False, True):
            worst = 0.0
            network = generator(name)
            network.train() if training else network.eval()
            with paddle.no_grad():
                for (mode, n), value in mixed.items():
                    got = network.mixed_guidance(first, second, int(n), mode)[0].numpy()
                    worst = max(worst, float(np.abs(got - value).max()))
            differences[f"{label}, {'train' if training else 'eval'}"] = worst
    assert min(differences.values()) <= TOLERANCES["hifacegan_forward"].atol, differences


@once_per("name", [n for n in GENERATORS if n == "hifacegan"])
def test_the_finest_level_reproduces_its_feature_maps(name):
    """Needs only the weights around the finest level, so the small selection proves it too."""
    wanted = expected(name)
    state = state_of(ROOT / name / "latest_net_G.pth")
    network = hifacegan.build(hifacegan.Config(variant=name, ngf=MANIFEST["generators"][name]["ngf"]))
    network.eval()
    for part in ("encoder.head", "encoder.encoder_0", "ups.3", "to_rgbs.3"):
        layer = dict(network.named_sublayers())[part]
        weights.from_torch(layer, without_prefix(state, f"{part}."))
    count = len(wanted["eval.tap.ups.2"])
    with paddle.no_grad():
        head = network.encoder.head(paddle.to_tensor(wanted["lq"][:count]))
        coarser = network.encoder.encoder_0(head)
        before = paddle.to_tensor(wanted["eval.tap.ups.2"])
        doubled = before.repeat_interleave(2, axis=2).repeat_interleave(2, axis=3)
        finest = network.ups[3](doubled, head)
        picture = paddle.tanh(network.to_rgbs[3](paddle.nn.functional.leaky_relu(finest, 0.2)))
    check(coarser.numpy(), wanted["eval.tap.encoder.encoder_0"][:count], "hifacegan_feature")
    check(picture.numpy(), wanted["eval.out"][:count], "hifacegan_forward")


# ---------------------------------------------------------------- discriminator and training


@once_per("name", TRAINING)
def test_discriminator_features_and_state(name):
    wanted, network = expected(name), discriminator()
    pair = paddle.to_tensor(np.concatenate((wanted["lq"], wanted["gt"]), axis=1))
    for mode in ("eval", "train"):
        network.train() if mode == "train" else network.eval()
        with paddle.no_grad():
            answers = network(pair)
        features = without_prefix(wanted, f"D.{mode}.scale")
        assert features
        for key, value in features.items():
            scale, layer = map(int, re.fullmatch(r"(\d+)\.layer(\d+)", key).groups())
            check(answers[scale][layer].numpy(), value, "hifacegan_feature", key)
    state = network.state_dict()
    for key, value in without_prefix(wanted, "D.train.buf.").items():
        check(state[key].numpy(), value, "hifacegan_state", key)


def vgg_state(layers: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The weights as deep as the deepest of the layers."""
    depth = max(vgg19.INDEX[layer] for layer in layers)
    state = state_of(ROOT / "train" / "vgg19_narrow.pth")
    return {name: array for name, array in state.items() if int(name.split(".")[1]) <= depth}


def training(gan_mode: str, folder: Path, **options):
    """The recipe with the fixture's weights, its batch and a fresh folder for VGG's weights."""
    network = generator("hifacegan")
    vgg = vgg19.Config(layers=recipe.VGG_LAYERS, preprocess="raw", width=1 / MANIFEST["vgg_width_divisor"])
    weights.save(vgg_state(recipe.VGG_LAYERS), folder / "vgg.pdparams")
    config = recipe.Config(
        discriminator={"arch": "patch_discriminator", "ndf": MANIFEST["ndf"]},
        gan_mode=gan_mode,
        vgg=vgg,
        vgg_weights=str(folder / "vgg.pdparams"),
        **options,
    )
    built = recipe.build(config, network)
    weights.from_torch(built.networks["discriminator"], state_of(ROOT / "train" / "latest_net_D.pth"))
    for part in built.networks.values():
        part.train()
    wanted = expected("train")
    batch = {key: paddle.to_tensor(wanted[key] * 2 - 1) for key in ("lq", "gt")}
    return built, batch, wanted


def untouched(sample: recipe.Sample) -> recipe.Sample:
    """The same sample with a generator that has not run yet."""
    fresh = generator("hifacegan")
    fresh.train()
    return recipe.Sample(sample.lq, sample.gt, sample.fake, sample.train_phase, fresh)


def assert_terms_close(terms, wanted: dict[str, float], kind: str) -> None:
    for name, value in terms.items():
        check(float(value), wanted[LOSS_NAMES[name]], kind, name)


@once_per("gan_mode", gan_modes("losses_at_start"))
def test_losses_at_the_start(gan_mode, tmp_path):
    wanted = MANIFEST["train"]["losses_at_start"][gan_mode]
    built, batch, _ = training(gan_mode, tmp_path)
    sample = built.sample(batch, 1)
    terms = built.phases[0].losses(sample)
    assert set(terms) == {"gan", "feat", "vgg"}
    assert_terms_close(terms, wanted, "hifacegan_loss")
    check(float(sum(terms.values())), wanted["total"], "hifacegan_loss", "total")
    built, batch, _ = training(gan_mode, tmp_path)
    terms = built.phases[1].losses(untouched(sample))
    assert_terms_close(terms, wanted, "hifacegan_loss")


@once_per("name", FULL_TRAINING)
def test_gradients_of_both_networks(name, tmp_path):
    built, batch, wanted = training("ls", tmp_path)
    sample = built.sample(batch, 1)
    check(sample.fake.numpy(), wanted["G.fake"], "hifacegan_forward")
    sum(built.phases[0].losses(sample).values()).backward()
    assert_gradients_close(built.networks["generator"], without_prefix(wanted, "G.grad."))
    built, batch, _ = training("ls", tmp_path)
    sum(built.phases[1].losses(untouched(sample)).values()).backward()
    assert_gradients_close(built.networks["discriminator"], without_prefix(wanted, "D.grad."))


def train_step(built, optimizers, batch, step: int) -> dict[str, float]:
    log = {}
    sample = built.sample(batch, step)
    for phase, optimizer in zip(built.phases, optimizers, strict=True):
        for network in built.networks.values():
            for parameter in network.parameters():
                parameter.stop_gradient = network is not phase.network
        terms = phase.losses(sample)
        sum(terms.values()).backward()
        optimizer.step()
        optimizer.clear_grad()
        log |= {name: float(value) for name, value in terms.items()}
    for network in built.networks.values():
        for parameter in network.parameters():
            parameter.stop_gradient = False
    return log


def adams(built) -> list[paddle.optimizer.Adam]:
    return [
        paddle.optimizer.Adam(
            phase.optim.lr, *phase.optim.betas, epsilon=phase.optim.eps, parameters=phase.network.parameters()
        )
        for phase in built.phases
    ]


@once_per("gan_mode", gan_modes("trajectory"))
def test_losses_of_the_first_iterations(gan_mode, tmp_path):
    """The first: losses alone. The second: after an optimizer step, whose sign is arbitrary where a gradient is ~0."""
    wanted = MANIFEST["train"]["trajectory"][gan_mode]
    built, batch, _ = training(gan_mode, tmp_path)
    optimizers = adams(built)
    for step, kind in ((1, "hifacegan_iteration_1"), (2, "hifacegan_iteration_2")):
        log = train_step(built, optimizers, batch, step)
        for name, value in log.items():
            check(value, wanted[step - 1][LOSS_NAMES[name]], kind, name)


@once_per("name", FULL_TRAINING)
def test_parameters_and_state_after_one_iteration(name, tmp_path):
    built, batch, wanted = training("ls", tmp_path)
    adam = MANIFEST["train"]["adam"]
    rates = {"G": adam["lr_G"], "D": adam["lr_D"]}
    for phase in built.phases:
        assert phase.optim.lr == rates[phase.name.upper()]
        assert phase.optim.betas == tuple(adam["betas"])
        assert phase.optim.eps == adam["eps"]
    train_step(built, adams(built), batch, 1)
    for letter, network in (("G", built.networks["generator"]), ("D", built.networks["discriminator"])):
        state = {released_name(k): v.numpy() for k, v in network.state_dict().items()}
        parameters = without_prefix(wanted, f"step1.{letter}.", f"step1.{letter}.buf.")
        assert parameters
        for key, value in parameters.items():
            limit = 2 * rates[letter] + TOLERANCES["hifacegan_step"].atol
            assert np.abs(state[key] - value).max() <= limit, key
        for key, value in without_prefix(wanted, f"step1.{letter}.buf.").items():
            check(state[key].reshape(value.shape), value, "hifacegan_state_after_step", key)


@once_per("name", [n for n in FULL_TRAINING if "phase1" in MANIFEST["train"]])
def test_losses_of_an_earlier_phase(name, tmp_path):
    built, batch, wanted = training("ls", tmp_path, train_phase=1)
    sample = built.sample(batch, 1)
    assert list(sample.fake.shape[2:]) == MANIFEST["train"]["phase1"]["fake_hw"]
    check(sample.fake.numpy(), wanted["phase1.fake"], "hifacegan_forward")
    terms = built.phases[0].losses(sample)
    assert set(terms) == {key for key, name in LOSS_NAMES.items() if name in MANIFEST["train"]["phase1"]["losses"]}
    assert_terms_close(terms, MANIFEST["train"]["phase1"]["losses"], "hifacegan_loss")


@once_per("name", FULL_TRAINING)
def test_vgg_features_of_the_raw_picture(name):
    wanted = expected(name)
    layers = tuple(without_prefix(wanted, "vgg.gt."))
    network = vgg19.build(vgg19.Config(layers=layers, preprocess="raw", width=1 / MANIFEST["vgg_width_divisor"]))
    weights.from_torch(network, vgg_state(layers))
    found = network(paddle.to_tensor(wanted["gt"]))
    for layer in layers:
        check(found[layer].numpy(), wanted[f"vgg.gt.{layer}"], "hifacegan_feature", layer)


@once_per("name", TRAINING)
def test_learning_rates_of_every_epoch(name):
    config = recipe.Config(lambda_vgg=0)
    for epoch, rate_g, rate_d in expected(name)["lr_table_epoch_G_D"]:
        for step in ((epoch - 1) * config.steps_per_epoch + 1, epoch * config.steps_per_epoch):
            for optim, rate in ((config.optim_g, rate_g), (config.optim_d, rate_d)):
                got = lr_at(optim, config.schedule, int(step))
                check(got, rate, "hifacegan_rate", f"epoch {epoch}")


# ---------------------------------------------------------------- the paper's formula


@once_per("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in SUPPRESSION])
def test_suppression_formula_of_the_paper(path):
    with np.load(path, allow_pickle=False) as archive:
        wanted = dict(archive)
    out_channels, in_channels, kernel, _ = wanted["W"].shape
    limits = [key[len("out_") :] for key in wanted if key.startswith("out_")]
    assert limits
    for limit in limits:
        layer = hifacegan.CorrelationConv2D(
            in_channels, out_channels, kernel, len(wanted["G_w1"]), len(wanted["G_w2"]), limit
        )
        layer.to(dtype="float64")
        for parameter, key in ((layer.embed[0], "G_{}1"), (layer.embed[2], "G_{}2")):
            parameter.weight.set_value(wanted[key.format("w")][:, :, None, None])
            parameter.bias.set_value(wanted[key.format("b")])
        layer.weight.set_value(wanted["W"])
        layer.bias.set_value(wanted["b"])
        x = paddle.to_tensor(wanted["x"])
        check(layer(x).numpy(), wanted[f"out_{limit}"], "hifacegan_suppression", limit)
        # Taps beyond the border see a zero vector; what gates them has no effect.
        gates = layer.gates(x).numpy().reshape(wanted[f"gate_{limit}"].shape)
        inside = (slice(None), slice(None), slice(kernel // 2, -(kernel // 2)), slice(kernel // 2, -(kernel // 2)))
        check(gates[inside], wanted[f"gate_{limit}"][inside], "hifacegan_suppression", limit)


# ---------------------------------------------------------------- loaders


@once_per("name", LOADERS)
def test_stacked_pairs_are_read_as_in_training(name):
    with np.load(ROOT / name / "data.npz", allow_pickle=False) as archive:
        wanted = without_prefix(dict(archive), "train.")
    cases = {key.rsplit(".", 1)[0] for key in wanted}
    assert cases
    for case in cases:
        shape, flip = re.fullmatch(r"(\w+)\.flip(\d)", case).groups()
        size = wanted[f"{case}.label"].shape[-1]
        path = next((ROOT / name / "pairs").glob(f"{shape}.*"))
        lq, gt = pairs.load_stacked_pair(path, size, flip == "1", mirror="as_published")
        np.testing.assert_array_equal(lq, wanted[f"{case}.label"], err_msg=case)
        np.testing.assert_array_equal(gt, wanted[f"{case}.image"], err_msg=case)


@once_per("name", [n for n in LOADERS if sorted((ROOT / n / "test").glob("*.*"))])
def test_stacked_pairs_are_read_as_in_testing(name):
    with np.load(ROOT / name / "data.npz", allow_pickle=False) as wanted:
        (path,) = sorted((ROOT / name / "test").glob("*.*"))
        lq, gt = pairs.load_stacked_test_pair(path)
        assert [list(lq.shape), list(gt.shape)] == wanted["test.shapes"].tolist()
        np.testing.assert_array_equal(lq[:, ::4, ::4], wanted["test.label_sub4"])
        np.testing.assert_array_equal(gt[:, ::4, ::4], wanted["test.image_sub4"])


@once_per("name", LOADERS)
def test_pictures_without_original_and_saved_results(name):
    with np.load(ROOT / name / "data.npz", allow_pickle=False) as wanted:
        (path,) = sorted((ROOT / name / "nogt").glob("*.*"))
        np.testing.assert_array_equal(pairs.load_without_original(path)[:, ::4, ::4], wanted["nogt.label_sub4"])
        np.testing.assert_array_equal(pairs.to_image(wanted["tensor2im.in"]), wanted["tensor2im.out"])


# ---------------------------------------------------------------- full size


def full_size_cases() -> list[str]:
    return sorted(p.stem for p in FULLSIZE.glob("*_ngf*.npz") if (FULLSIZE / "recipe.py").is_file())


def full_size_module():
    spec = importlib.util.spec_from_file_location("full_size_recipe", FULLSIZE / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@once_per("name", full_size_cases())
def test_full_size(name):
    module = full_size_module()
    keys, kind, seed, tag, file = next(case for case in module.CASES if case[-1] == f"{name}.npz")
    variant, ngf = re.fullmatch(r"(\w+)_ngf(\d+)", name).groups()
    network = hifacegan.build(hifacegan.Config(variant=variant, ngf=int(ngf)))
    state = module.make(kind, str(FULLSIZE / keys), seed, tag)
    weights.from_torch(network, {key: np.asarray(value) for key, value in state.items()})
    del state
    with np.load(FULLSIZE / file, allow_pickle=False) as archive:
        wanted = dict(archive)
    x = wanted["x"].astype(np.float32) / np.float32(255)
    for mode in ("eval", "train"):
        network.train() if mode == "train" else network.eval()
        got = output(network, x)
        check(got[:, :, ::8, ::8], wanted[f"{mode}_sub8"], "hifacegan_forward", mode)
        check(got.astype(np.float64).mean((2, 3)), wanted[f"{mode}_mean"], "hifacegan_forward", mode)


@once_per("path", [pytest.param(p, id=p.stem) for p in sorted(FULLSIZE.glob("*_ngf*_keys.json"))])
def test_names_and_shapes_of_the_full_networks(path):
    variant, ngf = re.fullmatch(r"(\w+)_ngf(\d+)_keys", path.stem).groups()
    with paddle.LazyGuard():
        network = hifacegan.build(hifacegan.Config(variant=variant, ngf=int(ngf)))
    found = {released_name(k): list(v.shape) for k, v in network.state_dict().items()}
    assert found == json.loads(path.read_text())
