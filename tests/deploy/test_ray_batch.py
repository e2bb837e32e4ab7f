"""`deploy/ray_batch`: the files of `tools/predict.py`, on as many machines as there are, whatever dies meanwhile."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deploy.ray_batch import restore as batch
from ppgan_fr import predict
from ppgan_fr.cli import run_command
from ppgan_fr.predict import Options
from tests.test_predict import StandIn, lines, picture
from tests.test_predict import restore as predict_here

ROOT = Path(__file__).resolve().parents[2]
NO_RAY = "Ray is not installed (pip install -r requirements-ray.txt)"


@pytest.fixture()
def album(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    for i, name in enumerate(("a.png", "b.jpg", "a.jpg", "small.png")):
        Image.fromarray(picture(i, *((40, 40) if name == "small.png" else ()))).save(folder / name, quality=95)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def arguments(*given):
    parser = argparse.ArgumentParser()
    batch.add_arguments(parser)
    return parser.parse_args([str(one) for one in given])


def work(monkeypatch, args, job="job", ledger=None, restorer=None):
    """What one worker makes of the whole job, without Ray."""
    restorer = restorer or StandIn()
    monkeypatch.setattr(predict, "ready", lambda _: (restorer, Options()))
    monkeypatch.delenv("PPGAN_CPU_THREADS", raising=False)
    photos = batch.plan(args)
    worker = batch.Predictor(args, job, ledger, 2)
    monkeypatch.delenv("PPGAN_CPU_THREADS")
    answer = worker({"index": list(range(len(photos))), "photo": [json.dumps(photo) for photo in photos]})
    return [json.loads(line) for line in answer["line"]]


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for name in ("restored", "faces")
        for path in (folder / name).rglob("*")
        if path.is_file()
    }


def same_lines(one, other, folder_one, folder_other):
    def bare(line, folder):
        return {
            **{key: value for key, value in line.items() if key != "seconds"},
            "output": line["output"] and Path(line["output"]).relative_to(folder),
        }

    return [bare(line, folder_one) for line in one] == [bare(line, folder_other) for line in other]


def test_a_worker_writes_the_files_and_the_lines_of_predict(album, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    predict_here(album, here)
    made = work(monkeypatch, arguments("--input", album, "--output", there))
    assert files(here) == files(there)
    assert same_lines(lines(here), made, here, there)
    assert [line["status"] for line in made] == ["ok", "ok", "ok", "failed", "no_face"]
    assert not [path for path in there.rglob("*") if path.name.endswith(".part")]


def test_what_this_job_has_done_is_not_done_again_and_other_jobs_need_resume(album, tmp_path, monkeypatch):
    args = arguments("--input", album, "--output", tmp_path / "out")
    first = work(monkeypatch, args)
    for job, more, seen in (("job", [], 0), ("another", [], 4), ("a third", ["--resume"], 0)):
        again = StandIn()
        made = work(monkeypatch, arguments("--input", album, "--output", tmp_path / "out", *more), job, None, again)
        assert again.seen == seen
        assert same_lines(first, made, tmp_path / "out", tmp_path / "out")


def test_resuming_notices_changed_inputs_lost_outputs_and_other_settings(album, tmp_path, monkeypatch):
    args = arguments("--input", album, "--output", tmp_path / "out", "--resume")
    work(monkeypatch, args)
    Image.fromarray(picture(9)).save(album / "a.png")
    (tmp_path / "out" / "restored" / "b.jpg").write_bytes(b"half")
    (tmp_path / "out" / "faces" / "a_jpg_0_restored.png").unlink()
    again = StandIn()
    work(monkeypatch, args, "later", None, again)
    assert again.seen == 3
    other = StandIn(settings="other weights")
    work(monkeypatch, args, "later", None, other)
    assert other.seen == 4


def test_without_faces_there_are_none_and_the_photos_are_the_same(album, tmp_path, monkeypatch):
    work(monkeypatch, arguments("--input", album, "--output", tmp_path / "all"))
    work(monkeypatch, arguments("--input", album, "--output", tmp_path / "few", "--without-faces"))
    few = files(tmp_path / "few")
    assert few == {name: content for name, content in files(tmp_path / "all").items() if name.startswith("restored")}
    with_faces = StandIn()
    args = arguments("--input", album, "--output", tmp_path / "few", "--resume")
    work(monkeypatch, args, "later", None, with_faces)
    assert with_faces.seen == 4
    assert files(tmp_path / "few") == files(tmp_path / "all")


def test_a_photo_that_kills_its_workers_is_left_out_after_three_of_them(album, tmp_path, monkeypatch):
    ledger = batch.Ledger()

    class Deadly(StandIn):
        def restore(self, image, options, on_face=None):
            raise SystemExit("the machine is gone")

    args = arguments("--input", album / "a.png", "--output", tmp_path / "out")
    for _ in range(batch.ATTEMPTS):
        with pytest.raises(SystemExit):
            work(monkeypatch, args, ledger=ledger.begin, restorer=Deadly())
    (line,) = work(monkeypatch, args, ledger=ledger.begin, restorer=Deadly())
    assert line["status"] == "failed"
    assert "3 workers died" in line["error"]
    assert set(line) == set(batch.failed("", ""))
    assert ledger.repeated() == 1


def test_a_disk_that_is_full_stops_the_job(album, tmp_path, monkeypatch):
    args = arguments("--input", album / "a.png", "--output", tmp_path / "out")

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(batch.predict, "prepare_output", lambda _: None)
        patch.setattr(batch, "write_file", full)
        (line,) = work(patch, args)
    assert line["status"] == "failed"
    assert "No space left" in line["stop"]


def test_what_cannot_be_done_at_all_is_one_line_and_exit_code_2(album, tmp_path, capsys):
    for more, message in (
        (["--input", tmp_path / "nowhere"], "no such file or folder"),
        (["--input", album, "--share", "0"], "--share must be at least 1"),
        (["--input", album, "--upscale", "0"], "--upscale"),
        (["--input", album, "-c", "configs/none.yaml"], "none"),
        (["--input", "nonsense://bucket/x"], "nonsense"),
    ):
        if "nonsense" in str(more[1]):
            pytest.importorskip("pyarrow", reason=NO_RAY)
        assert batch.main([str(one) for one in [*more, "--output", tmp_path / "out"]]) == 2
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert message in said


# --- an object store -------------------------------------------------------------------------------------------------


@pytest.fixture()
def bucket(monkeypatch):
    """`memory://` as pyarrow sees any object store through fsspec."""
    pyarrow_fs = pytest.importorskip("pyarrow.fs", reason=NO_RAY)
    memory = pytest.importorskip("fsspec.implementations.memory", reason=NO_RAY).MemoryFileSystem()
    memory.store.clear()
    system = pyarrow_fs.PyFileSystem(pyarrow_fs.FSSpecHandler(memory))

    class Stores:
        @staticmethod
        def from_uri(text):
            return system, "/" + text.split("://")[1]

    monkeypatch.setattr(pyarrow_fs, "FileSystem", Stores)
    yield memory
    memory.store.clear()


def test_an_object_store_holds_the_same_bytes(album, tmp_path, monkeypatch, bucket):
    for path in album.iterdir():
        bucket.pipe(f"/photos/inner/{path.name}", path.read_bytes())
    bucket.pipe("/photos/.hidden.png", b"x")
    bucket.pipe("/photos/text.doc", b"x")
    args = arguments("--input", "memory://photos/inner", "--output", "memory://photos/out")
    made = work(monkeypatch, args)
    predict_here(album, tmp_path / "here")
    names = [name for name in bucket.find("/photos/out") if "/.ray/" not in name]
    stored = {name.removeprefix("/photos/out/"): bucket.cat(name) for name in names}
    assert stored == files(tmp_path / "here")
    assert made[0]["input"] == "memory://photos/inner/a.jpg"
    assert made[0]["output"] == "memory://photos/out/restored/a.jpg"
    assert made[3]["error"] == "memory://photos/inner/bad.png: not a picture"
    again = StandIn()
    work(monkeypatch, args, restorer=again)
    assert again.seen == 0
    recursive = arguments("--input", "memory://photos", "--output", "memory://elsewhere", "--recursive")
    targets = [photo["target"] for photo in batch.plan(recursive)]
    assert "restored/inner/b.jpg" in targets
    assert not [target for target in targets if "hidden" in target or "text" in target]


# --- machines --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty files: 39 photos with a face each, and one that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    face = cv2.imread(str(ROOT / "assets" / "demo" / "originals" / "astronaut.jpg"))[0:240, 110:350]
    rng = np.random.default_rng(0)
    for i in range(39):
        noise = rng.normal(0, 6, face.shape)
        cv2.imwrite(str(folder / f"{i:02d}.png"), np.clip(face + noise, 0, 255).astype(np.uint8))
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


@contextlib.contextmanager
def two_machines():
    """A head and a second node, each a raylet of its own with one predictor's worth of processors."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_raylet_start_wait_time_s"] = "300"  # noqa: SIM112 - a busy machine needs more than a minute
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason=NO_RAY)
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    with contextlib.redirect_stdout(io.StringIO()):
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        second = cluster.add_node(**small)
        cluster.wait_for_nodes()
    try:
        yield cluster, second
    finally:
        cluster.shutdown()


