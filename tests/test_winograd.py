"""Convolutions rewritten by Winograd's filtering answer as before."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from ppgan_fr import program, winograd
from ppgan_fr.inference import offered
from tests.test_program import answers, operators, saved

CHANNELS, SIDE = 6, 8


class Network(nn.Layer):
    """Two convolutions of one picture, a third of their sum, and several that are none of its business."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Conv2D(3, CHANNELS, 3, padding=1, bias_attr=bias) for bias in (None, False))
        self.three = nn.Conv2D(CHANNELS, 4, 3, padding=1)
        self.others = nn.LayerList(
            [
                nn.Conv2D(4, 4, 3, padding=1, stride=2),
                nn.Conv2D(4, 4, 3, padding=2, dilation=2),
                nn.Conv2D(4, 4, 3, padding=1, groups=2),
                nn.Conv2D(4, 4, 3),
                nn.Conv2D(4, 4, 5, padding=2),
                nn.Conv2D(4, 4, 1),
            ]
        )

    def forward(self, x):
        x = self.three(nn.functional.leaky_relu(self.one(x) * self.two(x)))
        for other in self.others:
            x = nn.functional.interpolate(other(x), [SIDE, SIDE])
        return x


@pytest.fixture
def everything_is_worth_it(monkeypatch):
    for name in ("LARGE", "SMALLEST", "WORTH", "WORTH_OUTSIDE_CACHE"):
        monkeypatch.setattr(winograd, name, 0)


@pytest.fixture(scope="module")
def network():
    paddle.seed(0)
    network = Network()
    network.eval()
    return network


def exported(network, folder, side=SIDE):
    program.for_one_picture(saved(network, folder, 3, side, side), folder / "inference.single")
    return folder / "inference.single"


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)


def test_two_by_two_outputs_of_a_window_are_those_of_the_convolution():
    rng = np.random.default_rng(0)
    window, taps = rng.standard_normal((4, 4)), rng.standard_normal((1, 1, 3, 3))
    rows = np.zeros((4, 4))  # B^T: the taps of a row, where its padding puts them
    for i, (values, (before, _)) in enumerate(winograd._B):
        rows[i, 1 - before : 1 - before + len(values)] = values
    products = winograd.transformed(taps)[..., 0, 0] * (rows @ window @ rows.T)
    fold = np.float64([[1, 1, 1, 0], [0, 1, -1, 1]])
    expected = [[(window[y : y + 3, x : x + 3] * taps[0, 0]).sum() for x in range(2)] for y in range(2)]
    np.testing.assert_allclose(fold @ products @ fold.T, expected, rtol=1e-12)


@pytest.mark.usefixtures("everything_is_worth_it")
def test_the_rewritten_network_answers_like_the_eager_one(network, tmp_path, x):
    single = exported(network, tmp_path)
    with paddle.no_grad():
        expected = network(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(answers(single, x), expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(("openvino", "fp32") not in offered(), reason="this Paddle has no OpenVINO engine")
@pytest.mark.usefixtures("everything_is_worth_it")
def test_openvino_answers_like_the_eager_network(network, tmp_path, x):
    from ppgan_fr.face.spec import ModelSpec, TensorSpec, write_spec
    from ppgan_fr.inference import paddle_run

    exported(network, tmp_path)
    inputs = (TensorSpec("x", (-1, 3, SIDE, SIDE)),)
    write_spec(ModelSpec("test", inputs=inputs, single_file="inference.single.pdmodel"), tmp_path)
    with paddle.no_grad():
        expected = network(paddle.to_tensor(x)).numpy()
    answer = paddle_run(tmp_path, engine="openvino", cpu_threads=1)({"x": x})[0]
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("everything_is_worth_it")
def test_only_convolutions_of_stride_one_that_keep_the_size_are_rewritten(network, tmp_path):
    assert operators(exported(network, tmp_path)).count("conv2d") == 3 * 16 + len(network.others)


@pytest.mark.usefixtures("everything_is_worth_it")
def test_convolutions_of_one_picture_share_what_is_made_of_it(network, tmp_path):
    assert operators(exported(network, tmp_path)).count("depthwise_conv2d") == 2 * 16  # of x, and of the product


@pytest.mark.usefixtures("everything_is_worth_it")
def test_odd_sides_stay_as_they_are(network, tmp_path):
    assert operators(exported(network, tmp_path, side=9)).count("depthwise_conv2d") == 0


def test_small_convolutions_stay_as_they_are(network, tmp_path):
    assert operators(exported(network, tmp_path)).count("depthwise_conv2d") == 0


class Halves(nn.Layer):
    """Convolves the two halves of a picture as if they were two pictures."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2D(3, 4, 3, padding=1)

    def forward(self, x):
        halves = paddle.concat([x[:, :, :, : SIDE // 2], x[:, :, :, SIDE // 2 :]], 0)
        return self.convolution(halves).mean([2, 3])


@pytest.mark.usefixtures("everything_is_worth_it")
def test_parts_of_a_picture_that_stand_in_the_batch_stay_as_they_are(tmp_path, x):
    network = Halves()
    network.eval()
    single = exported(network, tmp_path)
    assert operators(single).count("depthwise_conv2d") == 0
    with paddle.no_grad():
        np.testing.assert_allclose(answers(single, x), network(paddle.to_tensor(x)).numpy(), rtol=0, atol=1e-6)
