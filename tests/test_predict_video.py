"""`tools/predict_video.py`: only faces change; time, sound and everything else are the source's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppgan_fr import predict_video
from ppgan_fr.cli import run_command
from ppgan_fr.face.align import FFHQ_512
from ppgan_fr.face.tracks import TrackedFace
from ppgan_fr.face.types import Face
from ppgan_fr.predict_video import DamagedVideoError, Job, SteadyFaces, restore_video
from ppgan_fr.restorer import Restorer

av = pytest.importorskip("av", reason="PyAV is not installed (pip install -r requirements-video.txt)")

ROOT = Path(__file__).resolve().parent.parent
BLUE = (200, 60, 30)


def detect(image):
    """A green spot is a face of 40 pixels."""
    green = image[..., 1].astype(int) - image[..., 2] > 60 * (257 if image.dtype == np.uint16 else 1)
    rows, columns = np.nonzero(green)
    if len(rows) < 8:
        return []
    x, y = float(columns.mean()), float(rows.mean())
    points = (FFHQ_512.array() - (256, 300)) * 0.16 + (x, y)
    return [Face(np.array([x - 20, y - 22, 40, 44], np.float32), points.astype(np.float32), 0.9)]


def stand_in(**changes):
    def network(crops):
        return [np.full(crop.image.shape, BLUE, np.float32) for crop in crops]

    facts = {
        "detect_faces": detect,
        "restore_faces": network,
        "template": FFHQ_512.at_size(128),
        "mask": "face",
        "settings": "a",
    }
    return Restorer(**{**facts, **changes})


def spot(i, width=160):
    return round(width / 2 + 10 * np.sin(i / 6))


def picture(i, size, faces=True):
    width, height = size
    rng = np.random.default_rng(5)
    blocks = np.repeat(rng.integers(60, 120, (height // 8, width // 8, 1), np.uint8), 3, 2)
    image = cv2.resize(blocks, size, interpolation=cv2.INTER_CUBIC)
    if faces:
        cv2.circle(image, (spot(i, width), height // 2), 6, (40, 230, 40), -1)
    return image


def make(
    path, count=30, size=(160, 120), times=None, sound=True, rotation=0, faces=True, codec="libx264", form="yuv420p"
):
    times = [512 * i for i in range(count)] if times is None else times
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"crf": "12"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = *size, form
        stream.codec_context.time_base = stream.time_base = Fraction(1, 12800)
        if rotation:
            stream.set_display_rotation(rotation)
        tone = out.add_stream("aac", rate=44100) if sound else None
        out.metadata["title"] = "a title"
        if tone is not None:
            tone.codec_context.layout = "mono"
            rng = np.random.default_rng(0)
            for start in range(0, 44100 * (times[-1] + 512) // 12800, 1024):
                samples = rng.normal(0, 0.1, (1, 1024)).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
                out.mux(tone.encode(frame))
            out.mux(tone.encode(None))
        for i, pts in enumerate(times):
            image = np.ascontiguousarray(
                np.rot90(picture(i, size if rotation % 180 == 0 else size[::-1], faces), -rotation // 90)
            )
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = pts, Fraction(1, 12800)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def packets(path, kind):
    with av.open(str(path)) as container:
        (stream,) = [stream for stream in container.streams if stream.type == kind]
        return [(packet.pts * stream.time_base, bytes(packet)) for packet in container.demux(stream) if packet.size]


def frames(path, form="bgr24"):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [(frame.pts * stream.time_base, frame.to_ndarray(format=form)) for frame in container.decode(stream)]


def run(source, target, restorer=None, resume=False, **options):
    container = predict_video.CONTAINERS[target.suffix]
    job = Job(source, target, container, **{"segment": 10, **options})
    return restore_video(job, restorer or stand_in(), resume=resume, progress=False)


def test_faces_are_restored_and_sound_title_and_times_are_the_sources(tmp_path):
    source = make(tmp_path / "in.mp4")
    assert run(source, tmp_path / "out.mp4") == 0
    assert packets(source, "audio") == packets(tmp_path / "out.mp4", "audio")
    before, after = frames(source), frames(tmp_path / "out.mp4")
    assert [time for time, _ in before] == [time for time, _ in after]
    for i, (_, image) in enumerate(after):
        assert np.abs(image[60, spot(i)].astype(int) - BLUE).max() < 25
    with av.open(str(source)) as one, av.open(str(tmp_path / "out.mp4")) as two:
        assert one.duration == two.duration
        assert two.metadata["title"] == "a title"
        assert [stream.duration for stream in one.streams] == [stream.duration for stream in two.streams]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_uneven_times_are_kept_to_the_tick(tmp_path, ending):
    times = list(np.cumsum(np.random.default_rng(0).integers(128, 2000, 25)) // 64 * 64)
    source = make(tmp_path / f"in{ending}", times=[int(value) for value in times])
    run(source, tmp_path / f"out{ending}")
    assert [time for time, _ in frames(source)] == [time for time, _ in frames(tmp_path / f"out{ending}")]
    assert packets(source, "audio") == packets(tmp_path / f"out{ending}", "audio")


def test_outside_the_faces_the_encoder_gets_the_very_samples_of_the_source(tmp_path):
    source = make(tmp_path / "in.mkv", codec="ffv1", count=12)
    run(source, tmp_path / "out.mkv", codec="ffv1", crf=None)
    for (_, before), (_, after) in zip(frames(source, "yuv420p"), frames(tmp_path / "out.mkv", "yuv420p")):
        luma = (before != after)[:120]
        assert luma.any()
        assert not luma[:, :40].any()
        assert not luma[:, 130:].any()


def test_a_video_without_faces_keeps_every_sample(tmp_path):
    source = make(tmp_path / "in.mkv", codec="ffv1", count=12, faces=False)
    run(source, tmp_path / "out.mkv", codec="ffv1", crf=None)
    for (_, before), (_, after) in zip(frames(source, "yuv420p"), frames(tmp_path / "out.mkv", "yuv420p")):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_turned_video_stays_turned_and_its_faces_are_seen_upright(tmp_path, rotation):
    source = make(tmp_path / "in.mp4", rotation=rotation, count=8)
    shapes = set()

    def upright(image):
        shapes.add(image.shape[:2])
        return detect(image)

    run(source, tmp_path / "out.mp4", stand_in(detect_faces=upright))
    assert (120, 160) in shapes if rotation == 180 else (160, 120) in shapes
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
        assert abs(frame.rotation) % 360 == abs(rotation)
        with av.open(str(source)) as original:
            assert next(original.decode(video=0)).rotation == frame.rotation
        middle = np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90)
    face = middle[middle.shape[0] // 2, middle.shape[1] // 2].astype(int)
    assert np.abs(face - BLUE).max() < 30


def test_ten_bits_stay_ten_bits(tmp_path):
    source = make(tmp_path / "in.mkv", form="yuv420p10le", count=8)
    run(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
    assert np.abs(frames(tmp_path / "out.mkv")[4][1][60, spot(4)].astype(int) - BLUE).max() < 25


def test_webm_gets_vp9_and_what_it_cannot_hold_is_named(tmp_path, capsys):
    source = make(tmp_path / "in.mp4", count=6)
    run(source, tmp_path / "out.webm", codec="libvpx-vp9", crf=20)
    with av.open(str(tmp_path / "out.webm")) as container:
        assert container.streams.video[0].codec_context.name in ("vp9", "libvpx-vp9")
    assert len(frames(tmp_path / "out.webm")) == 6
    assert "audio stream 1 is left out" in capsys.readouterr().err


# --- what does not flicker -------------------------------------------------------------------------------------------


def test_what_the_network_adds_is_averaged_where_the_picture_stands_still(tmp_path):
    source = make(tmp_path / "in.mkv", codec="ffv1", count=30, sound=False)
    rng = np.random.default_rng(0)

    def nervous(crops):
        return [np.full(crop.image.shape, 100 + rng.normal(0, 20), np.float32) for crop in crops]

    def change(memory, name):
        options = {"codec": "ffv1", "crf": None, "memory": memory}
        run(source, tmp_path / name, stand_in(restore_faces=nervous), **options)
        centre = [image[70, 85].astype(float).mean() for _, image in frames(tmp_path / name)]
        return np.abs(np.diff(centre)).mean()

    assert change(4, "steady.mkv") < 0.6 * change(0, "nervous.mkv")


def test_the_noise_that_the_network_took_away_does_not_come_back_with_the_average():
    rng = np.random.default_rng(0)
    steady = SteadyFaces(stand_in(template=FFHQ_512))  # of 512 pixels, so that noise and picture differ in size
    face = Face(np.array([156, 156, 200, 200], np.float32), FFHQ_512.array().astype(np.float32), 0.9)
    centres = []
    for i in range(8):
        noisy = np.clip(120 + rng.normal(0, 8, (512, 512, 3)), 0, 255).astype(np.uint8)
        centres.append(steady.restore(i, noisy, [TrackedFace(0, face, 1.0)])[240:280, 240:280])
    # The network paints every frame the same; all that changes from frame to frame is the film's noise.
    assert np.std(np.array(centres, float), axis=0).mean() < 2.5


# --- going on after a kill -------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_gives_the_same_bytes_and_restores_only_the_rest(tmp_path):
    source = make(tmp_path / "in.mp4", count=36)
    run(source, tmp_path / "whole.mp4")
    count = [0]

    def limited(limit):
        def network(crops):
            count[0] += 1
            if count[0] > limit:
                raise KeyboardInterrupt
            return stand_in().restore_faces(crops)

        return network

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.mp4", stand_in(restore_faces=limited(25)))
    assert not (tmp_path / "out.mp4").exists()
    count[0] = 0
    assert run(source, tmp_path / "out.mp4", stand_in(restore_faces=limited(36)), resume=True) == 0
    assert count[0] == 16 + predict_video.MEMORY
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_segments_of_other_settings_or_another_input_are_not_taken(tmp_path):
    source = make(tmp_path / "in.mp4", count=25)

    def stopped(crops):
        count[0] += 1
        if count[0] > limit:
            raise KeyboardInterrupt
        return stand_in().restore_faces(crops)

    for change in ({"settings": "b"}, {}):
        count, limit = [0], 15
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out.mp4", stand_in(restore_faces=stopped))
        if not change:
            make(source, count=24)
        count, limit = [0], 99
        run(source, tmp_path / "out.mp4", stand_in(restore_faces=stopped, **change), resume=True)
        assert count[0] >= 24


WORKER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.test_predict_video import run, stand_in
def slow(crops):
    time.sleep(0.1)
    return stand_in().restore_faces(crops)
run(Path({source!r}), Path({target!r}), stand_in(restore_faces=slow), resume=True)
"""


