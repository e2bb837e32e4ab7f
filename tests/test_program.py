"""A rewritten program answers as before, with less to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppgan_fr import program


class Network(nn.Layer):
    """A squared and summed weight, a running mean, and a product that would be far larger than its factors."""

    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([1, 4, 3, 3, 3])
        self.column, self.row = self.create_parameter([600, 1]), self.create_parameter([1, 600])
        self.norm = nn.BatchNorm2D(4)
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        weight = self.weight.squeeze(0)
        energy = (weight * weight).sum(axis=[1, 2, 3])
        x = nn.functional.conv2d(x, weight, padding=1) * paddle.rsqrt(energy + 1e-8).reshape([1, -1, 1, 1])
        return self.linear(self.norm(x) + (self.column * self.row).mean())


@pytest.fixture(scope="module")
def network():
    paddle.seed(0)
    network = Network()
    network.eval()
    return network


@pytest.fixture
def stem(network, tmp_path):
    return saved(network, tmp_path, 3, 8, 8)


def saved(network, folder, *shape):
    spec = paddle.static.InputSpec([None, *shape], "float32", "x")
    with paddle.pir_utils.OldIrGuard():
        paddle.jit.save(network, str(folder / "inference"), input_spec=[spec])
    return folder / "inference"


def operators(stem):
    with paddle.pir_utils.OldIrGuard():
        read = paddle.static.Program.parse_from_string(Path(f"{stem}.pdmodel").read_bytes())
    return [op.type for op in read.global_block().ops]


def answers(stem, x):
    config = paddle.inference.Config(f"{stem}.pdmodel", f"{stem}.pdiparams")
    config.disable_mkldnn()
    config.disable_glog_info()
    predictor = paddle.inference.create_predictor(config)
    handle = predictor.get_input_handle(predictor.get_input_names()[0])
    handle.copy_from_cpu(x)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


def test_what_follows_from_parameters_alone_is_stored_and_the_answer_stays(network, stem, x):
    before = operators(stem)
    program.simplify(stem)
    after = operators(stem)
    assert {"squeeze2", "reduce_sum", "rsqrt"} <= set(before)
    assert not {"squeeze2", "reduce_sum", "rsqrt"} & set(after) and "conv2d" in after
    with paddle.no_grad():
        expected = network(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(answers(stem, x), expected, rtol=0, atol=1e-5)


def test_a_constant_much_larger_than_its_parameters_is_not_stored(stem):
    size = stem.with_suffix(".pdiparams").stat().st_size
    program.simplify(stem)
    assert "elementwise_mul" in operators(stem)
    assert stem.with_suffix(".pdiparams").stat().st_size < 2 * size


def test_a_large_matrix_is_stored_with_its_outputs_first(network, stem, x, monkeypatch):
    monkeypatch.setattr(program, "LARGE", 40)
    program.simplify(stem)
    with paddle.pir_utils.OldIrGuard():
        block = paddle.static.Program.parse_from_string(stem.with_suffix(".pdmodel").read_bytes()).global_block()
    product = next(op for op in block.ops if op.type == "matmul_v2")
    assert product.attr("trans_y") and block.var(product.input("Y")[0]).shape == (5, 8)
    with paddle.no_grad():
        expected = network(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(answers(stem, x), expected, rtol=0, atol=1e-5)


def test_a_second_time_changes_nothing(stem, x):
    program.simplify(stem)
    once, answer = operators(stem), answers(stem, x)
    program.simplify(stem)
    assert operators(stem) == once
    np.testing.assert_array_equal(answers(stem, x), answer)


def test_a_program_for_one_picture_says_so_and_answers_alike(stem, x, tmp_path):
    single = tmp_path / "inference.single"
    program.for_one_picture(stem, single)
    with paddle.pir_utils.OldIrGuard():
        read = paddle.static.Program.parse_from_string(Path(f"{single}.pdmodel").read_bytes())
    assert read.global_block().var("x").shape == (1, 3, 8, 8)
    np.testing.assert_array_equal(answers(single, x[:1]), answers(stem, x[:1]))


class Mapping(nn.Layer):
    """A row through a matrix."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 7)

    def forward(self, x):
        return self.linear(x)


def test_for_one_picture_a_row_meets_a_large_matrix_without_packing_it(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "LARGE", 80)
    network, single = Mapping(), tmp_path / "inference.single"
    stem = saved(network, tmp_path, 12)
    program.simplify(stem)
    program.for_one_picture(stem, single)
    assert "matmul_v2" in operators(stem) and "matmul_v2" not in operators(single)
    row = np.random.default_rng(0).standard_normal((1, 12)).astype(np.float32)
    with paddle.no_grad():
        expected = network(paddle.to_tensor(row)).numpy()
    np.testing.assert_allclose(answers(single, row), expected, rtol=0, atol=1e-6)


class Tokens(Mapping):
    """Five rows of each picture through the same matrix."""

    def forward(self, x):
        return self.linear(x.reshape([-1, 12]))


def test_several_rows_of_one_picture_stay_a_product_of_matrices(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "LARGE", 80)
    stem, single = saved(Tokens(), tmp_path, 5, 12), tmp_path / "inference.single"
    program.simplify(stem)
    program.for_one_picture(stem, single)
    rows = np.random.default_rng(0).standard_normal((1, 5, 12)).astype(np.float32)
    np.testing.assert_array_equal(answers(single, rows), answers(stem, rows))


def test_the_mode_of_paddle_is_what_it_was(stem):
    assert paddle.in_dynamic_mode()
    program.simplify(stem)
    assert paddle.in_dynamic_mode() and paddle.framework.in_pir_mode() is False
