"""Ten faults planted in the chains of GFPGAN_lite, with the real programs: each ends the chain and is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.tipc.conftest import ROOT, Outcome

pytestmark = pytest.mark.slow

FOLDER = "test_tipc/configs/GFPGAN_lite"
TRAIN, SERVE = f"{FOLDER}/train_infer_python.txt", f"{FOLDER}/serving_infer_python.txt"
LITE, WHOLE = "lite_train_lite_infer", "whole_infer"
INFERENCE = "test_tipc/data/GFPGAN_lite/inference"


def bash(tree: Path, script: str, file: str, mode: str, **variables: str) -> Outcome:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", f"test_tipc/{script}", file, mode],
        cwd=tree,
        env={**os.environ, "PATH": path, "TIPC_HAS_GPU": "no", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    return Outcome(done.returncode, done.stdout)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The repository with a test_tipc of its own, and an exported network."""
    tree = tmp_path_factory.mktemp("tree")
    for path in ROOT.iterdir():
        if path.name not in ("test_tipc", "build", "output", ".git"):
            (tree / path.name).symlink_to(path)
    shutil.copytree(ROOT / "test_tipc", tree / "test_tipc", ignore=shutil.ignore_patterns("output", "data"))
    outcome = bash(tree, "prepare.sh", f"{FOLDER}/inference_cpp.txt", "cpp_infer")
    assert outcome.code == 0, outcome.text
    return tree


@pytest.fixture
def tree(prepared):
    """The prepared repository, with parameter files and reference numbers as they were."""
    yield prepared
    for name in ("configs", "results"):
        shutil.rmtree(prepared / "test_tipc" / name)
        shutil.copytree(ROOT / "test_tipc" / name, prepared / "test_tipc" / name)


def edit(tree: Path, file: str, *changes: tuple[str, str]) -> None:
    text = (tree / file).read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (tree / file).write_text(text, encoding="utf-8")


def infer_once(tree: Path, folder: str = INFERENCE, pictures: str = "test_tipc/data/pictures") -> None:
    """Changes the file to one combination with an exported network."""
    edit(
        tree,
        TRAIN,
        ("infer_export:norm_export", "infer_export:null"),
        ("infer_model:test_tipc/data/GFPGAN_lite/generator.pdparams", f"infer_model:{folder}"),
        ("--use_mkldnn:True|False", "--use_mkldnn:False"),
        ("--cpu_threads:1|2", "--cpu_threads:1"),
        ("--batch_size:1|2", "--batch_size:1"),
        ("--precision:fp32|bf16", "--precision:fp32"),
        ("--image_dir:test_tipc/data/pictures", f"--image_dir:{pictures}"),
    )


def failure(outcome: Outcome) -> str:
    assert outcome.code == 1, outcome.text
    (line,) = [line for line in outcome.text.splitlines() if line.startswith("TIPC failed: ")]
    return line


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("tools/train.py", "tools/no_such_program.py", "no_such_program.py"),
        ("data.root=test_tipc/data/lite/train", "data.root=no/such/folder", "no/such/folder"),
        ("train.total_steps:", "train.totl_steps:", "train.totl_steps"),
        ("train.progress=false", "recipe.optim_g.lr=1e30", " became "),  # "g/pixel became nan", or a weight
        ("train.progress=false", "recipe.optim_g.lr=1e-60", "the weights did not change"),  # zero in float32
        ("##\n", "\n", "line 5 is blank"),
    ],
    ids=["a command that fails", "a missing file", "a wrong key", "a NaN loss", "unchanged weights", "a blank line"],
)
def test_a_fault_of_training_is_named(tree, old, new, named):
    edit(tree, TRAIN, (old, new))
    assert named in failure(bash(tree, "test_train_inference_python.sh", TRAIN, LITE))


def test_a_network_without_a_fault_passes(tree):
    infer_once(tree)
    outcome = bash(tree, "test_train_inference_python.sh", TRAIN, WHOLE)
    assert outcome.code == 0, outcome.text
    assert "TIPC passed: 2 of 2 commands" in outcome.text
    assert "agree with test_tipc/results/GFPGAN_lite_train_infer_python_whole_infer.txt" in outcome.text


def test_an_empty_result_is_named(tree):
    folder = tree / "test_tipc" / "data" / "no_face"
    folder.mkdir()
    cv2.imwrite(str(folder / "noise.png"), np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8))
    infer_once(tree, pictures="test_tipc/data/no_face")
    assert "noise.png: no_face" in failure(bash(tree, "test_train_inference_python.sh", TRAIN, WHOLE))


def test_a_wrong_number_is_named(tree):
    infer_once(tree)
    file = tree / "test_tipc" / "results" / "GFPGAN_lite_train_infer_python_whole_infer.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    index = next(number for number, line in enumerate(lines) if "/cell_3_3: " in line)
    name, _, value = lines[index].partition(": ")
    lines[index] = f"{name}: {float(value) + 0.003:.6f}"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert f"{name} is " in failure(bash(tree, "test_train_inference_python.sh", TRAIN, WHOLE))


def test_another_models_folder_is_named(tree):
    infer_once(tree, folder=f"{INFERENCE}/yunet")
    line = failure(bash(tree, "test_train_inference_python.sh", TRAIN, WHOLE))
    assert "holds yunet, not gfpgan: another model's folder" in line


def test_a_server_that_does_not_start_is_named(tree):
    content = (tree / SERVE).read_text(encoding="utf-8").splitlines()
    content[4] = "trans_model:null"
    (tree / SERVE).write_text("\n".join(content) + "\n", encoding="utf-8")
    variables = {"SERVING_VENV": "no/such/environment", "TIPC_PORT": "18178"}
    outcome = bash(tree, "test_serving_infer_python.sh", SERVE, "serving_infer", **variables)
    assert "the server ended before it answered: " in failure(outcome)
    assert "the serving environment is not there" in failure(outcome)
