"""tools/convert_weights.py: strict, without PyTorch, nothing written when anything is wrong."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppgan_fr import weights
from ppgan_fr.archs import gfpgan, stylegan2_discriminator
from ppgan_fr.cli import run_command
from ppgan_fr.convert import network_section
from tests.test_weights import dictionary, tensor, zip_file

FIELDS = {"out_size": 16, "narrow": 1 / 64}
OVERRIDES = [f"{key}={value}" for key, value in FIELDS.items()]


def write_checkpoint(path, state: dict[str, np.ndarray]):
    """A PyTorch file {"params": state}."""
    state = {name: np.ascontiguousarray(value, np.float32) for name, value in state.items()}
    entries, storages = {}, {}
    for key, (name, value) in enumerate(state.items()):
        strides = tuple(s // 4 for s in value.strides)
        entries[name] = tensor(str(key), value.shape, strides)
        storages[str(key)] = value.tobytes()
    return zip_file(path, dictionary({"params": dictionary(entries)}), storages)


def state_of(network) -> dict[str, np.ndarray]:
    """The network's state in PyTorch's layout."""
    linear = {path for path, layer in network.named_sublayers() if isinstance(layer, paddle.nn.Linear)}
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    return {n: v.T if n.rpartition(".")[0] in linear and v.ndim == 2 else v for n, v in state.items()}


def convert(source, target, *arguments) -> int:
    return run_command("convert", ["--input", str(source), "--output", str(target), *map(str, arguments)])


@pytest.fixture
def discriminator():
    paddle.seed(0)
    return stylegan2_discriminator.build(stylegan2_discriminator.Config(**FIELDS))


def test_a_checkpoint_becomes_pdparams(tmp_path, discriminator, capsys):
    source = write_checkpoint(tmp_path / "d.pth", state_of(discriminator))
    target = tmp_path / "d.pdparams"
    assert convert(source, target, "--arch", "stylegan2_discriminator", "-o", *OVERRIDES) == 0
    assert "parameters and buffers of stylegan2_discriminator" in capsys.readouterr().out
    state = weights.load(target)
    for name, value in discriminator.state_dict().items():
        np.testing.assert_array_equal(state[name], value.numpy())


def test_every_difference_is_listed_with_exit_code_2_and_nothing_is_written(tmp_path, discriminator, capsys):
    state = state_of(discriminator)
    state["surplus.weight"] = np.zeros(2)
    state["conv_body.0.0.weight"] = np.zeros((1, 1, 1, 1))
    del state["final_linear.1.bias"], state["final_conv.1.bias"]
    source, target = write_checkpoint(tmp_path / "d.pth", state), tmp_path / "d.pdparams"
    assert convert(source, target, "--arch", "stylegan2_discriminator", "-o", *OVERRIDES) == 2
    said = capsys.readouterr().err
    assert "4 differences" in said
    for name in ("surplus.weight", "conv_body.0.0.weight", "final_linear.1.bias", "final_conv.1.bias"):
        assert said.count(name) == 1
    assert not target.exists()


def test_sizes_come_from_the_section_of_a_yaml_that_names_the_network(tmp_path, discriminator):
    source, target = write_checkpoint(tmp_path / "d.pth", state_of(discriminator)), tmp_path / "d.pdparams"
    config = tmp_path / "train.yaml"
    config.write_text(
        "name: x\ngenerator: {arch: gfpgan}\n"
        "recipe: {name: gfpgan, discriminator: {arch: stylegan2_discriminator, out_size: 16, narrow: 0.015625}}\n"
    )
    assert convert(source, target, "--arch", "stylegan2_discriminator", "-c", config) == 0
    assert network_section("gfpgan", config).out_size == 512


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--arch", "gfpgna"], "there is no ppgan_fr/archs/gfpgna.py"),
        (["--arch", "gfpgan", "-o", "narow=1"], "did you mean 'narrow'"),
        (["--arch", "stylegan2_discriminator", "--key", "params_ema", "-o", *OVERRIDES], "available: params"),
        (["--arch", "stylegan2_discriminator", "--bilinear-to-clean", "-o", *OVERRIDES], "needs --arch gfpgan"),
    ],
)
def test_a_wrong_call_is_one_clear_line(tmp_path, discriminator, capsys, arguments, said):
    source, target = write_checkpoint(tmp_path / "d.pth", state_of(discriminator)), tmp_path / "d.pdparams"
    assert convert(source, target, *arguments) == 2
    assert said in capsys.readouterr().err
    assert not target.exists()


def test_a_bilinear_gfpgan_becomes_a_clean_one_of_the_same_pictures(tmp_path):
    paddle.seed(0)
    tiny = {"out_size": 16, "num_style_feat": 6, "narrow": 1 / 32, "num_mlp": 2}
    bilinear = gfpgan.build(gfpgan.Config(variant="bilinear", **tiny))
    for parameter in bilinear.parameters():
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    source, target = write_checkpoint(tmp_path / "b.pth", state_of(bilinear)), tmp_path / "c.pdparams"
    overrides = [f"{key}={value}" for key, value in tiny.items()]
    assert convert(source, target, "--arch", "gfpgan", "--bilinear-to-clean", "-o", *overrides) == 0
    clean = gfpgan.build(gfpgan.Config(**tiny))
    weights.load_into(clean, target)
    bilinear.eval(), clean.eval()
    x = paddle.randn([1, 3, 16, 16])
    with paddle.no_grad():
        want, got = bilinear(x)[0].numpy(), clean(x)[0].numpy()
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
