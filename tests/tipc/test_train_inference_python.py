"""The driver of training, evaluation, export and inference: what it accepts, and every fault that must end it."""

from __future__ import annotations

import pytest


def test_a_good_chain_counts_its_commands(chain):
    outcome = chain.run()
    assert outcome.code == 0, outcome.text
    assert outcome.text.count(" Run successfully with command - GFPGAN - ") == 8
    assert "8 of 8 commands" in outcome.text
    assert "4 logs agree" in outcome.text
    assert outcome.text.startswith("expected: 8 commands")
    output = chain.root / "test_tipc/output/GFPGAN/lite_train_lite_infer"
    assert (output / "results_python.log").read_text().count("Run successfully") == 8
    assert (output / "norm_train_gpus_-1_autocast_null.log").is_file()


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("command fails", "exit code 1"),
        ("missing file", "latest/generator.pdparams: no such checkpoint"),
        ("nan loss", "a loss of iter 4 is NaN"),
        ("unchanged weights", "the weights did not change"),
        ("another model", "holds hifacegan, not gfpgan: another model's folder"),
        ("empty result", "no picture was written"),
        ("wrong number", "the reference has"),
    ],
)
def test_a_fault_ends_the_chain_with_a_line_that_names_it(chain, fault, named):
    outcome = chain.run(fault=fault)
    assert outcome.code == 1, outcome.text
    assert " Run failed with command - GFPGAN - " in outcome.text
    (line,) = [line for line in outcome.text.splitlines() if line.startswith("TIPC failed: ")]
    assert named in line


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("##\n", "\n", "line 5 is blank"),
        ("train_infer_img_dir", "train_infer_image_dir", "line 12 must be train_infer_img_dir:"),
        ("model_name:GFPGAN", "model_name:SGPN", "model_name is SGPN, but the file is in the folder of GFPGAN"),
        ("===train_params===", "===serving_params===", "line 1 must be ===train_params==="),
        ("lite_train_lite_infer=4|", "", "line 7 has no value for the mode lite_train_lite_infer"),
        ("python:python", "python:no_such_python", "there is no program no_such_python"),
    ],
)
def test_a_wrong_parameter_file_is_refused_before_anything_runs(chain, old, new, named):
    chain.edit(old, new)
    outcome = chain.run()
    assert outcome.code == 1
    assert "Run successfully" not in outcome.text
    assert named in outcome.text


def test_a_key_the_trainer_does_not_know_ends_the_chain(chain):
    chain.edit("train.total_steps:", "train.totl_steps:")
    outcome = chain.run()
    assert outcome.code == 1
    assert "TIPC failed: exit code 2: train.totl_steps: unknown key" in outcome.text


def test_a_parameter_file_that_is_not_there_is_named(chain):
    chain.file.unlink()
    outcome = chain.run()
    assert outcome.code == 1
    assert "train_infer_python.txt: no such file" in outcome.text


def test_a_command_that_never_ends_is_ended(chain):
    chain.edit("norm_train:stand_in.py train", "norm_train:stand_in.py wait")
    outcome = chain.run(TIPC_LIMIT="1")
    assert outcome.code == 1
    assert "took longer than 1 s" in outcome.text


def test_a_gpu_that_is_not_there_is_no_pass(chain):
    chain.edit("gpu_list:-1", "gpu_list:0")
    outcome = chain.run()
    assert outcome.code == 77
    assert "not run on this machine" in outcome.text
    assert "Run successfully" not in outcome.text


def test_two_processes_start_through_the_launcher(chain):
    chain.edit("gpu_list:-1", "gpu_list:cpu2")
    outcome = chain.run()
    assert "-m paddle.distributed.launch --nproc_per_node 2" in outcome.text


def test_mixed_precision_sets_the_precision(chain):
    chain.edit("train.precision:null", "train.precision:null|amp")
    outcome = chain.run()
    assert outcome.code == 0, outcome.text
    assert "train.precision=float16" in outcome.text
    assert "16 of 16 commands" in outcome.text


def test_the_text_of_a_parameter_file_is_never_evaluated(chain):
    chain.edit("eval:stand_in.py eval", "eval:stand_in.py eval $(touch owned) `touch owned` ;touch owned")
    chain.run()
    assert not (chain.root / "owned").exists()


def test_reference_numbers_are_kept_and_compared_with(chain):
    kept = chain.root / "test_tipc/results/GFPGAN_train_infer_python_lite_train_lite_infer.txt"
    assert chain.run(TIPC_KEEP="1").code == 0
    numbers = kept.read_text()
    assert "picture/a/cell_7_7: " in numbers
    assert f"4 logs agree with {kept.relative_to(chain.root)} in 138 metrics" in chain.run().text
    (line,) = [line for line in numbers.splitlines() if line.startswith("picture/a/cell_7_7: ")]
    name, _, value = line.partition(": ")
    kept.write_text(numbers.replace(line, f"{name}: {float(value) + 0.003}"))
    outcome = chain.run()
    assert outcome.code == 1
    assert f"{name} is {value.rstrip('0')}" in outcome.text


def test_each_precision_is_compared_by_its_own_tolerance(chain):
    chain.edit("--precision:fp32", "--precision:fp32|fp16")
    outcome = chain.run()
    assert outcome.code == 0, outcome.text
    assert "13 of 13 commands" in outcome.text
    assert "atol 0.001" in outcome.text
    assert "atol 0.002" in outcome.text
    chain.edit("--precision:fp32|fp16", "--precision:fp32|fp7")
    assert "there is no precision fp7" in chain.run().text
