"""The commands of README.md, run as they stand, in a copy of the repository: `make test-slow`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands import ROOT
from tests.test_docs import command_lines, read

RUN_ELSEWHERE = {
    r"make |python3 -m venv|\S*python -m pip |\.venv/bin/python": "`.ci/run`: a new environment, then the tests",
    r"bash deploy/serving|python deploy/serving": "tests/deploy/test_serving_running.py",
    r"python deploy/ray_batch/": "tests/deploy/test_ray_batch.py, where Ray is installed",
    r"bash test_tipc/": "`make tipc`, a step of `.ci/run`",
    r"python tools/convert_weights\.py": "tests/test_convert.py, with small checkpoints",
    r"python tools/predict\.py -c configs/gfpgan_v1\.4": "the same program with weights that cannot be had here",
    r"python tools/train\.py -c configs/gfpgan\.yaml": "weeks; configs/smoke/gfpgan.yaml has every term of it",
}
LESS = {"--count 1000": "--count 2"}
"""What only takes longer when there is more of it."""
COMMANDS = [re.sub(r"\s+#.*", "", line) for line in command_lines(read("README.md"))]
RUN_HERE = [line for line in COMMANDS if not any(re.match(pattern, line) for pattern in RUN_ELSEWHERE)]


def test_every_command_is_run_by_some_test():
    assert [pattern for pattern in RUN_ELSEWHERE if not any(re.match(pattern, line) for line in COMMANDS)] == []
    programs = {line.split()[1] for line in RUN_HERE}
    assert {"tools/train.py", "tools/eval.py", "tools/predict.py", "tools/export_model.py"} <= programs
    assert all(line.startswith("python ") for line in RUN_HERE)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The files that git knows, and what a reader would bring: photos, a film, two portraits."""
    folder = tmp_path_factory.mktemp("readme") / "ppgan_fr"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    photo = ROOT / "assets" / "demo" / "astronaut.jpg"
    for name in ("photo.jpg", "album/photo.jpg", "archive/1969/photo.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, folder / name)
    portraits = folder / "data" / "london_512"
    portraits.mkdir(parents=True)
    names = ("002_03.jpg", "002_08.jpg")
    (folder / "configs" / "eval" / "london_heldout.txt").write_text("\n".join(names))  # 2 instead of 40
    for name in names:
        cv2.imwrite(str(portraits / name), np.ascontiguousarray(cv2.imread(str(photo))[:512, :512]))
    film(folder / "film.mp4", cv2.imread(str(photo)))
    return folder


def film(path: Path, picture: np.ndarray) -> None:
    """Three frames of a picture."""
    av = pytest.importorskip("av", reason="requirements-video.txt")
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.height, stream.width = (side // 2 * 2 for side in picture.shape[:2])
        for _ in range(3):
            cut = np.ascontiguousarray(picture[: stream.height, : stream.width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(cut, format="bgr24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)


@pytest.mark.slow
def test_the_commands_work_in_their_order(copy):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in RUN_HERE:
        for more, less in LESS.items():
            line = line.replace(more, less)
        done = subprocess.run(line, shell=True, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for written in (
        "metrics.json",
        "data/faces_lq",
        "output/smoke/gfpgan/latest/generator_ema.pdparams",
        "output/photo/restored/photo.jpg",
        "output/album/report.html",
        "output/archive/restored/1969/photo.jpg",
        "output/film_restored.mp4",
        "output/facebench/facebench.json",
        "output/infer/restored/album.jpg",
        "inference/gfpgan_mobile/inference.yml",
    ):
        assert (copy / written).exists(), written