def test_killed_the_next_run_goes_on_and_no_half_output_is_ever_there(tmp_path):
    source = make(tmp_path / "in.mp4", count=30)
    run(source, tmp_path / "whole.mp4")
    target = tmp_path / "out.mp4"
    code = WORKER.format(root=str(ROOT), source=str(source), target=str(target))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.mp4.parts/000001_*.nut")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not target.exists()
    assert list(tmp_path.glob(".out.mp4.parts/*.nut"))
    run(source, target, resume=True)
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_two_runs_for_one_output_are_one_too_many(tmp_path):
    source = make(tmp_path / "in.mp4", count=12, sound=False)
    complaints = []

    def meanwhile(crops):
        if not complaints:
            with pytest.raises(predict_video.VideoError, match="another run") as caught:
                run(source, tmp_path / "out.mp4", resume=True)
            complaints.append(caught)
        return stand_in().restore_faces(crops)

    assert run(source, tmp_path / "out.mp4", stand_in(restore_faces=meanwhile)) == 0
    assert complaints
    assert len(frames(tmp_path / "out.mp4")) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


# --- what cannot be done ---------------------------------------------------------------------------------------------


def command(*arguments):
    return run_command("predict-video", [str(argument) for argument in arguments])


def complaints(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("ppgan-fr")]


