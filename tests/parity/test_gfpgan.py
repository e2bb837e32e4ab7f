"""GFP-GAN in its three variants against the original: pictures, features, latents, gradients, conversion, full size."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest

from ppgan_fr import weights
from ppgan_fr.archs import gfpgan
from tests.parity.reference import Fixture, fill, manifest, parametrize, sample_feature, uniform_image
from tests.parity.tolerances import check

pytestmark = pytest.mark.parity

VARIANTS = {"GFPGANv1Clean": "clean", "GFPGANv1": "original", "GFPGANBilinear": "bilinear"}
AREA = "gfpgan"


def is_small_network(name, entry):
    return entry.get("cls") in VARIANTS and not name.startswith("full512")


def is_full_network(name, entry):
    return entry.get("cls") in VARIANTS and name.startswith("full512")


def is_conversion(name, entry):
    return name.startswith("convert_bilinear_to_clean")


def build(fixture: Fixture):
    config = gfpgan.Config(variant=VARIANTS[fixture.meta["cls"]], **fixture.kwargs())
    network = gfpgan.build(config)
    weights.from_torch(network, fixture.state())
    network.eval()
    return network


def record_features(network, paths):
    """Keeps the output of sub-layers while the network runs."""
    kept = {}
    layers = dict(network.named_sublayers())
    for path in paths:
        layers[path].register_forward_post_hook(
            lambda _layer, _inputs, out, path=path: kept.update({path: out.numpy()})
        )
    return kept


@parametrize(AREA, is_small_network)
def test_pictures_features_and_latents_equal_the_original(fixture):
    fx = Fixture(*fixture)
    network = build(fx)
    paths = [key.removeprefix("feat_") for key in fx.keys("feat_")]
    kept = record_features(network, paths)
    x = paddle.to_tensor(fx["x"])
    with paddle.no_grad():
        image, out_rgbs, latents = network(x, return_latents=True, randomize_noise=False)
        check(image, fx["image"], "image", "image")
        assert len(out_rgbs) == len(fx.keys("out_rgb_"))
        for index, picture in enumerate(out_rgbs):
            check(picture, fx[f"out_rgb_{index}"], "image", f"out_rgb_{index}")
        for path in paths:
            want = fx[f"feat_{path}"]
            check(sample_feature(kept[path], want.shape), want, "feature", path)
        if "latents" in fx:
            check(latents, fx["latents"], "feature", "latents")
        if "style_code" in fx:
            check(kept["final_linear"].reshape(fx["style_code"].shape), fx["style_code"], "feature", "style_code")
        if "image_batch1" in fx:
            check(network(x[:1], randomize_noise=False)[0], fx["image_batch1"], "image", "image_batch1")


@parametrize(AREA, lambda name, entry: is_small_network(name, entry) and "pth" in entry)
def test_the_checkpoint_file_gives_the_same_network_as_the_recipe(fixture):
    fx = Fixture(*fixture)
    network = gfpgan.build(gfpgan.Config(variant=VARIANTS[fx.meta["cls"]], **fx.kwargs()))
    weights.from_torch(network, weights.load_torch(fx.checkpoint()))
    network.eval()
    with paddle.no_grad():
        image, _ = network(paddle.to_tensor(fx["x"]), randomize_noise=False)
    check(image, fx["image"], "image", "image")


@parametrize(AREA, is_small_network)
def test_loss_and_every_gradient_equal_the_original(fixture):
    fx = Fixture(*fixture)
    network = build(fx)
    for parameter in network.parameters():
        parameter.stop_gradient = False
    x = paddle.to_tensor(fx["x"], stop_gradient=False)
    image, out_rgbs = network(x, randomize_noise=False)
    loss = 0.5 * (image * image).mean()
    for index, picture in enumerate([image, *out_rgbs]):
        weight = paddle.to_tensor(fx.normal(f"{fx.name}/proj{index}", picture.shape))
        loss = loss + (picture * weight).mean()
    loss.backward()
    check(loss, fx["loss"], "loss", "loss")
    check(x.grad[: fx["grad_x"].shape[0]], fx["grad_x"], "gradient", "grad_x")
    check_parameter_gradients(network, fx, "grad_", "gradnorm", "gradient")
    untouched = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max().item()}
    assert set(fx.meta.get("params_without_grad", [])) <= untouched


def check_parameter_gradients(network, fx: Fixture, prefix: str, norms: str, kind: str):
    """Compares gradients, and their norms for every parameter, in the original's layout."""
    gradients = {}
    linear = {path for path, layer in network.named_sublayers() if isinstance(layer, paddle.nn.Linear)}
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            continue
        gradient = parameter.grad.numpy()
        gradients[name] = gradient.T if name.rpartition(".")[0] in linear and gradient.ndim == 2 else gradient
    for key in fx.keys(prefix):
        name = key.removeprefix(prefix)
        if name != "x":
            check(gradients[name], fx[key], kind, key)
    wanted = dict(zip(fx[f"{norms}_keys"].tolist(), fx[norms], strict=True))
    for name, norm in wanted.items():
        got = np.linalg.norm(gradients[name].astype(np.float64)) if name in gradients else 0.0
        check(got, norm, kind, f"norm of the gradient of {name}")


@parametrize(AREA, is_conversion)
def test_a_bilinear_network_folds_into_the_clean_one(fixture):
    fx = Fixture(*fixture)
    found = re.search(r"of (\w+)\.pth", fx.meta.get("note", ""))
    source = manifest(AREA)[found[1] if found else "gfpgan_bilinear"]
    state = gfpgan.convert_bilinear_to_clean(fill(source["fill_spec"], source["seed"]))
    if fx.checkpoint():
        wanted = weights.inner_state(weights.load_torch(fx.checkpoint()))
        assert set(state) == set(wanted)
        for name, value in wanted.items():
            check(state[name], value, "converted_weight", name)
    network = gfpgan.build(gfpgan.Config(variant="clean", **fx.kwargs()))
    weights.from_torch(network, state)
    network.eval()
    with paddle.no_grad():
        image, out_rgbs = network(paddle.to_tensor(fx["x"]), randomize_noise=False)
    check(image, fx["image"], "image", "image")
    check(out_rgbs[-1], fx["out_rgb_last"], "image", "out_rgb_last")


@pytest.mark.slow
@parametrize(AREA, is_full_network)
def test_the_shipped_size_equals_the_original(fixture):
    fx = Fixture(*fixture)
    found = re.search(r'"([^"]+)",\(([\d,]+)\)', fx.meta["x"])
    key, shape = found[1], tuple(int(n) for n in found[2].split(","))
    network = build(fx)
    x = paddle.to_tensor(uniform_image(fx.seed, key, shape))
    with paddle.no_grad():
        image, out_rgbs = network(x, randomize_noise=False)
    image = image.numpy()
    size = fx["image_crop96"].shape[-1]
    corner = (image.shape[-1] - size) // 2
    crop = image[:, :, corner : corner + size, corner : corner + size]
    step = image.shape[-1] // fx["image_stride8"].shape[-1]
    check(image[:, :, ::step, ::step], fx["image_stride8"], "image_512", "image_stride8")
    check(crop, fx["image_crop96"], "image_512", "image_crop96")
    for index, picture in enumerate(out_rgbs):
        want = fx[f"out_rgb_{index}_strided32"]
        step = picture.shape[-1] // want.shape[-1]
        check(picture.numpy()[:, :, ::step, ::step], want, "image_512", f"out_rgb_{index}")
