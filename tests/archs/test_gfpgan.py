"""GFP-GAN's behaviour beside parity: noise, latents, fidelity, freezing, a given prior, export."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppgan_fr import weights
from ppgan_fr.archs import gfpgan, stylegan2_generator
from ppgan_fr.config import ConfigError, make_config

VARIANTS = ("clean", "original", "bilinear")
TINY = {"out_size": 32, "num_style_feat": 12, "narrow": 1 / 32, "num_mlp": 2}


def tiny(variant="clean", **kwargs):
    paddle.seed(0)
    network = gfpgan.build(gfpgan.Config(variant=variant, **(TINY | kwargs)))
    for name, parameter in network.named_parameters():  # strengths of noise start at zero
        if name.endswith(("style_conv1.weight",)) or name.split(".")[-1] == "weight" and parameter.shape == [1]:
            parameter.set_value(paddle.full([1], 0.5))
    return network


def faces(batch=2):
    rng = np.random.default_rng(0)
    return paddle.to_tensor(rng.uniform(-1, 1, (batch, 3, 32, 32)).astype("float32"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pyramid_goes_from_8_pixels_to_the_full_size(variant):
    image, out_rgbs = tiny(variant)(faces())
    assert image.shape == [2, 3, 32, 32]
    assert [picture.shape for picture in out_rgbs] == [[2, 3, 8, 8], [2, 3, 16, 16], [2, 3, 32, 32]]
    assert tiny(variant)(faces(), return_rgb=False)[1] == []


def test_noise_is_fresh_in_training_and_stored_in_evaluation():
    network = tiny()
    with paddle.no_grad():
        assert (network(faces())[0] - network(faces())[0]).abs().max().item() > 0
        network.eval()
        assert (network(faces())[0] - network(faces())[0]).abs().max().item() == 0
        fresh = network(faces(), randomize_noise=True)[0]
        assert (fresh - network(faces())[0]).abs().max().item() > 0


def test_latents_reproduce_the_picture_when_the_features_are_switched_off():
    network = tiny()
    network.eval()
    with paddle.no_grad():
        image, _, latents = network(faces(), return_latents=True, weight=0.0)
        prior, _ = network.stylegan_decoder(latents, input_is_latent=True)
    assert latents.shape == [2, 8, 12]
    np.testing.assert_allclose(image.numpy(), prior.numpy(), atol=1e-5)


def test_the_fidelity_weight_moves_from_the_prior_to_the_published_network():
    network = tiny()
    network.eval()
    with paddle.no_grad():
        published, half, prior = (network(faces(), weight=weight)[0] for weight in (1.0, 0.5, 0.0))
        as_tensor = network(faces(), weight=paddle.to_tensor(1.0))[0]
    np.testing.assert_allclose(as_tensor.numpy(), published.numpy(), atol=1e-5)
    whole = (published - prior).abs().mean().item()
    assert 0 < (half - prior).abs().mean().item() < whole


def test_a_fixed_decoder_gets_no_gradient_but_passes_it_on():
    network = tiny(fix_decoder=True)
    network(faces())[0].mean().backward()
    assert all(p.stop_gradient and p.grad is None for p in network.stylegan_decoder.parameters())
    assert network.final_linear.weight.grad.abs().max().item() > 0


def test_the_decoder_starts_from_the_given_prior(tmp_path):
    shared = {key: value for key, value in TINY.items() if key != "variant"}
    prior = stylegan2_generator.build(stylegan2_generator.Config(**shared))
    path = tmp_path / "prior.pdparams"
    weights.save(prior, path)
    network = tiny(decoder_load_path=str(path))
    want = prior.constant_input.weight.numpy()
    np.testing.assert_array_equal(network.stylegan_decoder.constant_input.weight.numpy(), want)
    with pytest.raises(weights.WeightsError, match=r"prior\.pdparams.*differences"):
        gfpgan.build(gfpgan.Config(**(TINY | {"out_size": 64, "decoder_load_path": str(path)})))


def test_a_size_that_is_no_power_of_two_is_a_mistake_of_the_configuration():
    with pytest.raises(ConfigError, match="generator.out_size: .*power of two.*got 500"):
        make_config({"name": "x", "generator": {"arch": "gfpgan", "out_size": 500}})


def test_names_of_another_network_cannot_be_folded():
    with pytest.raises(ValueError, match="resblock.weight: not a parameter"):
        gfpgan.convert_bilinear_to_clean({"resblock.weight": np.zeros(1)})


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_released_size_has_the_published_number_of_parameters(variant):
    # counted in the originals at 512 pixels, channel multiplier 2 (clean, bilinear) and 1 (original)
    kwargs = {"channel_multiplier": 1, "out_size": 512} if variant == "original" else {"out_size": 512}
    config = gfpgan.Config(variant=variant, **kwargs)
    expected = {"clean": 86, "bilinear": 86, "original": 76}[variant]
    with paddle.LazyGuard():
        network = gfpgan.build(config)
    assert round(sum(int(np.prod(p.shape)) for p in network.parameters()) / 1e6) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_exported_with_a_dynamic_batch_it_computes_the_same(variant, tmp_path):
    network = tiny(variant)
    network.eval()
    spec = [paddle.static.InputSpec([None, 3, 32, 32], "float32", name="lq")]
    with paddle.pir_utils.OldIrGuard():
        paddle.jit.save(paddle.jit.to_static(network, input_spec=spec), str(tmp_path / "inference"))
    options = paddle.inference.Config(str(tmp_path / "inference.pdmodel"), str(tmp_path / "inference.pdiparams"))
    options.disable_glog_info()
    options.disable_mkldnn()
    predictor = paddle.inference.create_predictor(options)
    network = tiny(variant)
    network.eval()
    for batch in (1, 3):
        x = faces(batch)
        with paddle.no_grad():
            want = network(x)[0].numpy()
        got = predictor.run([x])[0].numpy()
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
