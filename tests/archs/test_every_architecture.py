"""What every network must do: be built small, run, give gradients, survive saving and loading, have safe names.

A new file in `archs/` is tested from the moment it is there; `SMALL` only makes it quick, `INPUTS` is for files whose
`Config` has no `inputs`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

import ppgan_fr.archs
from ppgan_fr import weights

NAMES = sorted(path.stem for path in Path(ppgan_fr.archs.__file__).parent.glob("*.py") if not path.stem.startswith("_"))

TINY = {"out_size": 32, "num_style_feat": 12, "narrow": 1 / 32, "num_mlp": 2}
SMALL: dict[str, list[dict]] = {
    "arcface": [{"layers": [1, 1, 1, 1]}, {"layers": [1, 1, 1, 1], "use_se": True}],
    "d3dfr": [{"layers": [1, 1, 1, 1], "width_per_group": 8, "size": 64}],
    "gfpgan": [{"variant": variant, **TINY} for variant in ("clean", "original", "bilinear")]
    + [{**TINY, "sft_half": False, "different_w": False, "input_is_latent": False, "fix_decoder": True}],
    "gfpgan_mobile": [{"out_size": 64, "narrow": 1 / 8, "num_style_feat": 32}],
    "hifacegan": [{"variant": variant, "ngf": 4, "crop_size": 64} for variant in ("hifacegan", "lipspade", "spade")],
    "mobile_stylegan": [{"out_size": 64, "narrow": 1 / 16, "num_mlp": 2, "num_style_feat": 32}],
    "parsenet": [{"base_ch": 8, "res_depth": 1, "in_size": 64, "out_size": 64, "ch_range": [8, 16]}],
    "patch_discriminator": [{"ndf": 4}],
    "restoreformer": [
        {
            "ch": 32,
            "ch_mult": [1, 2],
            "embed_dim": 16,
            "z_channels": 16,
            "n_embed": 8,
            "num_res_blocks": 1,
            "resolution": 32,
            "head_size": 4,
        }
    ],
    "sgpn": [{"size": 64, "narrow": 1 / 16, "style_dim": 32, "enc_style_dim": 16, "channel_multiplier": 1}],
    "stylegan2_discriminator": [{"out_size": 32, "narrow": 1 / 32}],
    "stylegan2_generator": [{"variant": variant, **TINY} for variant in ("clean", "original", "bilinear")],
    "vgg19": [{"width": 1 / 16}],
    "yolov5_face": [{"depth_multiple": 0.33, "width_multiple": 0.125, "size": 64}],
}
INPUTS: dict[str, tuple[int, ...]] = {
    "arcface": (1, 128, 128),
    "component_discriminator": (3, 40, 40),
    "inception": (3, 80, 80),
    "lpips": (3, 64, 64),
    "mobile_stylegan": (32,),
    "mobilenet_v2": (3, 64, 64),
    "onet": (3, 48, 48),
    "parsenet": (3, 64, 64),
    "patch_discriminator": (6, 64, 64),
    "restoreformer": (3, 32, 32),
    "retinaface": (3, 64, 64),
    "sface": (3, 112, 112),
    "vgg19": (3, 64, 64),
    "yunet": (3, 64, 64),
}
# attributes that a sub-layer may not be named after: they would hide a method of every layer
RESERVED = set(dir(nn.Layer()))


def variants():
    for name in NAMES:
        options = SMALL.get(name, [{}])
        for number, kwargs in enumerate(options):
            yield pytest.param(name, kwargs, id=name if len(options) == 1 else f"{name}-{number}")


def section(name: str, kwargs: dict):
    return importlib.import_module(f"ppgan_fr.archs.{name}").Config(**kwargs)


def build(config):
    return importlib.import_module(type(config).__module__).build(config)


def example_inputs(config, batch: int = 2) -> list[paddle.Tensor]:
    """Seeded inputs of the shapes that the configuration declares."""
    rng = np.random.default_rng(0)
    shapes = list(getattr(config, "inputs", {}).values()) or [INPUTS.get(config.arch, (3, 64, 64))]
    return [paddle.to_tensor(rng.uniform(-1, 1, (batch, *shape)).astype("float32")) for shape in shapes]


def unsettle(network):
    """Moves every trained parameter a little: layers that start at zero would hide whether gradients pass."""
    for parameter in network.parameters():
        if not parameter.stop_gradient:
            parameter.set_value(parameter + 0.02 * paddle.randn(parameter.shape))


def tensors(value) -> list[paddle.Tensor]:
    """Every tensor of floats in nested outputs."""
    if isinstance(value, paddle.Tensor):
        return [value] if value.dtype in (paddle.float32, paddle.float64) else []
    if isinstance(value, dict):
        value = value.values()
    return [found for item in value for found in tensors(item)] if hasattr(value, "__iter__") else []


@pytest.mark.parametrize(("name", "kwargs"), list(variants()))
def test_it_runs_and_gradients_reach_the_input_and_the_parameters(name, kwargs):
    paddle.seed(0)
    config = section(name, kwargs)
    network = build(config)
    network.eval()
    unsettle(network)
    inputs = example_inputs(config)
    for tensor in inputs:
        tensor.stop_gradient = False
    outputs = tensors(network(*inputs))
    assert outputs, "no output"
    sum((out * out).mean() for out in outputs).backward()
    assert all(np.isfinite(out.numpy()).all() for out in outputs)
    for tensor in inputs:
        assert tensor.grad is not None and np.isfinite(tensor.grad.numpy()).all()
        assert tensor.grad.abs().max().item() > 0
    trained = [p for p in network.parameters() if not p.stop_gradient]
    reached = [p for p in trained if p.grad is not None]
    assert len(reached) == 0 if not trained else len(reached) > len(trained) // 2
    assert all(np.isfinite(p.grad.numpy()).all() for p in reached)


@pytest.mark.parametrize(("name", "kwargs"), list(variants()))
def test_saved_and_reloaded_it_computes_the_same(name, kwargs, tmp_path):
    config = section(name, kwargs)
    paddle.seed(1)
    first, path = build(config), tmp_path / "w.pdparams"
    weights.save(first, path)
    paddle.seed(2)
    second = build(config)
    weights.load_into(second, path)
    first.eval(), second.eval()
    inputs = example_inputs(config, batch=1)
    with paddle.no_grad():
        for a, b in zip(tensors(first(*inputs)), tensors(second(*inputs)), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(("name", "kwargs"), list(variants()))
def test_no_sublayer_hides_a_method_of_layers(name, kwargs):
    network = build(section(name, kwargs))
    named = {path.rpartition(".")[2]: path for path, _ in network.named_sublayers()}
    assert not {key: path for key, path in named.items() if key in RESERVED}


@pytest.mark.parametrize("name", NAMES)
def test_its_config_is_frozen_named_after_its_file_and_refuses_unknown_keys(name):
    config = section(name, {})
    assert config.arch == name
    with pytest.raises(ValueError, match="frozen"):
        config.arch = "other"
    with pytest.raises(ValueError, match="no_such_argument"):
        section(name, {"no_such_argument": 1})
