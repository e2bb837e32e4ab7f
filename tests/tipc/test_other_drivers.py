"""Conversion, serving, compiled training, speed: what they accept, and the faults that must end them."""

from __future__ import annotations

import socket

import pytest

ONNX_FILE = """\
===paddle2onnx_params===
model_name:GFPGAN
python:python
2onnx:stand_in.py onnx
--model_dir:inference
--model_filename:inference.pdmodel
--params_filename:inference.pdiparams
--save_file:inference/model.onnx
--opset_version:16
--enable_onnx_checker:True
inference_model_url:null
inference:stand_in.py infer
--cpu_threads:1
--model_dir:inference
--image_dir:pictures
--save_dir:null
===compare_params===
inference:stand_in.py infer --cpu_threads=2
--model_dir:null
--image_dir:null
--save_dir:null
"""
SERVING_FILE = """\
===serving_params===
model_name:GFPGAN
python:python
serving_model_url:null
trans_model:null
--dirname:inference
--model_filename:inference.pdmodel
--params_filename:inference.pdiparams
--serving_server:inference
--serving_client:null
serving_dir:serving
web_service:stand_in.py server
--use_gpu:null
pipline:client.py
"""
CLIENT = """\
import shutil, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
shutil.copytree(options["--image_dir"], options["--save_dir"])
"""
BENCHMARK = """\
===train_benchmark_params==
batch_size:2|4
fp_items:fp32
epoch:4
train.profiler_options:batch_range=[1,2];profile_path=p
flags:null
"""


@pytest.fixture
def exported(chain):
    """The chain with an inference model in place."""
    folder = chain.root / "inference"
    folder.mkdir()
    for name in ("inference.pdmodel", "inference.pdiparams"):
        (folder / name).write_bytes(b"x")
    (folder / "inference.yml").write_text("arch: gfpgan\n")
    return chain


@pytest.fixture
def serving(exported):
    (exported.root / "serving").mkdir()
    (exported.root / "serving" / "client.py").write_text(CLIENT)
    exported.file.write_text(SERVING_FILE)
    return exported


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def failure(outcome) -> str:
    assert outcome.code == 1, outcome.text
    (line,) = [line for line in outcome.text.splitlines() if line.startswith("TIPC failed: ")]
    return line


def test_compiled_training_has_the_same_losses(chain):
    outcome = chain.run(script="test_train_dy2static_python.sh")
    assert outcome.code == 0, outcome.text
    assert "4 losses agree" in outcome.text
    assert "3 of 3 commands" in outcome.text


def test_compiled_training_with_another_loss_is_named(chain):
    outcome = chain.run(script="test_train_dy2static_python.sh", fault="other losses")
    assert "loss of step 4: 2.5" in failure(outcome)


def test_a_benchmark_leaves_a_speed_for_each_case(chain):
    chain.file.write_text(chain.file.read_text() + BENCHMARK)
    outcome = chain.run("benchmark_train", script="benchmark_train.sh")
    assert outcome.code == 0, outcome.text
    assert outcome.text.count('"ips": 5.8') == 2
    assert "3 of 3 commands" in outcome.text


def test_a_benchmark_without_its_block_is_refused(chain):
    assert "there is no block" in failure(chain.run("benchmark_train", script="benchmark_train.sh"))


def test_onnx_runtime_agrees_with_paddle_inference(exported):
    exported.file.write_text(ONNX_FILE)
    outcome = exported.run("paddle2onnx_infer", script="test_paddle2onnx.sh")
    assert outcome.code == 0, outcome.text
    assert "4 of 4 commands" in outcome.text


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("missing file", "left no inference/model.onnx"),
        ("wrong number", "the reference has"),
        ("empty result", "no picture was written"),
    ],
)
def test_a_fault_of_the_conversion_is_named(exported, fault, named):
    exported.file.write_text(ONNX_FILE)
    assert named in failure(exported.run("paddle2onnx_infer", script="test_paddle2onnx.sh", fault=fault))


def test_the_conversion_of_another_models_folder_is_refused(exported):
    exported.file.write_text(ONNX_FILE)
    (exported.root / "inference" / "inference.yml").write_text("arch: sgpn\n")
    assert "another model's folder" in failure(exported.run("paddle2onnx_infer", script="test_paddle2onnx.sh"))


def test_a_server_is_started_asked_and_stopped(serving, port):
    variables = {"TIPC_PORT": port, "STAND_IN_PORT": port, "TIPC_PICTURES": "pictures"}
    outcome = serving.run("serving_infer", script="test_serving_infer_python.sh", **variables)
    assert outcome.code == 0, outcome.text
    assert "3 of 3 commands" in outcome.text
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0


def test_a_server_that_does_not_start_is_named(serving, port):
    variables = {"TIPC_PORT": port, "STAND_IN_PORT": port, "TIPC_PICTURES": "pictures"}
    outcome = serving.run(
        "serving_infer", script="test_serving_infer_python.sh", fault="server does not start", **variables
    )
    assert "the server ended before it answered" in failure(outcome)
    assert "cannot bind the port" in outcome.text


def test_a_deployment_that_is_not_there_is_no_pass(exported):
    exported.file.write_text(SERVING_FILE)
    outcome = exported.run("serving_infer", script="test_serving_infer_python.sh")
    assert outcome.code == 77
    assert "not run on this machine: serving is not part of this checkout" in outcome.text


def test_the_dispatcher_chooses_the_driver_by_the_first_line(chain):
    outcome = chain.run("lite_train_lite_infer", script="run.sh")
    assert outcome.code == 0, outcome.text
    chain.file.write_text("===unknown_params===\n")
    assert "belongs to no driver" in failure(chain.run(script="run.sh"))
