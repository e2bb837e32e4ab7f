"""The StyleGAN2 generator and discriminator against the original, up to second derivatives."""

from __future__ import annotations

import re

import paddle
import pytest

from ppgan_fr import losses, weights
from ppgan_fr.archs import stylegan2_discriminator, stylegan2_generator
from tests.parity.reference import Fixture, parametrize, sample_feature
from tests.parity.test_gfpgan import check_parameter_gradients, record_features
from tests.parity.tolerances import check

pytestmark = pytest.mark.parity

VARIANTS = {
    "StyleGAN2Generator": "original",
    "StyleGAN2GeneratorClean": "clean",
    "StyleGAN2GeneratorBilinear": "bilinear",
}
AREA = "gfpgan"


def is_generator(name, entry):
    return entry.get("cls") in VARIANTS


def is_discriminator(name, entry):
    return entry.get("cls") == "StyleGAN2Discriminator"


def number(text: str, name: str) -> float:
    """The value of a keyword argument in the manifest's description of a call."""
    return float(re.search(rf"{name}=([\d.]+\d)", text)[1])


def generator(fx: Fixture):
    network = stylegan2_generator.build(stylegan2_generator.Config(variant=VARIANTS[fx.meta["cls"]], **fx.kwargs()))
    weights.from_torch(network, fx.state())
    network.eval()
    return network


@parametrize(AREA, is_generator)
def test_every_way_to_call_the_generator_equals_the_original(fixture):
    fx = Fixture(*fixture)
    network = generator(fx)
    z1, z2 = paddle.to_tensor(fx["z1"]), paddle.to_tensor(fx["z2"])
    with paddle.no_grad():
        image, latent = network([z1], return_latents=True, randomize_noise=False)
        check(image, fx["image"], "image", "image")
        check(latent, fx["latent"], "feature", "latent")
        check(network.get_latent(z1), fx["latent"][:, 0], "feature", "get_latent")
        for key in fx.keys("image_trunc"):
            ratio = key.removeprefix("image_trunc")
            image, shrunk = network(
                [z1],
                return_latents=True,
                randomize_noise=False,
                truncation=float(ratio),
                truncation_latent=paddle.to_tensor(fx["mean_latent"]),
            )
            check(image, fx[key], "image", key)
            check(shrunk, fx[f"latent_trunc{ratio}"], "feature", f"latent_trunc{ratio}")
        for key in fx.keys("image_mix"):
            index = int(key.removeprefix("image_mix"))
            image, mixed = network([z1, z2], return_latents=True, randomize_noise=False, inject_index=index)
            check(image, fx[key], "image", key)
            check(mixed, fx[f"latent_mix{index}"], "feature", f"latent_mix{index}")
        noise = [
            paddle.to_tensor(fx.normal(f"{fx.name}/noise{i}", buffer.shape))
            for i, buffer in enumerate(network.noises.as_list())
        ]
        check(network([z2], noise=noise)[0], fx["image_extnoise"], "image", "image_extnoise")
        for key in fx.keys("image_latent_plus"):
            moved = latent + float(key.removeprefix("image_latent_plus"))
            image, _ = network([moved], input_is_latent=True, randomize_noise=False)
            check(image, fx[key], "image", key)


@parametrize(AREA, is_generator)
def test_path_length_and_its_gradients_equal_the_original(fixture):
    fx = Fixture(*fixture)
    network = generator(fx)
    call = fx.meta["path_length"]
    image, latent = network([paddle.to_tensor(fx["z1"])], return_latents=True, randomize_noise=False)
    penalty, length, mean = losses.path_length(
        image,
        latent,
        number(call, "mean_path_length"),
        number(call, "decay"),
        noise=paddle.to_tensor(fx["pl_noise"]),
    )
    check(penalty, fx["pl_penalty"], "loss", "pl_penalty")
    check(length, fx["pl_mean_length"], "loss", "pl_mean_length")
    check(mean, fx["pl_new_mean"], "loss", "pl_new_mean")
    penalty.backward()
    check_parameter_gradients(network, fx, "plgrad_", "plgradnorm", "second_derivative")


def discriminator(fx: Fixture):
    network = stylegan2_discriminator.build(stylegan2_discriminator.Config(**fx.kwargs()))
    weights.from_torch(network, fx.state())
    return network


@parametrize(AREA, is_discriminator)
def test_the_discriminator_judges_every_batch_like_the_original(fixture):
    fx = Fixture(*fixture)
    network = discriminator(fx)
    x = paddle.to_tensor(fx["x"])
    with paddle.no_grad():
        check(network(x), fx["pred"], "feature", "pred")
        check(network(x[:1]), fx["pred_b1"], "feature", "pred_b1")
        paths = [key.removeprefix("feat_b2_") for key in fx.keys("feat_b2_")]
        kept = record_features(network, paths)
        check(network(x[:2]), fx["pred_b2"], "feature", "pred_b2")
    for path in paths:
        want = fx[f"feat_b2_{path}"]
        check(sample_feature(kept[path], want.shape), want, "feature", path)


@parametrize(AREA, is_discriminator)
def test_r1_and_its_gradients_equal_the_original(fixture):
    fx = Fixture(*fixture)
    network = discriminator(fx)
    x = paddle.to_tensor(fx["x"], stop_gradient=False)
    prediction = network(x)
    penalty = losses.r1_penalty(prediction, x)
    check(penalty, fx["r1"], "second_derivative", "r1")
    (10 / 2 * penalty * 16 + 0 * prediction[0].sum()).backward()
    check_parameter_gradients(network, fx, "r1grad_", "r1gradnorm", "second_derivative")


@parametrize(AREA, is_discriminator)
def test_the_loss_and_its_gradients_equal_the_original(fixture):
    fx = Fixture(*fixture)
    network = discriminator(fx)
    x = paddle.to_tensor(fx["x"], stop_gradient=False)
    loss = losses.softplus_real(network(x))
    loss.backward()
    check(loss, fx["loss"], "loss", "loss")
    check(x.grad[: fx["grad_x"].shape[0]], fx["grad_x"], "gradient", "grad_x")
