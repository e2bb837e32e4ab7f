"""SGPN out of an export folder: its shape network and face model come along, and the pictures are those of predict."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppgan_fr.cli import run_command
from ppgan_fr.face.spec import read_spec

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "smoke" / "sgpn.yaml"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of generator and shape network, as a training leaves them."""
    import paddle

    from ppgan_fr import weights
    from ppgan_fr.config import build, load_config

    folder = tmp_path_factory.mktemp("weights")
    config = load_config(CONFIG, without=("recipe", "data", "train", "evaluate"))
    paddle.seed(0)
    shape = build(config.pipeline.shape)
    for head in shape.final_layers:
        head.weight.set_value(paddle.randn(head.weight.shape) * 0.01)
    weights.save(build(config.generator), folder / "generator.pdparams")
    weights.save(shape, folder / "shape.pdparams")
    return folder / "generator.pdparams"


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "sgpn"
    words = ["-c", str(CONFIG), "-o", f"weights={weights}", f"export.dir={folder}"]
    assert run_command("export", words) == 0
    return folder


@pytest.fixture
def crops(tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    shutil.copy(ROOT / "assets" / "demo" / "astronaut.jpg", folder / "a.jpg")
    cv2.imwrite(str(folder / "b.png"), np.full((128, 128, 3), 90, np.uint8))
    return folder


def infer(model, *words, target="inference_python"):
    command = [sys.executable, str(ROOT / "deploy" / target / "infer.py"), "--model_dir", str(model), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_description_names_what_lies_beside_the_generator(exported):
    spec = read_spec(exported)
    assert spec.input_names == ("lq", "rendered", "coefficients")
    assert spec.companions == {"shape": "shape", "face_model": "face_model.npz"}
    assert read_spec(exported / "shape").kind == "coefficients"


def test_whole_photos_are_those_of_predict(exported, weights, tmp_path):
    photo = ROOT / "assets" / "demo" / "astronaut.jpg"
    done = infer(exported, "--image_dir", photo, "--save_dir", tmp_path / "infer", "--benchmark", "True")
    assert done.returncode == 0, done.stderr
    words = ["-c", str(CONFIG), "--weights", str(weights), "--input", str(photo), "--output", str(tmp_path / "predict")]
    assert run_command("predict", words) == 0
    got, expected = (cv2.imread(str(tmp_path / name / "restored" / photo.name)) for name in ("infer", "predict"))
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert (got != cv2.imread(str(photo))).any()


def test_a_crop_without_a_face_fails_alone(exported, crops, tmp_path):
    done = infer(
        exported, "--image_dir", crops, "--save_dir", tmp_path, "--aligned", True, "--batch_size", 2, "--benchmark=True"
    )
    assert done.returncode == 1
    assert "no face was found in this crop" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["ok", "failed"]
    assert [path.name for path in (tmp_path / "restored").iterdir()] == ["a.jpg"]


@pytest.mark.slow
def test_onnx_runtime_restores_too(exported, tmp_path):
    pytest.importorskip("paddle2onnx", reason="optional: requirements-onnx.txt")
    pytest.importorskip("onnxruntime", reason="optional: requirements-onnx.txt")
    copy = tmp_path / "model"
    shutil.copytree(exported, copy)
    assert run_command("export-onnx", ["--model_dir", str(copy)]) == 0
    photo = ROOT / "assets" / "demo" / "astronaut.jpg"
    for target in ("inference_python", "onnx_python"):
        done = infer(copy, "--image_dir", photo, "--save_dir", tmp_path / target, target=target)
        assert done.returncode == 0, done.stderr
    pictures = [cv2.imread(str(tmp_path / t / "restored" / photo.name)) for t in ("inference_python", "onnx_python")]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 2


def test_a_folder_without_its_companions_says_what_is_missing(exported, crops, tmp_path):
    for lost, complaint in (("face_model.npz", "no such file"), ("shape", "cannot be read")):
        copy = tmp_path / lost.partition(".")[0]
        shutil.copytree(exported, copy)
        shutil.rmtree(copy / lost) if (copy / lost).is_dir() else (copy / lost).unlink()
        done = infer(copy, "--image_dir", crops, "--save_dir", tmp_path / "out", "--aligned", True)
        assert done.returncode == 2
        assert complaint in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    text = (exported / "inference.yml").read_text()
    (copy / "inference.yml").write_text(text[: text.index("companions:")] + "version: 1\n")
    done = infer(copy, "--image_dir", crops, "--save_dir", tmp_path / "out", "--aligned", True)
    assert done.returncode == 2
    assert "exported without shape and face_model" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["pipeline.face_model=nowhere.npz"], "pipeline.face_model: nowhere.npz: no such file; make one"),
        (["pipeline.face_model=null"], "pipeline.face_model: missing"),
        (["pipeline.shape_weights=nowhere.pdparams"], "nowhere.pdparams: no such file (pipeline.shape_weights)"),
    ],
)
def test_what_an_export_lacks_is_said_before_anything_is_written(weights, tmp_path, capsys, overrides, complaint):
    words = ["-c", str(CONFIG), "-o", f"weights={weights}", f"export.dir={tmp_path / 'm'}", *overrides]
    assert run_command("export", words) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