def records(output):
    found = []
    for path in output.glob(".ray/*/*.json"):
        with contextlib.suppress(ValueError, OSError):
            found.append(json.loads(path.read_text()))
    return found


@pytest.mark.slow
def test_one_of_two_machines_dies_and_the_result_is_that_of_one_machine(tiny, photos, tmp_path):
    options = ["-c", str(tiny / "tiny.yaml"), "--weights", str(tiny / "tiny.pdparams")]
    here, there = tmp_path / "here", tmp_path / "there"
    assert run_command("predict", ["--input", str(photos), "--output", str(here), *options]) == 1
    program = [sys.executable, str(ROOT / "deploy" / "ray_batch" / "restore.py")]
    job = ["--input", str(photos), "--output", str(there), *options]
    with two_machines() as (cluster, second):
        cluster_options = ["--address", cluster.address, "--cpus-per-worker", "1", "--share", "4"]
        process = subprocess.Popen(
            [*program, *job, *cluster_options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 400
        while process.poll() is None and time.monotonic() < deadline:
            of_second = [one for one in records(there) if one["worker"] == second.node_id]
            if len(of_second) >= 2:
                break
            time.sleep(0.02)
        done_before = len(records(there))
        cluster.remove_node(second, allow_graceful=False)
        said, complaints = process.communicate(timeout=600)
    assert process.returncode == 1, complaints
    assert len(of_second) >= 2, complaints
    assert done_before < 38
    (summary,) = (line for line in said.splitlines() if "39 restored, 0 without a face, 1 failed" in line)
    assert files(here) == files(there)
    assert same_lines(lines(here), lines(there), here, there)
    workers = [one["worker"] for one in records(there)]
    assert len(workers) == 39
    assert len(set(workers)) == 2
    # The photo that the dead worker was at is begun again, and nothing else.
    assert summary.split("1 failed")[1].startswith((", 1 begun again", "; results"))


@pytest.mark.slow
def test_one_machine_with_the_same_command_and_resume(tiny, photos, tmp_path):
    pytest.importorskip("ray", reason=NO_RAY)
    options = ["-c", str(tiny / "tiny.yaml"), "--weights", str(tiny / "tiny.pdparams")]
    shutil.copytree(photos, tmp_path / "photos")
    for path in sorted((tmp_path / "photos").iterdir())[4:]:
        path.unlink()
    program = [sys.executable, str(ROOT / "deploy" / "ray_batch" / "restore.py"), "--cpus-per-worker", "1"]
    job = ["--input", "photos", "--output", "out", "--workers", "1", *options]
    for more in ([], ["--resume"]):
        done = subprocess.run([*program, *job, *more], capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "4 photos: 4 restored" in done.stdout
    assert (
        run_command("predict", ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "here"), *options]) == 0
    )
    assert files(tmp_path / "out") == files(tmp_path / "here")
