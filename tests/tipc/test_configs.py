"""Every parameter file refers to things that exist, and every key in it is understood by the program it goes to."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.commands import ROOT, problems

CONFIGS = ROOT / "test_tipc" / "configs"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in CONFIGS.glob("*/*.txt"))
HEADERS = {
    "===train_params===": 51,
    "===paddle2onnx_params===": 16,
    "===serving_params===": 14,
    "===cpp_infer_params===": 12,
    "===ptq_params===": 20,
    "===lite_params===": 8,
}
MODELS = {"GFPGAN", "GFPGAN_lite", "GFPGAN_mobile", "HiFaceGAN", "SGPN"}
TRAINED = [file for file in FILES if (ROOT / file).read_text(encoding="utf-8").startswith("===train_params===")]


def lines(file: str) -> list[str]:
    return (ROOT / file).read_text(encoding="utf-8").splitlines()


def split(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key, value


def by_mode(value: str) -> list[str]:
    return [part.partition("=")[2] for part in value.split("|")] if "=" in value else [value]


def scripts(file: str) -> set[str]:
    """Paths of programs of this repository that a file names."""
    return set(re.findall(r"(?<![\w/])(?:tools|deploy)/[\w/]+\.(?:py|sh)", "\n".join(lines(file))))


def test_every_model_has_its_basic_chain():
    assert {path.name for path in CONFIGS.iterdir()} == MODELS
    assert [model for model in MODELS if not (CONFIGS / model / "train_infer_python.txt").is_file()] == []


@pytest.mark.parametrize("file", FILES)
def test_a_parameter_file_has_the_lines_of_its_dialect(file):
    content = lines(file)
    assert content[0] in HEADERS
    assert len(content) >= HEADERS[content[0]]
    assert [number for number, line in enumerate(content, 1) if not line.strip()] == []
    assert [line for line in content if not re.match(r"^(##|=+\w+=+|[^:]+:.*)$", line)] == []
    assert split(content[1]) == ("model_name", (ROOT / file).parent.name)


@pytest.mark.parametrize("file", FILES)
def test_a_value_holds_no_second_colon(file):
    fields = [line for line in lines(file) if line.count(":") > 1]
    assert fields == []


@pytest.mark.parametrize("file", FILES)
def test_the_programs_of_a_parameter_file_exist(file):
    # a deployment that is not part of the checkout has no folder, and its chain says "not run on this machine"
    missing = [name for name in scripts(file) if not (ROOT / name).is_file() and (ROOT / name).parent.is_dir()]
    assert missing == []
    assert [name for name in scripts(file) if name.startswith("tools/") and not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("file", TRAINED)
def test_training_understands_every_key_of_every_mode(file):
    content = lines(file)
    command = split(content[15])[1]
    if command == "null":
        return
    steps_key, steps = split(content[6])
    batch_key, batches = split(content[8])
    assert len(by_mode(steps)) == len(by_mode(batches))
    for step, batch in zip(by_mode(steps), by_mode(batches), strict=True):
        keys = [f"{steps_key}={step}", f"{batch_key}={batch}", f"{split(content[7])[0]}=x", split(content[19])[1]]
        keys += [f"{split(content[5])[0]}=float16", "train.save_every=1", "train.milestone_every=1"]
        assert problems(["python", *command.split(), *keys]) == []


@pytest.mark.parametrize("file", TRAINED)
def test_evaluation_export_and_inference_understand_their_keys(file):
    content = lines(file)
    for line in (24, 30):
        command = split(content[line - 1])[1]
        keys = [f"{split(content[28])[0]}=x.pdparams"]
        if line == 30:
            keys.append(f"{split(content[27])[0]}=x")
        if command != "null":
            assert problems(["python", *command.split(), *keys]) == []
    fields = [split(content[number - 1]) for number in range(41, 52)]
    options = [f"{key}={value.split('|')[0]}" for key, value in fields if value != "null" and key != "null"]
    options += [f"{key}=x" for key, value in fields if value == "null" and key in ("--model_dir", "--save_dir")]
    command = split(content[39])[1].split()
    if command != ["null"]:
        assert problems(["python", *command, *options]) == []


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "test_tipc").glob("*.sh")))
def test_a_driver_is_right_bash(script):
    done = subprocess.run(["bash", "-n", f"test_tipc/{script}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
