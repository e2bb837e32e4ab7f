"""`tools/predict.py`: every input ends in a result or in one line, whatever it is and whenever the program dies."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ppgan_fr import predict
from ppgan_fr.face import image_io
from ppgan_fr.face.align import FFHQ_512
from ppgan_fr.face.image_io import list_images, read_photo
from ppgan_fr.face.pipeline import restore_image
from ppgan_fr.face.types import Face
from ppgan_fr.predict import Options, plan, prepare_output, process

ROOT = Path(__file__).resolve().parent.parent


class StandIn:
    """One face in the middle of every picture larger than 60 pixels; "restoring" turns it dark blue."""

    fidelity = 0.5
    scale = 1.0

    def __init__(self, settings="stand-in", answer=None):
        self.settings = settings
        self.seen = 0
        self.answer = answer

    def detect(self, image):
        height, width = image.shape[:2]
        if min(height, width) < 60:
            return []
        zoom = 0.8 * min(height, width) / 512
        points = (FFHQ_512.array() - 256) * zoom + (width / 2, height / 2)
        box = np.array([width / 2 - 100 * zoom, height / 2 - 130 * zoom, 200 * zoom, 260 * zoom], np.float32)
        return [Face(box, points.astype(np.float32), 0.9)]

    def restore(self, image, options, on_face=None):
        self.seen += 1

        def network(faces):
            if self.answer is not None:
                return [np.full((512, 512, 3), self.answer, np.float32) for _ in faces]
            return [np.full((512, 512, 3), (90, 10, 10), np.float32) for _ in faces]

        detect = None if options.aligned else self.detect
        return restore_image(image, detect, network, scale=options.scale, on_face=on_face)

    def similarities(self, faces):
        return [0.75] * len(faces)


def picture(seed=0, height=120, width=160):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


@pytest.fixture()
def album(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    for i, name in enumerate(("a.png", "b.jpg", "c.png")):
        Image.fromarray(picture(i)).save(folder / name, quality=95)
    return folder


def restore(folder, output, restorer=None, options=None, **kwargs):
    jobs = plan(list_images(folder), output)
    prepare_output(output)
    return process(jobs, restorer or StandIn(), options or Options(), output, **kwargs)


def lines(output):
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def test_every_photo_gets_its_files_and_its_line(album, tmp_path):
    output = tmp_path / "out"
    assert restore(album, output) == 0
    assert sorted(path.name for path in (output / "restored").iterdir()) == ["a.png", "b.jpg", "c.png"]
    assert len(list((output / "faces").iterdir())) == 6
    line = lines(output)[0]
    assert line["input"] == str(album / "a.png")
    assert line["output"] == str(output / "restored" / "a.png")
    assert (line["status"], line["error"], line["width"], line["height"]) == ("ok", None, 160, 120)
    face = line["faces"][0]
    assert set(face) == {"box", "landmarks", "score", "restored", "identity_similarity", "fidelity"}
    assert (face["restored"], face["identity_similarity"], face["fidelity"]) == (True, 0.75, 0.5)
    assert np.shape(face["landmarks"]) == (5, 2)
    assert np.shape(face["box"]) == (4,)
    assert read_photo(output / "faces" / "a_0_restored.png").pixels[256, 256].tolist() == [90, 10, 10]


def test_outside_the_face_a_lossless_photo_keeps_its_bytes(album, tmp_path):
    restore(album, tmp_path / "out")
    before, after = (np.asarray(Image.open(path / "a.png")) for path in (album, tmp_path / "out" / "restored"))
    assert np.array_equal(before[:, :20], after[:, :20])
    assert not np.array_equal(before, after)


def test_a_photo_without_a_face_is_copied_bit_by_bit(tmp_path):
    Image.fromarray(picture(0, 40, 40)).save(tmp_path / "tree.jpg", quality=55)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    for name in ("tree.jpg", "dot.png"):
        output = tmp_path / f"out_{name}"
        assert restore(tmp_path / name, output) == 0
        assert lines(output)[0]["status"] == "no_face"
        assert (output / "restored" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_bad_files_are_listed_with_a_reason_and_the_good_ones_restored(album, tmp_path, capfd):
    (album / "text.jpg").write_text("these are words")
    (album / "cut.jpg").write_bytes((album / "b.jpg").read_bytes()[:1500])
    (album / "empty.png").write_bytes(b"")
    output = tmp_path / "out"
    assert restore(album, output) == 1
    status = {Path(line["input"]).name: line["status"] for line in lines(output)}
    assert [name for name, word in status.items() if word == "ok"] == ["a.png", "b.jpg", "c.png"]
    assert [name for name, word in status.items() if word == "failed"] == ["cut.jpg", "empty.png", "text.jpg"]
    said = capfd.readouterr().err
    for name, reason in (("text", "not a picture"), ("cut", "truncated"), ("empty", "empty")):
        assert [line for line in said.splitlines() if f"{name}." in line and reason in line]
    assert sorted(path.name for path in (output / "restored").iterdir()) == ["a.png", "b.jpg", "c.png"]


def test_a_photo_of_108_million_pixels_is_restored(tmp_path):
    # A blank one: the point is that it is let in, and what it costs.
    Image.new("L", (12000, 9000), 128).save(tmp_path / "large.png")
    output = tmp_path / "out"
    restorer = StandIn()
    restorer.detect = lambda image: []
    assert restore(tmp_path / "large.png", output, restorer) == 0
    assert (lines(output)[0]["width"], lines(output)[0]["height"]) == (12000, 9000)


def test_an_answer_that_is_no_number_fails_the_photo_and_leaves_nothing(album, tmp_path):
    output = tmp_path / "out"
    assert restore(album, output, StandIn(answer=np.nan)) == 1
    assert {line["status"] for line in lines(output)} == {"failed"}
    assert "not a number" in lines(output)[0]["error"]
    assert lines(output)[0]["faces"][0]["restored"] is False
    assert not list((output / "restored").iterdir())
    assert not list((output / "faces").iterdir())


def test_a_broken_engine_fails_the_photo_not_the_job(album, tmp_path):
    class Broken(StandIn):
        def restore(self, image, options, on_face=None):
            if self.seen == 0:
                self.seen += 1
                raise RuntimeError("the engine\nsaid no")
            return super().restore(image, options, on_face)

    output = tmp_path / "out"
    assert restore(album, output, Broken()) == 1
    assert [line["status"] for line in lines(output)] == ["failed", "ok", "ok"]
    assert lines(output)[0]["error"].endswith("a.png: the engine said no")


def test_upscaling_and_aligned_crops(album, tmp_path):
    restore(album, tmp_path / "x2", options=Options(scale=2))
    assert Image.open(tmp_path / "x2" / "restored" / "a.png").size == (320, 240)
    restore(album, tmp_path / "crops", options=Options(aligned=True))
    result = read_photo(tmp_path / "crops" / "restored" / "a.png").pixels
    assert result[0, 0].tolist() == result[60, 80].tolist() == [90, 10, 10]


def test_two_photos_of_one_name_do_not_overwrite_each_other(tmp_path):
    for name in ("x.png", "x.jpg", "x.gif"):
        Image.fromarray(picture()).save(tmp_path / name)
    output = tmp_path / "out"
    assert restore(tmp_path, output) == 0
    assert len({line["output"] for line in lines(output)}) == 3
    assert len(list((output / "restored").iterdir())) == 3
    assert len(list((output / "faces").iterdir())) == 6


def test_alpha_gray_and_sixteen_bits_stay(tmp_path):
    alpha = np.dstack([picture(), np.linspace(0, 255, 120 * 160, dtype=np.uint8).reshape(120, 160)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    Image.fromarray(picture()[..., 0]).save(tmp_path / "gray.png")
    cv2.imwrite(str(tmp_path / "deep.png"), picture().astype(np.uint16) * 257)
    output = tmp_path / "out"
    assert restore(tmp_path, output, options=Options(scale=1.5)) == 0
    assert read_photo(output / "restored" / "alpha.png").alpha.shape == (180, 240)
    assert Image.open(output / "restored" / "gray.png").mode == "L"
    assert read_photo(output / "restored" / "deep.png").pixels.dtype == np.uint16


# --- where results go ------------------------------------------------------------------------------------------------


def test_an_output_that_is_a_file_is_one_line(album, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(predict.PredictError, match="cannot write results here"):
        prepare_output(tmp_path / "file")
    with pytest.raises(predict.PredictError, match="cannot write results here"):
        prepare_output(tmp_path / "file" / "below")


def test_a_read_only_output_is_found_out_before_any_work(tmp_path, monkeypatch):
    def refused(path, _content):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(predict, "write_file", refused)
    with pytest.raises(predict.PredictError, match="Permission denied"):
        prepare_output(tmp_path / "out")


def test_a_disk_that_fills_up_fails_the_photo_and_leaves_no_part_of_it(album, tmp_path, monkeypatch):
    output = tmp_path / "out"
    jobs = plan(list_images(album), output)
    prepare_output(output)
    real = image_io.write_file

    def full(path, content):
        if Path(path).parent.name == "restored" and Path(path).name == "b.jpg":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(image_io, "write_file", full)
    assert process(jobs, StandIn(), Options(), output) == 1
    assert [line["status"] for line in lines(output)] == ["ok", "failed", "ok"]
    assert "No space left" in lines(output)[1]["error"]
    assert not list((output / "faces").glob("b_*"))
    assert not [path for path in output.rglob("*") if path.name.endswith(".part")]


# --- going on after an interruption ----------------------------------------------------------------------------------


def test_resuming_does_only_what_is_missing(album, tmp_path):
    output = tmp_path / "out"
    (album / "bad.png").write_bytes(b"")
    restore(album, output)
    (output / "restored" / "b.jpg").unlink()
    (output / "restored" / "c.png").write_bytes(b"half a fi")
    (output / "results.jsonl").open("ab").write(b'{"input": "half a li')
    Image.fromarray(picture(7)).save(album / "bad.png")
    again = StandIn()
    assert restore(album, output, again, resume=True) == 0
    assert again.seen == 3  # b, c and the file that was bad
    assert sorted(Path(line["input"]).name for line in lines(output)) == ["a.png", "b.jpg", "bad.png", "c.png"]
    nothing = StandIn()
    assert restore(album, output, nothing, resume=True) == 0
    assert nothing.seen == 0
    assert len(lines(output)) == 4


def test_resuming_notices_other_settings_and_changed_photos(album, tmp_path):
    output = tmp_path / "out"
    restore(album, output)
    other = StandIn(settings="other weights")
    restore(album, output, other, resume=True)
    assert other.seen == 3
    Image.fromarray(picture(9)).save(album / "a.png")
    same = StandIn(settings="other weights")
    restore(album, output, same, resume=True)
    assert same.seen == 1


def test_without_resume_everything_is_done_anew(album, tmp_path):
    restore(album, tmp_path / "out")
    again = StandIn()
    restore(album, tmp_path / "out", again)
    assert again.seen == 3
    assert len(lines(tmp_path / "out")) == 3


WORKER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.test_predict import StandIn, restore
sys.exit(restore(Path({album!r}), Path({output!r}), resume=True))
"""


