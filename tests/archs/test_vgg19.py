"""VGG19: layer names, depth, input scaling, errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppgan_fr import weights
from ppgan_fr.archs import vgg19


def test_names_follow_torchvisions_numbering():
    assert vgg19.INDEX["conv1_1"] == 0
    assert vgg19.INDEX["relu3_4"] == 17
    assert vgg19.INDEX["conv5_4"] == 34
    assert vgg19.INDEX["pool5"] == 36


def test_only_the_layers_needed_are_built_and_frozen():
    network = vgg19.build(vgg19.Config(layers=("relu2_1", "conv1_2"), width=1 / 8))
    assert len(network.features) == vgg19.INDEX["relu2_1"] + 1
    assert all(parameter.stop_gradient for parameter in network.parameters())
    features = network(paddle.rand([1, 3, 32, 32]))
    assert list(features) == ["conv1_2", "relu2_1"]
    assert features["relu2_1"].shape == [1, 16, 16, 16]


def test_features_before_the_activation_may_be_negative():
    paddle.seed(0)
    network = vgg19.build(vgg19.Config(layers=("conv1_1", "relu1_1"), width=1 / 8))
    features = network(paddle.rand([1, 3, 16, 16]) * 2 - 1)
    assert features["conv1_1"].min().item() < 0 <= features["relu1_1"].min().item()


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [
        ("torchvision", [(1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0 - 0.406) / 0.225]),
        ("caffe", [0 - 103.939, 127.5 - 116.779, 255 - 123.68]),
        ("raw", [1.0, 0.0, -1.0]),
    ],
)
def test_the_input_is_scaled_as_the_weights_want_it(preprocess, expected):
    network = vgg19.build(vgg19.Config(layers=("conv1_1",), width=1 / 8, preprocess=preprocess))
    image = paddle.to_tensor(np.array([1.0, 0.0, -1.0], np.float32).reshape(1, 3, 1, 1))
    np.testing.assert_allclose(network.scale_input(image).numpy().ravel(), expected, rtol=1e-5)


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match="no such layer \\['conv6_1'\\]"):
        vgg19.build(vgg19.Config(layers=("conv6_1",)))


def test_folding_the_original_input_convention_into_the_first_layer_changes_only_the_rim():
    tool = Path(__file__).resolve().parents[2] / "tools" / "third_party" / "vgg19.py"
    spec = importlib.util.spec_from_file_location("convert_vgg19", tool)
    converter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(converter)
    rng = np.random.default_rng(0)
    state = {
        "features.0.weight": rng.normal(0, 0.1, (8, 3, 3, 3)).astype(np.float32),
        "features.0.bias": rng.normal(0, 0.1, 8).astype(np.float32),
    }
    original = vgg19.build(vgg19.Config(layers=("conv1_1",), width=1 / 8, preprocess="caffe"))
    folded = vgg19.build(vgg19.Config(layers=("conv1_1",), width=1 / 8))
    weights.from_torch(original, state)
    weights.from_torch(folded, converter.fold(state))
    image = paddle.rand([1, 3, 12, 12]) * 2 - 1
    expected, got = (network(image)["conv1_1"].numpy()[:, :, 1:-1, 1:-1] for network in (original, folded))
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_a_file_of_the_whole_network_fits_a_shallower_one():
    whole = vgg19.build(vgg19.Config(layers=("conv5_4",), width=1 / 32))
    state = {name: value.numpy() for name, value in whole.state_dict().items()}
    state["classifier.0.weight"] = np.zeros((4, 4), np.float32)  # torchvision's file has it
    shallow = vgg19.build(vgg19.Config(layers=("relu2_1",), width=1 / 32))
    weights.from_torch(shallow, state)
    np.testing.assert_array_equal(shallow.features[5].weight.numpy(), state["features.5.weight"])


def test_an_entry_that_no_vgg19_has_is_still_an_error():
    network = vgg19.build(vgg19.Config(layers=("relu2_1",), width=1 / 32))
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    for name in ("features.37.weight", "head.weight"):
        with pytest.raises(weights.WeightsError, match=f"unexpected: {name}"):
            weights.from_torch(network, {**state, name: np.zeros(1, np.float32)})