def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path, capsys):
    source = make(tmp_path / "in.mp4", count=3)
    (tmp_path / "file").write_text("x")
    for arguments, message in (
        (["--input", tmp_path / "none.mp4", "--output", tmp_path / "out.mp4"], "no such file"),
        (["--input", source, "--output", tmp_path / "out.avi"], "the ending must be one of"),
        (["--input", source, "--output", source], "is the input"),
        (["--input", source, "--output", tmp_path / "file" / "out.mp4"], "file"),
        (["--input", source, "--output", tmp_path / "out.webm", "--codec", "libx264"], "VP9"),
        (["--input", source, "--output", tmp_path / "out.mp4", "--detect-every", "0"], "--detect-every"),
        (["--input", source, "--output", tmp_path / "out.mp4", "-c", "configs/none.yaml"], "none"),
    ):
        assert command(*arguments) == 2
        (line,) = complaints(capsys)
        assert message in line


def test_an_input_that_is_no_whole_video_is_one_line_and_exit_code_1(tmp_path, capsys):
    good = make(tmp_path / "good.mp4").read_bytes()
    (tmp_path / "text.mp4").write_text("these are words\n" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(good[: len(good) // 2])
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    for name, reason in (
        ("text", "not a video"),
        ("empty", "not a video"),
        ("cut", "not a video"),
        ("sound", "picture"),
    ):
        assert command("--input", tmp_path / f"{name}.mp4", "--output", tmp_path / "out.mp4") == 1
        (line,) = complaints(capsys)
        assert f"{name}.mp4" in line
        assert reason in line
        assert not (tmp_path / "out.mp4").exists()


def test_a_film_that_was_cut_off_is_refused_and_restored_as_far_as_it_goes_on_request(tmp_path, capsys):
    whole = make(tmp_path / "whole.mkv", count=80, sound=False).read_bytes()
    source = tmp_path / "in.mkv"
    source.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedVideoError, match="cut off"):
        run(source, tmp_path / "out.mkv")
    assert not (tmp_path / "out.mkv").exists()
    run(source, tmp_path / "out.mkv", skip_damaged=True)
    assert 10 < len(frames(tmp_path / "out.mkv")) < 60
    assert "cut off" in capsys.readouterr().err


def test_a_film_with_a_hole_is_refused_and_restored_around_it_on_request(tmp_path, capsys):
    content = bytearray(make(tmp_path / "whole.mp4", count=50, sound=False).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    source = tmp_path / "in.mp4"
    source.write_bytes(content)
    with pytest.raises(DamagedVideoError, match=r"in\.mp4: damaged after"):
        run(source, tmp_path / "out.mp4")
    run(source, tmp_path / "out.mp4", skip_damaged=True)
    assert len(frames(tmp_path / "out.mp4")) > 30
    assert "damaged packets were left out" in capsys.readouterr().err
