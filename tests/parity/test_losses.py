"""Loss functions against BasicSR's and GFP-GAN's."""

from __future__ import annotations

import functools

import numpy as np
import paddle
import pytest

from ppgan_fr import losses, weights
from ppgan_fr.archs import vgg19
from tests.parity.reference import Fixture, fill, parametrize, uniform_image
from tests.parity.tolerances import check

pytestmark = pytest.mark.parity

# The loss weights the fixture was made with, as far as its manifest does not name them.
PIXEL_WEIGHT, TV_WEIGHT, MULTISCALE_WEIGHT, STYLE_WEIGHT = 0.3, 0.3, 0.5, 50


each = parametrize("gfpgan", lambda name, entry: "vgg_fill_spec" in entry)


@functools.cache
def vgg_of(fixture: tuple[str, str]):
    fixture = Fixture(*fixture)
    network = vgg19.build(vgg19.Config(layers=tuple(fixture.meta["vgg_layer_weights"])))
    weights.from_torch(network, fill(fixture.meta["vgg_fill_spec"], fixture.seed))
    return network


def tensor(array: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(array)


@each
def test_adversarial_losses(fixture):
    fixture = Fixture(*fixture)
    real, fake, weight = tensor(fixture["real_pred"]), tensor(fixture["fake_pred"]), fixture.meta["gan"]["loss_weight"]
    kinds = {key[4:-4] for key in fixture.keys("gan_") if key.endswith("_gen") and "multiscale" not in key}
    for kind in kinds:
        check(losses.gan_loss(real, kind, "real"), fixture[f"gan_{kind}_real_disc"], "loss", kind)
        check(losses.gan_loss(fake, kind, "fake"), fixture[f"gan_{kind}_fake_disc"], "loss", kind)
        check(losses.gan_loss(fake, kind, "generator") * weight, fixture[f"gan_{kind}_gen"], "loss", kind)
    # of a list of features the last entry counts
    both = losses.multiscale(losses.lsgan_real, [real, [fake, real]]) * MULTISCALE_WEIGHT
    check(both, fixture["gan_multiscale_lsgan_gen"], "loss", "multiscale")


@each
def test_pixel_losses(fixture):
    fixture = Fixture(*fixture)
    a, b, weight = (tensor(fixture[key]) for key in "abw")
    functions = {"L1Loss": losses.l1, "MSELoss": losses.mse, "CharbonnierLoss": losses.charbonnier}
    for name, function in functions.items():
        for reduction in ("mean", "sum"):
            for suffix, mask in (("", None), ("_w", weight)):
                got = function(a, b, mask, reduction) * PIXEL_WEIGHT
                check(got, fixture[f"{name}_{reduction}{suffix}"], "loss", f"{name}_{reduction}{suffix}")
    check(losses.total_variation(a) * TV_WEIGHT, fixture["WeightedTVLoss_mean"], "loss", "total variation")


@each
def test_vgg_features(fixture):
    vgg = vgg_of(fixture)
    fixture = Fixture(*fixture)
    features = vgg(tensor(fixture["vgg_a"]))
    for key in fixture.keys("vgg_feat_"):
        want = fixture[key]
        feature = features[key.removeprefix("vgg_feat_").removesuffix("_sub")].numpy()
        step = feature.shape[2] // want.shape[2]
        check(feature[:, : want.shape[1], ::step, ::step], want, "feature", key)


@each
def test_perceptual_and_style_loss(fixture):
    vgg = vgg_of(fixture)
    fixture = Fixture(*fixture)
    criteria = [key.removeprefix("style_") for key in fixture.keys("style_")]
    assert criteria
    for criterion in criteria:
        loss = losses.Perceptual(vgg, fixture.meta["vgg_layer_weights"], criterion)
        image = tensor(fixture["vgg_a"])
        image.stop_gradient = False
        content, style = loss(image, tensor(fixture["vgg_b"]))
        check(content, fixture[f"percep_{criterion}"], "loss", f"perceptual, {criterion}")
        check(style * STYLE_WEIGHT, fixture[f"style_{criterion}"], "loss", f"style, {criterion}")
        if f"percep_style_{criterion}_grad" in fixture:
            (content + style * STYLE_WEIGHT).backward()
            check(image.grad, fixture[f"percep_style_{criterion}_grad"], "gradient", f"gradient, {criterion}")


@each
def test_component_crops_also_beyond_the_border(fixture):
    fixture = Fixture(*fixture)
    boxes = [tensor(fixture[f"roi_loc_{part}"]) for part in ("left_eyes", "right_eyes", "mouths")]
    for key, suffix in (("roi/out", ""), ("roi/gt", "_gt")):
        image = tensor(uniform_image(fixture.seed, key, (2, 3, 512, 512)))
        crops = losses.crop_components(image, *boxes)
        for part, crop in zip(("left_eyes", "right_eyes", "mouths"), crops, strict=True):
            if f"roi_{part}{suffix}" in fixture:
                want = fixture[f"roi_{part}{suffix}"]
                check(crop[:, : want.shape[1]], want, "crop", f"{part}{suffix}")


@each
def test_gram_gray_and_pyramid(fixture):
    fixture = Fixture(*fixture)
    features = fixture.normal("gram", (2, 6, 7, 5))
    check(losses.gram(tensor(features)), fixture["gram"], "operator", "gram")
    if "gray_resize" in fixture:
        output = tensor(uniform_image(fixture.seed, "roi/out", (2, 3, 512, 512)))
        check(losses.gray_resize(output)[:, :, ::2, ::2], fixture["gray_resize"], "operator", "gray")
    target = tensor(uniform_image(fixture.seed, "roi/gt", (2, 3, 512, 512)))
    for i, level in enumerate(losses.pyramid(target, 7)[: len(fixture.keys("pyramid_"))]):
        check(level, fixture[f"pyramid_{i}"], "operator", f"pyramid_{i}")
