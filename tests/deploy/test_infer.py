"""The deployed programs: photos in, photos out, the same as by the pipeline, or one line that says why not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy import restore_folder
from deploy.inference_python import infer
from deploy.restore_folder import Folder, Job, boolean, common_arguments, parse
from ppgan_fr.face.pipeline import restore_image
from ppgan_fr.face.restore import image_restorer
from ppgan_fr.face.spec import ModelSpec, TensorSpec, write_spec
from ppgan_fr.face.types import Face

ROOT = Path(__file__).resolve().parents[2]
SPEC = ModelSpec("gfpgan", inputs=(TensorSpec("lq", (-1, 3, 64, 64)),), size=64)
POINTS = np.array([[40, 40], [70, 42], [55, 58], [44, 74], [66, 75]], np.float32)


def darker(calls):
    """A network that darkens, and notes how many faces each call had."""

    def run(arrays):
        calls.append(len(arrays["lq"]))
        return [arrays["lq"] * 0.5 - 0.5]

    return run


def faces_of(image):
    """As many faces as the blue value of the first pixel says, side by side."""
    count = int(image[0, 0, 0])
    return [Face(np.array([20 + 90 * i, 20, 70, 70 + i], np.float32), POINTS + [90 * i, 0], 0.9) for i in range(count)]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("a", 2), ("b", 0), ("c", 3), ("d", 1)):
        image = rng.integers(60, 200, (120, 320, 3)).astype(np.uint8)
        image[0, 0, 0] = count
        cv2.imwrite(str(folder / f"{name}.png"), image)
    return folder


@pytest.mark.parametrize(("batch_size", "calls"), [(1, [1] * 6), (4, [4, 2]), (8, [6])])
def test_faces_of_several_photos_share_a_call_and_the_rest_forms_the_last_one(photos, tmp_path, batch_size, calls):
    seen: list[int] = []
    restore = image_restorer(darker(seen), SPEC, batch_size=batch_size)
    folder = Folder(restore, SPEC, faces_of, batch_size)
    finished = []
    jobs = [Job(path, tmp_path / path.name) for path in sorted(photos.iterdir())]
    folder.run(jobs, lambda job: finished.append((job.path.stem, job.error, len(job.crops))))
    assert seen == calls
    assert finished == [("a", None, 2), ("b", None, 0), ("c", None, 3), ("d", None, 1)]
    for path in sorted(photos.iterdir()):
        image = cv2.imread(str(path))
        one = image_restorer(darker([]), SPEC)
        expected = restore_image(image, faces_of, one, template=folder.template).image
        assert np.array_equal(cv2.imread(str(tmp_path / path.name)), expected)
        assert (expected != image).any() == bool(faces_of(image))


def test_a_broken_picture_fails_alone(photos, tmp_path):
    (photos / "c.png").write_bytes(b"no picture")
    folder = Folder(image_restorer(darker([]), SPEC, batch_size=2), SPEC, faces_of, 2)
    output = tmp_path / "out"
    (output / "restored").mkdir(parents=True)
    assert restore_folder._process(folder, sorted(photos.iterdir()), output) == 1
    lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["ok", "no_face", "failed", "ok"]
    assert "c.png" in lines[2]["error"]
    assert sorted(path.name for path in (output / "restored").iterdir()) == ["a.png", "b.png", "d.png"]


def test_arguments_come_with_dashes_or_without():
    parser = common_arguments("test")
    for words in (
        ["--model_dir", "m", "--batch_size", "3"],
        ["--model_dir=m", "--batch_size=3"],
        ["model_dir=m", "batch_size=3"],
    ):
        args = parse(parser, words)
        assert (args.model_dir, args.batch_size) == (Path("m"), 3)
    assert boolean("False") is False
    with pytest.raises(SystemExit):
        parse(parser, ["--model_dir", "m", "--benchmark", "__import__('os')"])


def test_mkldnn_means_onednn_unless_an_engine_is_named():
    assert infer.arguments(["--model_dir", "m"]).engine is None
    assert infer.arguments(["--model_dir", "m", "--use_mkldnn=True"]).engine == "onednn"
    assert infer.arguments(["--model_dir", "m", "--enable_mkldnn", "False"]).engine == "paddle"
    assert infer.arguments(["model_dir=m", "use_mkldnn=True", "engine=openvino"]).engine == "openvino"


def run_infer(*words, target="inference_python"):
    command = [sys.executable, str(ROOT / "deploy" / target / "infer.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_program_restores_a_folder_and_prints_the_benchmark(model, photos, tmp_path):
    done = run_infer(
        f"--model_dir={model}",
        f"--image_dir={photos}",
        f"--save_dir={tmp_path}/out",
        "--benchmark=True",
        "batch_size=2",
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "restored").iterdir())) == 4
    for name in ("Env info", "Conf info", "Model info", "Data info", "Perf info"):
        assert f" {name} " in done.stdout
    for name in ("cpu_rss(MB)", "preprocess_time(ms)", "inference_time(ms)", "postprocess_time(ms)", "latency_p99(ms)"):
        assert re.search(rf"^{re.escape(name)}: [\d.]+$", done.stdout, re.M), name


def test_what_this_build_cannot_do_is_one_line_and_exit_code_2(model, photos, tmp_path):
    for words, message in (
        (["--use_gpu=True"], "no CUDA"),
        (["--use_tensorrt=True"], "TensorRT runs on a GPU"),
        ([f"--detector_dir={tmp_path}"], "no exported detector here"),
        ([f"--image_dir={tmp_path / 'nowhere'}"], "no such file or folder"),
    ):
        done = run_infer(f"--model_dir={model}", f"--image_dir={photos}", f"--save_dir={tmp_path}/out", *words)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_onnx_runtime_gives_the_same_pictures(model, photos, tmp_path):
    pytest.importorskip("paddle2onnx", reason="optional: requirements-onnx.txt")
    pytest.importorskip("onnxruntime", reason="optional: requirements-onnx.txt")
    from ppgan_fr.cli import run_command

    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    assert run_command("export-onnx", ["--model_dir", str(copy)]) == 0
    assert (copy / "yunet" / "inference.onnx").is_file()
    for target in ("inference_python", "onnx_python"):
        words = [f"--model_dir={copy}", f"--image_dir={photos}", f"--save_dir={tmp_path / target}", "--aligned=True"]
        done = run_infer(*words, target=target)
        assert done.returncode == 0, done.stderr
    for path in sorted((tmp_path / "onnx_python" / "restored").iterdir()):
        other = cv2.imread(str(tmp_path / "inference_python" / "restored" / path.name)).astype(int)
        assert np.abs(cv2.imread(str(path)).astype(int) - other).max() <= 1


def test_a_conversion_that_answers_differently_leaves_no_file(model, tmp_path, monkeypatch, capsys):
    pytest.importorskip("paddle2onnx", reason="optional: requirements-onnx.txt")
    from ppgan_fr import cli, export_onnx

    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    monkeypatch.setattr(export_onnx, "compare", lambda *_: 0.6)
    assert cli.run_command("export-onnx", ["--model_dir", str(copy)]) == 2
    assert "differs by 0.6" in capsys.readouterr().err
    assert not list(copy.rglob("*.onnx*"))


def test_a_folder_without_a_description_is_refused(tmp_path, photos):
    write_spec(SPEC, tmp_path)
    done = run_infer(f"--model_dir={tmp_path}", f"--image_dir={photos}", f"--save_dir={tmp_path}/out")
    assert done.returncode == 2
    assert "inference.pdmodel: no such file" in done.stderr