def test_killed_at_any_moment_nothing_partial_is_left_and_the_rest_is_done(tmp_path):
    album, output, whole = tmp_path / "album", tmp_path / "out", tmp_path / "whole"
    album.mkdir()
    for i in range(24):
        Image.fromarray(picture(i, 200, 240)).save(album / f"{i:02d}.png")
    code = WORKER.format(root=str(ROOT), album=str(album), output=str(output))
    rng = np.random.default_rng(3)
    for _ in range(3):
        process_ = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = len(list(output.glob("restored/*.png")))
        deadline = time.monotonic() + 60
        while len(list(output.glob("restored/*.png"))) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.05)))
        os.kill(process_.pid, signal.SIGKILL)
        process_.wait()
        for path in output.rglob("*.png"):
            if not path.name.startswith("."):
                read_photo(path)  # whole, or it would be refused
        for raw in (output / "results.jsonl").read_bytes().split(b"\n")[:-1]:
            json.loads(raw)
    assert restore(album, output, resume=True) == 0
    restore(album, whole)
    assert [path.name for path in sorted((output / "restored").iterdir())] == [f"{i:02d}.png" for i in range(24)]
    for path in sorted((whole / "restored").iterdir()):
        assert path.read_bytes() == (output / "restored" / path.name).read_bytes()
    assert sorted(line["input"] for line in lines(output)) == sorted(line["input"] for line in lines(whole))
    assert not [path for path in output.rglob("*") if path.name.endswith(".part")]


