from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppgan_fr.archs import hifacegan, patch_discriminator
from ppgan_fr.archs._spectral import SpectralConv2D

VARIANTS = ("hifacegan", "lipspade", "spade")


def lively(variant: str = "hifacegan", **options) -> hifacegan.HiFaceGAN:
    """A small generator with weights large enough to see a picture (fresh ones answer about 1e-6)."""
    paddle.seed(3)
    network = hifacegan.build(hifacegan.Config(variant=variant, ngf=4, **options))
    for parameter in network.parameters():
        fan_in = max(int(np.prod(parameter.shape[1:])), 1)
        parameter.set_value(paddle.randn(parameter.shape) * (1.3 / fan_in**0.5 if parameter.ndim > 1 else 0.2))
    network.eval()
    return network


def pictures(count: int = 2, height: int = 64, width: int = 32, seed: int = 0) -> paddle.Tensor:
    rng = np.random.default_rng(seed)
    return paddle.to_tensor(rng.uniform(0, 1, (count, 3, height, width)).astype("float32"))


def answer(network, x, **options) -> np.ndarray:
    with paddle.no_grad():
        return network(x, **options)[0].numpy()


def state(network) -> dict[str, np.ndarray]:
    return {key: value.numpy().copy() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_answer_has_the_size_of_the_picture_and_lies_between_minus_one_and_one(variant):
    out = answer(lively(variant), pictures())
    assert out.shape == (2, 3, 64, 32)
    assert out.std() > 0.01
    assert np.abs(out).max() <= 1


def test_sizes_that_the_original_would_cut_silently_are_refused():
    with pytest.raises(ValueError, match="multiples of 32, got 80x64"):
        lively()(pictures(1, 80, 64))
    with pytest.raises(ValueError, match="multiple of 32"):
        hifacegan.Config(crop_size=100)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("test_mode", ["eval", "batch_stats"])
def test_evaluation_leaves_the_state_alone(variant, test_mode):
    network = lively(variant, test_mode=test_mode)
    before = state(network)
    first, second = answer(network, pictures()), answer(network, pictures())
    np.testing.assert_array_equal(first, second)
    for key, value in state(network).items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


def test_training_advances_spectral_norms_and_running_statistics_also_without_gradients():
    network = lively()
    network.train()
    before = state(network)
    answer(network, pictures(2, 64, 64))
    changed = {key.rpartition(".")[2] for key, value in state(network).items() if (value != before[key]).any()}
    assert changed == {"weight_u", "weight_v", "running_mean", "running_var"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_batch_stats_a_picture_does_not_depend_on_its_neighbours(variant):
    network = lively(variant, test_mode="batch_stats")
    batch = pictures(3, 64, 64)
    together = answer(network, batch)
    for index in range(3):
        np.testing.assert_allclose(answer(network, batch[index : index + 1])[0], together[index], atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_stats_is_what_training_mode_gives_the_first_single_picture(variant):
    one = pictures(1, 64, 64)
    training = lively(variant)
    training.train()
    np.testing.assert_allclose(answer(lively(variant, test_mode="batch_stats"), one), answer(training, one), atol=1e-4)


@pytest.mark.parametrize("phase", [0, 1, 2, 3])
def test_an_earlier_phase_makes_a_smaller_picture(phase):
    assert answer(lively(), pictures(1, 64, 32), train_phase=phase).shape == (1, 3, 8 * 2**phase, 4 * 2**phase)


def test_there_is_no_fifth_phase():
    with pytest.raises(ValueError, match="train_phase"):
        lively()(pictures(), train_phase=4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_sources_of_guidance_meet_their_ends(variant):
    network = lively(variant)
    a, b = pictures(seed=1), pictures(seed=2)
    only_a, only_b = answer(network, a), answer(network, b)

    def mixed(n, mode):
        with paddle.no_grad():
            return network.mixed_guidance(a, b, n, mode)[0].numpy()

    np.testing.assert_array_equal(mixed(0, "progressive"), only_b)
    np.testing.assert_array_equal(mixed(8, "progressive"), only_a)
    np.testing.assert_array_equal(mixed(8, "one_plug"), only_b)
    np.testing.assert_array_equal(mixed(8, "one_ablate"), only_a)
    for n in (1, 6):
        assert not np.array_equal(mixed(n, "progressive"), only_a)
        assert not np.array_equal(mixed(n, "progressive"), only_b)
        # a level plugged into B and the same level ablated from A are opposite choices
        assert not np.array_equal(mixed(n, "one_plug"), mixed(n, "one_ablate"))


def test_which_levels_see_the_first_source():
    assert hifacegan.mixed_levels(3, "progressive") == [True] * 3 + [False] * 5
    assert hifacegan.mixed_levels(2, "one_plug") == [False, False, True] + [False] * 5
    assert hifacegan.mixed_levels(0, "one_ablate") == [False] + [True] * 7
    with pytest.raises(ValueError, match="progressive, one_plug, one_ablate"):
        hifacegan.mixed_levels(1, "alternating")
    with pytest.raises(ValueError, match="negative"):
        hifacegan.mixed_levels(-1, "one_plug")


def test_lipspade_keeps_the_first_convolution_that_its_checkpoints_carry_but_does_not_use_it():
    network = lively("lipspade")
    assert "fc.weight" in network.state_dict()
    before = answer(network, pictures())
    network.fc.weight.set_value(paddle.zeros_like(network.fc.weight))
    np.testing.assert_array_equal(answer(network, pictures()), before)


def test_the_start_of_spade_sees_every_32nd_pixel_only():
    network = lively("spade")
    x = pictures(1, 64, 64)
    with paddle.no_grad():
        start = network.fc(x[:, :, ::32, ::32]).numpy()
        np.testing.assert_array_equal(network._start(x).numpy(), start)


def test_local_importance_pooling_of_equal_importance_is_an_average_of_existing_pixels():
    pool = hifacegan.LocalImportancePool(2)
    pool.logit[0].weight.set_value(paddle.zeros_like(pool.logit[0].weight))
    x = paddle.ones([1, 2, 8, 8]) * 3
    np.testing.assert_allclose(pool(x).numpy(), np.full((1, 2, 4, 4), 3), rtol=1e-6)


def test_the_formula_of_the_paper_equals_four_loops():
    paddle.seed(1)
    layer = hifacegan.CorrelationConv2D(2, 3, kernel_size=3, hidden=4, embedding=5, limit="tanh", stride=2)
    layer.to(dtype="float64")
    layer.bias.set_value(np.arange(3.0))
    x = np.random.default_rng(0).standard_normal((1, 2, 6, 4))
    g = layer.embed(paddle.to_tensor(x)).numpy()
    w, wanted = layer.weight.numpy(), np.zeros((1, 3, 3, 2)) + np.arange(3.0)[None, :, None, None]
    for row in range(3):
        for column in range(2):
            i, j = 2 * row, 2 * column
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if not (0 <= i + di < 6 and 0 <= j + dj < 4):
                        continue
                    gate = np.tanh(g[0, :, i, j] @ g[0, :, i + di, j + dj])
                    wanted[0, :, row, column] += w[:, :, di + 1, dj + 1] @ x[0, :, i + di, j + dj] * gate
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("variant", ["hifacegan", "lipspade"])
def test_the_encoder_can_be_built_from_the_formula_and_learns(variant):
    config = hifacegan.Config(variant=variant, ngf=4, suppression="correlation", correlation_dim=3)
    network = hifacegan.build(config)
    out = network(pictures(2, 32, 32))[0]
    assert out.shape == [2, 3, 32, 32]
    out.square().mean().backward()
    gates = [p for name, p in network.named_parameters() if ".embed." in name]
    assert gates
    assert all(p.grad is not None for p in gates)


def test_the_spectral_estimate_approaches_the_largest_singular_value():
    paddle.seed(0)
    layer = SpectralConv2D(3, 5, 3, init_gain=1.0)
    layer.train()
    for _ in range(200):
        weight = layer.weight()
    largest = np.linalg.svd(layer.weight_orig.numpy().reshape(5, -1), compute_uv=False)[0]
    np.testing.assert_allclose(weight.numpy() * largest, layer.weight_orig.numpy(), rtol=1e-4)


def test_running_variance_takes_the_unbiased_estimate():
    norm = hifacegan.ParamFreeNorm(2)
    norm.train()
    x = pictures(2, 2, 2)[:, :2]
    norm(x)
    unbiased = x.numpy().transpose(1, 0, 2, 3).reshape(2, -1).var(axis=1, ddof=1)
    np.testing.assert_allclose(norm.running_var.numpy(), 0.9 + 0.1 * unbiased, rtol=1e-6)


def test_the_discriminator_judges_two_scales_by_five_maps_each():
    network = patch_discriminator.build(patch_discriminator.Config(ndf=4))
    answers = network(paddle.concat([pictures(2, 64, 64)] * 2, axis=1))
    assert [[list(f.shape[1:]) for f in scale] for scale in answers] == [
        [[4, 33, 33], [8, 17, 17], [16, 9, 9], [32, 10, 10], [1, 11, 11]],
        [[4, 17, 17], [8, 9, 9], [16, 5, 5], [32, 6, 6], [1, 7, 7]],
    ]


def test_channels_of_the_discriminator_stop_at_512():
    network = patch_discriminator.build(patch_discriminator.Config(ndf=64, n_layers_D=5, num_D=1))
    assert network.discriminator_0.model4[0][0].weight_orig.shape[:2] == [512, 512]


@pytest.mark.parametrize(
    "variant",
    [pytest.param("hifacegan", marks=pytest.mark.slow), pytest.param("lipspade", marks=pytest.mark.slow), "spade"],
)
def test_batch_stats_survives_export_for_any_batch(variant, tmp_path):
    network = lively(variant, test_mode="batch_stats")
    spec = [paddle.static.InputSpec([-1, 3, 64, 64], "float32", "lq")]
    with paddle.pir_utils.OldIrGuard():
        traced = paddle.jit.to_static(network, input_spec=spec, full_graph=True)
        paddle.jit.save(traced, str(tmp_path / "inference"))
    config = paddle.inference.Config(str(tmp_path / "inference.pdmodel"), str(tmp_path / "inference.pdiparams"))
    config.disable_glog_info()
    predictor = paddle.inference.create_predictor(config)
    for batch in (1, 3):
        x = pictures(batch, 64, 64, seed=batch)
        predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(x.numpy())
        predictor.run()
        got = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        np.testing.assert_allclose(got, answer(network, x), atol=1e-4)
