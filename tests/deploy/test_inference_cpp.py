"""The C++ program gives what Python gives: first its geometry, function by function, then whole photos."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppgan_fr.face.align import FFHQ_512, align, similarity
from ppgan_fr.face.detect import suppress
from ppgan_fr.face.paste import face_mask, paste
from tests.face import golden

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "deploy" / "inference_cpp"

if not all(shutil.which(tool) for tool in ("cmake", "c++")):
    pytest.skip("needs cmake and a C++ compiler", allow_module_level=True)


@pytest.fixture(scope="module")
def build():
    """The build folder; kept between runs, so that only what changed is compiled again."""
    folder = Path(os.environ.get("PPGAN_CPP_BUILD", ROOT / "build" / "inference_cpp"))
    configured = subprocess.run(
        ["cmake", "-S", SOURCE, "-B", folder, f"-DPYTHON={sys.executable}"], capture_output=True, text=True, check=False
    )
    if "Could NOT find" in configured.stderr:
        pytest.skip("needs the headers of libjpeg and libpng")
    assert configured.returncode == 0, configured.stderr
    made = subprocess.run(["cmake", "--build", folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def answers(build, tmp_path, lines):
    """What the C++ functions make of each line."""
    given = tmp_path / "lines.txt"
    given.write_text("".join(f"{' '.join(map(str, line))}\n" for line in lines))
    done = subprocess.run([build / "golden_test", given], capture_output=True, text=True, check=True)
    return [np.array(line.split(), float) for line in done.stdout.splitlines()]


def some_landmarks(count, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    faces = []
    for _ in range(count):
        scale, angle = rng.uniform(0.08, 1.2) * spread, rng.uniform(-0.5, 0.5)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        faces.append((FFHQ_512.array() + rng.normal(0, 5, (5, 2))) @ turn.T + rng.uniform(0, 60, 2))
    return faces


def made_up(width, height, seed):
    """The picture of golden_test.cc."""
    y, x, c = np.meshgrid(
        np.arange(height, dtype=np.uint32),
        np.arange(width, dtype=np.uint32),
        np.arange(3, dtype=np.uint32),
        indexing="ij",
    )
    mixed = ((x // 4) * np.uint32(73856093)) ^ ((y // 4) * np.uint32(19349663)) ^ (c * np.uint32(83492791))
    return ((mixed ^ np.uint32(seed)) * np.uint32(2654435761) >> np.uint32(24)).astype(np.uint8)


def test_similarities_are_those_of_opencv(build, tmp_path):
    faces = some_landmarks(50)
    found = answers(build, tmp_path, [("similarity", *face.ravel()) for face in faces])
    for face, matrix in zip(faces, found):
        expected = similarity(face, FFHQ_512.array())
        moved, wanted = (face @ m[:, :2].T + m[:, 2] for m in (matrix.reshape(2, 3), expected))
        assert np.abs(moved - wanted).max() < 0.02


def test_masks_are_the_same(build, tmp_path):
    faces = [align(np.zeros((600, 600, 3), np.uint8), face).landmarks.astype(float) for face in some_landmarks(5)]
    found = answers(build, tmp_path, [("mask", 512, *face.ravel()) for face in faces])
    for face, mask in zip(faces, found):
        assert np.abs(mask.reshape(512, 512) - face_mask(face, 512)).max() < 1e-5


def test_crops_are_the_same_but_for_the_rounding_of_places(build, tmp_path):
    template = FFHQ_512.at_size(64)
    faces = some_landmarks(12, seed=1)  # from much smaller than the crop to ten times larger
    found = answers(build, tmp_path, [("warp", 400, 360, 7, *face.ravel()) for face in faces])
    for face, crop in zip(faces, found):
        expected = align(made_up(400, 360, 7), face, template).image
        # OpenCV looks at 32nds of a pixel; where a place lies between two, one step in this harsh pattern is 8 levels
        difference = np.abs(crop.reshape(64, 64, 3) - expected)
        assert difference.max() <= 8
        assert np.mean(difference > 0) < 0.05


def test_pasted_pictures_differ_by_at_most_two_levels(build, tmp_path):
    template = FFHQ_512.at_size(64)
    faces = some_landmarks(8, seed=2)
    found = answers(build, tmp_path, [("paste", 400, 360, 9, *face.ravel()) for face in faces])
    for face, picture in zip(faces, found):
        image = made_up(400, 360, 9)
        cut = align(image, face, template)
        bright = (128 + cut.image // 2).astype(np.uint8)
        expected = paste(image, bright, cut.to_template, face_mask(cut.landmarks, 64))
        assert np.abs(picture.reshape(image.shape) - expected).max() <= 2


def test_the_same_boxes_survive(build, tmp_path):
    rng = np.random.default_rng(3)
    boxes = np.concatenate([rng.uniform(0, 60, (40, 2)), rng.uniform(10, 40, (40, 2))], 1).astype(np.float32)
    scores = rng.uniform(0, 1, 40).astype(np.float32)
    numbers = np.concatenate([boxes, scores[:, None]], 1).ravel()
    (found,) = answers(build, tmp_path, [("suppress", 40, 0.4, 0.3, *numbers)])
    assert found.astype(int).tolist() == suppress(boxes, scores, 0.4, 0.3)


def test_cpp_gives_the_golden_vectors(build, tmp_path):
    entries = json.loads(golden.FILE.read_text(encoding="utf-8"))
    found = answers(build, tmp_path, [(entry["function"], *entry["arguments"]) for entry in entries])
    for entry, value in zip(entries, found, strict=True):
        difference = np.abs(value[entry["at"]] - entry["expected"])
        assert difference.max() <= golden.TOLERANCE[entry["function"]], entry["function"]
        assert entry["function"] != "suppress" or value.size == len(entry["expected"])


def a_photo(path):
    """A picture with faces, the album page of the demo."""
    image = cv2.imread(str(ROOT / "assets" / "demo" / "album.jpg"))
    assert image is not None
    return cv2.imwrite(str(path), image)


def test_whole_photos_differ_from_python_by_at_most_two_levels(build, model, tmp_path):
    (tmp_path / "photos").mkdir()
    a_photo(tmp_path / "photos" / "photo.png")
    words = [f"--model_dir={model}", f"--image_dir={tmp_path}/photos", "--cpu_threads=1", "--use_mkldnn=False"]
    cpp = subprocess.run(
        [build / "restore", *words, f"--save_dir={tmp_path}/cpp"], capture_output=True, text=True, check=False
    )
    assert cpp.returncode == 0, cpp.stderr
    python = [sys.executable, str(ROOT / "deploy/inference_python/infer.py"), *words, f"--save_dir={tmp_path}/python"]
    done = subprocess.run(python, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert cpp.stdout.split("(")[1].split()[0] == done.stdout.split("(")[1].split()[0]
    first, second = (
        cv2.imread(str(tmp_path / name / "restored" / "photo.png")).astype(int) for name in ("cpp", "python")
    )
    assert np.abs(first - second).max() <= 2
    assert np.abs(first - cv2.imread(str(tmp_path / "photos" / "photo.png"))).max() > 2


def test_wrong_usage_is_one_line_and_exit_code_2(build, model, tmp_path):
    for words, message in (
        ([], "--model_dir is missing"),
        ([f"--model_dir={tmp_path}", f"--image_dir={tmp_path}", "--magic=1"], "--magic: unknown"),
        ([f"--model_dir={model}", f"--image_dir={tmp_path}/nowhere"], "no such file or folder"),
    ):
        done = subprocess.run([build / "restore", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("inference.pdmodel", b"", "damaged, 0 bytes"),
        ("inference.pdmodel", bytes(1000), "not a program of Paddle"),
        ("inference.pdiparams", b"half", "damaged, 4 bytes"),
        ("inference.yml", b"arch: yunet\ninputs:\n- name: image\nsize: big\n", "size: expected a number, got big"),
    ],
)
def test_a_damaged_model_is_one_line_that_names_the_file(build, model, tmp_path, name, content, message):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in model.iterdir():
        if path.name != name:
            (copy / path.name).symlink_to(path.resolve())
    (copy / name).write_bytes(content)
    if message.startswith("not"):  # as it is for exports that do not say how large their files are
        text = (model / "inference.yml").read_text()
        (copy / "inference.yml").unlink()
        (copy / "inference.yml").write_text(text.partition("file_bytes:")[0])
    words = [f"--model_dir={copy}", f"--image_dir={ROOT}/assets/demo/astronaut.jpg", f"--save_dir={tmp_path}/out"]
    done = subprocess.run([build / "restore", *words, "--engine=paddle"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{copy}/{name}" in done.stderr and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