# --- the command -----------------------------------------------------------------------------------------------------


def command(*arguments):
    from ppgan_fr.cli import run_command

    return run_command("predict", [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--upscale", "0"], "--upscale must be above 0"),
        (["--fidelity", "1.5"], "--fidelity must be between 0 and 1"),
        (["-c", "configs/no_such.yaml"], "no_such"),
        (["-o", "pipeline.detecter.name=yunet"], "did you mean 'detector'"),
        (["--weights", "no_such.pdparams"], "no_such.pdparams"),
    ],
)
def test_what_cannot_be_done_at_all_is_one_line_and_exit_code_2(album, tmp_path, capsys, arguments, message):
    assert command("--input", album, "--output", tmp_path / "out", *arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]


def test_a_missing_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert command("--input", tmp_path / "nowhere", "--output", tmp_path / "out") == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_demo_pictures_have_thirteen_faces_and_the_command_finds_them(tiny, tmp_path):
    arguments = ["-c", tiny / "tiny.yaml", "--weights", tiny / "tiny.pdparams", "--report"]
    assert command("--input", ROOT / "assets" / "demo", "--output", tmp_path / "out", *arguments) == 0
    faces = {Path(line["input"]).name: len(line["faces"]) for line in lines(tmp_path / "out")}
    assert faces == {"album.jpg": 12, "astronaut.jpg": 1}
    assert all(face["restored"] for line in lines(tmp_path / "out") for face in line["faces"])
    assert (tmp_path / "out" / "report.html").stat().st_size > 50_000


def test_weights_of_another_network_are_one_line_and_exit_code_2(tiny, album, tmp_path, capsys):
    from ppgan_fr import weights

    weights.save({"conv.weight": np.zeros((3, 3), np.float32)}, tmp_path / "other.pdparams")
    arguments = ["-c", tiny / "tiny.yaml", "--weights", tmp_path / "other.pdparams"]
    assert command("--input", album, "--output", tmp_path / "out", *arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ppgan-fr")]
    assert len(said) == 1
    assert "other.pdparams" in said[0]
    assert "do not fit" in said[0]


def test_a_checkpoint_that_would_run_code_is_refused_without_running_it(tiny, album, tmp_path, capsys):
    witness = tmp_path / "it_ran"
    (tmp_path / "evil.pth").write_bytes(b"cos\nsystem\n(S'touch " + str(witness).encode() + b"'\ntR.")
    arguments = ["-c", tiny / "tiny.yaml", "--weights", tmp_path / "evil.pth"]
    assert command("--input", album, "--output", tmp_path / "out", *arguments) == 2
    assert "evil.pth" in capsys.readouterr().err
    assert not witness.exists()
