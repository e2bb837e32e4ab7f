"""`tools/predict.py` on whole archives: folders in folders, lists, copies, bad files, full disks, signals."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppgan_fr import predict
from ppgan_fr.face.image_io import ImageError, list_images, read_photo
from ppgan_fr.face.xmp import SOURCE_TYPE
from ppgan_fr.manifest import MANIFEST, Manifest, ManifestError
from ppgan_fr.predict import Options, PredictError, inputs, plan, prepare_output, process
from tests.test_predict import ROOT, StandIn, lines, picture, restore


def save(path, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path, **options)
    return path


def run(given, output, restorer=None, options=None, recursive=False, **kwargs):
    sources, folder = inputs(str(given), output, recursive)
    jobs = plan(sources, output, folder)
    prepare_output(output)
    return process(jobs, restorer or StandIn(), options or Options(), output, **kwargs)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- what is restored, and under which name --------------------------------------------------------------------------


def test_folders_in_folders_are_repeated_and_links_to_folders_left_alone(tmp_path):
    album, output = tmp_path / "album", tmp_path / "out"
    for name in ("x.png", "1927/x.png", "1927/spring/x.png", ".hidden/x.png"):
        save(album / name, len(name))
    (album / "loop").symlink_to(album)
    assert run(album, output, recursive=True) == 0
    assert names(output / "restored") == ["1927/spring/x.png", "1927/x.png", "x.png"]
    assert "1927/spring/x_0_restored.png" in names(output / "faces")
    assert run(album, tmp_path / "flat") == 0
    assert names(tmp_path / "flat" / "restored") == ["x.png"]


def test_the_results_may_lie_in_the_folder_of_the_inputs(tmp_path):
    save(tmp_path / "a.png")
    for _ in range(2):  # the second time the results are there, too
        again = StandIn()
        assert run(tmp_path, tmp_path, again, recursive=True) == 0
        assert again.seen == 1
    assert names(tmp_path / "restored") == ["a.png"]
    assert Image.open(tmp_path / "a.png").size == (160, 120)


def test_results_never_overwrite_inputs(tmp_path):
    source = save(tmp_path / "out" / "restored" / "a.png")
    before = source.read_bytes()
    (tmp_path / "link").symlink_to(source.parent)
    for given in (source, source.parent, tmp_path / "link"):
        with pytest.raises(PredictError, match="would overwrite these inputs"):
            run(given, tmp_path / "out")
    assert source.read_bytes() == before


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_a_list_names_the_pictures(tmp_path, separator):
    paths = [save(tmp_path / name, i) for i, name in enumerate(("b/x.png", "a/x.png", "a/y.jpg", "c/x.png"))]
    missing = tmp_path / "gone.png"
    listed = [*paths, missing, paths[0]]
    (tmp_path / "list.txt").write_bytes(separator.join(map(str, listed)).encode() + separator.encode())
    output = tmp_path / "out"
    assert run(tmp_path / "list.txt", output) == 1
    assert [line["input"] for line in lines(output)] == [str(path) for path in [*paths, missing]]
    assert lines(output)[-1]["error"] == f"{missing}: No such file or directory"
    assert len({line["output"] for line in lines(output)}) == 5
    assert len(names(output / "restored")) == 4
    assert len(names(output / "faces")) == 8


def test_a_list_may_come_from_standard_input_and_an_empty_one_is_one_line(tmp_path, monkeypatch):
    source = save(tmp_path / "a\nb.png")
    with (tmp_path / "list").open("wb") as stream:
        stream.write(os.fsencode(source) + b"\0")
    with (tmp_path / "list").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert inputs("-", tmp_path / "out") == ([source], None)
        with pytest.raises(PredictError, match="standard input: the list is empty"):
            inputs("-", tmp_path / "out")


def test_names_stay_what_they_are_when_pictures_are_added(tmp_path):
    output = tmp_path / "out"
    first = plan([Path("b/x.png")], output)[0]
    known = {str(first.source): (first.name, str(first.target))}
    jobs = plan([Path("a/x.png"), Path("b/x.png"), Path("b/x.jpg")], output, known=known)
    assert (jobs[1].name, jobs[1].target) == (first.name, first.target)
    assert len({job.name for job in jobs}) == len({job.target for job in jobs}) == 3


def test_a_name_as_long_as_a_name_can_be_is_shortened(tmp_path):
    for end in "ab":
        save(tmp_path / "album" / f"{'é' * 120}{end * 11}.png", ord(end))
    assert run(tmp_path / "album", tmp_path / "out") == 0
    assert len(names(tmp_path / "out" / "restored")) == 2
    assert len(names(tmp_path / "out" / "faces")) == 4


def test_a_picture_that_is_there_twice_is_restored_once(tmp_path):
    album, output = tmp_path / "album", tmp_path / "out"
    save(album / "a.png")
    for name in ("b.png", "c.png"):
        shutil.copy(album / "a.png", album / name)
    shutil.copy(album / "a.png", album / "d.jpg")  # the same bytes, another kind of result
    restorer = StandIn()
    assert run(album, output, restorer) == 0
    assert restorer.seen == 2
    contents = [(output / "restored" / name).read_bytes() for name in ("a.png", "b.png", "c.png")]
    assert contents[0] == contents[1] == contents[2]
    assert len(names(output / "faces")) == 8
    said = lines(output)
    assert [Path(line["output"]).name for line in said] == ["a.png", "b.png", "c.png", "d.jpg"]
    assert said[1]["faces"] == said[0]["faces"]
    with Manifest(output) as manifest:
        same = {Path(name).name: done.same_as for name, done in manifest.done().items()}
    assert same == {"a.png": None, "b.png": str(album / "a.png"), "c.png": str(album / "a.png"), "d.jpg": None}
    # the copies are results of their own: each can be lost and made again
    (output / "restored" / "a.png").unlink()
    again = StandIn()
    assert run(album, output, again, resume=True) == 0
    assert (output / "restored" / "a.png").read_bytes() == contents[0]


def test_copies_of_a_bad_picture_are_all_listed(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    assert run(tmp_path, tmp_path / "out") == 1
    assert [Path(line["error"].partition(": ")[0]).name for line in lines(tmp_path / "out")] == ["a.png", "b.png"]


def test_the_note_is_in_restored_photos_only_and_can_be_left_out(tmp_path):
    save(tmp_path / "face.jpg")
    Image.fromarray(picture(1, 40, 40)).save(tmp_path / "tree.jpg")
    assert run(tmp_path, tmp_path / "on", options=Options(provenance=True, network="a_network")) == 0
    assert SOURCE_TYPE.encode() in (tmp_path / "on/restored/face.jpg").read_bytes()
    assert b"1 face restored by a neural network (a_network)" in (tmp_path / "on/restored/face.jpg").read_bytes()
    assert (tmp_path / "on/restored/tree.jpg").read_bytes() == (tmp_path / "tree.jpg").read_bytes()
    assert run(tmp_path / "face.jpg", tmp_path / "off") == 0
    assert SOURCE_TYPE.encode() not in (tmp_path / "off/restored/face.jpg").read_bytes()


def test_a_photo_whose_faces_are_left_alone_is_copied_bit_by_bit(tmp_path):
    class Leaving(StandIn):
        def restore(self, image, options, on_face=None):
            restored = super().restore(image, options, on_face)
            faces = tuple(replace(one, image=one.aligned.image, left_alone="sharp") for one in restored.faces)
            return replace(restored, image=image, faces=faces)

    save(tmp_path / "face.jpg", quality=60)
    assert run(tmp_path / "face.jpg", tmp_path / "out", Leaving(), Options(provenance=True)) == 0
    assert (tmp_path / "out/restored/face.jpg").read_bytes() == (tmp_path / "face.jpg").read_bytes()
    assert lines(tmp_path / "out")[0]["status"] == "ok"


@pytest.mark.parametrize(
    ("suffix", "deep"), [(".png", False), (".png", True), (".tif", False), (".tif", True), (".webp", False)]
)
def test_outside_the_face_every_pixel_of_a_lossless_photo_stays(tmp_path, suffix, deep):
    from ppgan_fr.face.image_io import Photo, write_photo

    kind = np.uint16 if deep else np.uint8
    noise = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (120, 240, 3), kind)
    alpha = np.random.default_rng(1).integers(0, np.iinfo(kind).max, (120, 240), kind)
    write_photo(tmp_path / f"a{suffix}", Photo(noise, alpha))
    assert run(tmp_path / f"a{suffix}", tmp_path / "out", options=Options(provenance=True)) == 0
    back = read_photo(tmp_path / f"out/restored/a{suffix}")
    changed = (back.pixels != noise).any(2)
    assert changed[20:100, 70:170].mean() > 0.2  # the face is restored
    assert not changed[:, :60].any()
    assert not changed[:, 180:].any()
    assert np.array_equal(back.alpha, alpha)


# --- bad inputs ------------------------------------------------------------------------------------------------------


def make_bad(folder):
    """Every bad file with what its line says; None: it is not bad after all."""
    good = save(folder / "good.jpg", quality=95)
    frames = [Image.fromarray(np.roll(picture(), 40 * i, 1)) for i in range(3)]
    expected = {"good.jpg": None}
    (folder / "cut.jpg").write_bytes(good.read_bytes()[:2000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("these are words")
    expected |= {"cut.jpg": "truncated", "empty.png": "the file is empty", "text.jpg": "not a picture"}
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    frames[1].convert("CMYK").save(folder / "inks.jpg")
    frames[2].quantize(16).save(folder / "palette.png")
    expected |= {"dot.png": None, "inks.jpg": None, "palette.png": None}
    for name in ("moving.gif", "moving.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
        expected[name] = "3 frames; only files with one picture are restored"
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    expected["pages.tif"] = "3 pages; only files with one picture are restored"
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("gone.png")
    os.mkfifo(folder / "pipe.png")
    expected |= {"loop.png": "Too many levels of symbolic links", "nowhere.png": "No such file"}
    expected["pipe.png"] = "not a file"
    save(folder / "two\nlines.png", 7)
    (folder / "bad\nname.png").write_bytes(b"no picture")
    expected |= {"two\nlines.png": None, "bad\nname.png": r"bad\nname.png: not a picture"}
    save(folder / "フォト 👨.png", 8)
    save(folder / os.fsdecode(b"caf\xe9.png"), 9)
    expected |= {"フォト 👨.png": None, os.fsdecode(b"caf\xe9.png"): None}
    return expected


def test_every_bad_input_is_one_line_and_every_other_one_is_restored(tmp_path, capfd):
    expected = make_bad(tmp_path / "album")
    output = tmp_path / "out"
    assert run(tmp_path / "album", output) == 1
    said = {Path(line["input"]).name: line for line in lines(output)}
    assert set(said) == set(expected)
    for name, reason in expected.items():
        if reason is None:
            assert said[name]["status"] in ("ok", "no_face"), said[name]["error"]
            assert Path(said[name]["output"]).is_file()
        else:
            assert said[name]["status"] == "failed", name
            assert reason in said[name]["error"]
            assert "\n" not in said[name]["error"]
            assert said[name]["output"] is None
    shown = [line for line in capfd.readouterr().err.splitlines() if str(tmp_path / "album") in line]
    assert len(shown) == sum(reason is not None for reason in expected.values())
    assert len(names(output / "restored")) == sum(reason is None for reason in expected.values())


def test_a_fault_of_the_disk_that_passes_is_not_noticed(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    real, tries = predict.read_content, []

    def unsure(path):
        tries.append(path)
        if len(tries) < 3:
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(predict, "read_content", unsure)
    assert run(tmp_path / "a.png", tmp_path / "out") == 0
    assert len(tries) == 3


def without_privileges():
    """Takes from root the right to open everything; called in the child, before its program starts."""
    import ctypes

    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_folders_and_files_without_permission_are_one_line_each(tmp_path):
    save(tmp_path / "album" / "good.png")
    closed = save(tmp_path / "album" / "closed" / "x.png").parent
    secret = save(tmp_path / "album" / "secret.png", 3)
    (tmp_path / "locked").mkdir(mode=0o555)
    closed.chmod(0)
    secret.chmod(0)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
    code += "from tests.test_predict_archive import run, PredictError, ImageError\n"
    code += f"top = Path({str(tmp_path)!r})\nprint(run(top / 'album', top / 'out', recursive=True))\n"
    for given, output in (("album/closed", "out2"), ("album/good.png", "locked/out")):
        code += f"try: run(top / {given!r}, top / {output!r})\nexcept (PredictError, ImageError) as e: print(e)\n"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, preexec_fn=without_privileges
    )
    closed.chmod(0o755)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout.splitlines()[1:] == [
        "1",
        f"{closed}: Permission denied",
        f"{tmp_path / 'locked' / 'out'}: cannot write results here (Permission denied)",
    ]
    assert {Path(line["input"]).name: line["error"] for line in lines(tmp_path / "out")} == {
        "good.png": None,
        "closed": f"{closed}: Permission denied",
        "secret.png": f"{secret}: Permission denied",
    }


# --- no space left ---------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_the_job_and_freeing_space_lets_it_go_on(tmp_path, monkeypatch, capfd):
    album, output = tmp_path / "album", tmp_path / "out"
    for i in range(12):
        save(album / f"{i:02d}.png", i)
    from ppgan_fr.face import image_io

    real, written = image_io.write_file, []

    def write(path, content):
        if Path(path).parent.name == "restored":
            if len(written) == 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(path)
        return real(path, content)

    sources = list_images(album)
    jobs = plan(sources, output)
    prepare_output(output)
    monkeypatch.setattr(image_io, "write_file", write)
    monkeypatch.setattr(predict, "write_file", write)
    assert process(jobs, StandIn(), Options(), output) == 1
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ppgan-fr")]
    assert said == [
        f"ppgan-fr predict: {output}: cannot be written (No space left on device); 5 of 12 photos are done, the same"
        " command with --resume goes on"
    ]
    assert [line["status"] for line in lines(output)] == ["ok"] * 5
    assert len(names(output / "faces")) == 10
    monkeypatch.undo()
    again = StandIn()
    assert restore(album, output, again, resume=True) == 0
    assert again.seen == 7
    assert [Path(line["input"]).name for line in lines(output)] == [f"{i:02d}.png" for i in range(12)]


FULL = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.test_predict_archive import run
sys.exit(run(Path({album!r}), Path({output!r}), resume=True))
"""


def test_a_real_small_disk_that_fills_up(tmp_path):
    album, disk = tmp_path / "album", tmp_path / "disk"
    for i in range(12):
        save(album / f"{i:02d}.png", i)
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        code = FULL.format(root=str(ROOT), album=str(album), output=str(disk / "out"))
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        said = [line for line in answer.stderr.splitlines() if line.startswith("ppgan-fr predict: ")]
        assert (answer.returncode, len(said)) == (1, 1), answer.stderr
        assert "photos are done, the same command with --resume goes on" in said[0]
        whole = names(disk / "out" / "restored")
        assert 0 < len(whole) < 12
        for name in whole:
            read_photo(disk / "out" / "restored" / name)
        assert not [name for name in names(disk) if name.endswith(".part")]
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
        assert len(names(disk / "out" / "restored")) == 12
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_file_larger_than_allowed_fails_alone(tmp_path):
    album = tmp_path / "album"
    save(album / "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    Image.fromarray(noise).save(album / "b.png")
    save(album / "c.png", 2)
    code = FULL.format(root=str(ROOT), album=str(album), output=str(tmp_path / "out"))
    limit = 1_500_000
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert answer.returncode == 1, answer.stderr
    assert [line["status"] for line in lines(tmp_path / "out")] == ["ok", "failed", "ok"]
    assert "b.png: cannot be written (File too large)" in lines(tmp_path / "out")[1]["error"]


# --- stop and go on --------------------------------------------------------------------------------------------------

SLOW = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.test_predict_archive import StandIn, run
class Slow(StandIn):
    def restore(self, *args):
        time.sleep(0.02)
        return super().restore(*args)
sys.exit(run(Path({album!r}), Path({output!r}), Slow(), resume=True))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_job_in_good_order(tmp_path, number, code):
    album, output = tmp_path / "album", tmp_path / "out"
    for i in range(40):
        save(album / f"{i:02d}.png", i)
    program = SLOW.format(root=str(ROOT), album=str(album), output=str(output))
    process_ = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(output.glob("restored/*.png"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    process_.send_signal(number)
    _, said = process_.communicate(timeout=120)
    assert process_.returncode == code, said
    done = lines(output)
    assert f"ppgan-fr predict: stopped; {len(done)} of 40 photos are done" in said
    assert 5 <= len(done) < 40
    assert len(names(output / "restored")) == len(done)
    again = StandIn()
    assert restore(album, output, again, resume=True) == 0
    assert again.seen == 40 - len(done)
    assert len(lines(output)) == 40


def test_a_picture_that_the_program_died_of_comes_last(tmp_path):
    album, output = tmp_path / "album", tmp_path / "out"
    for name in "abc":
        save(album / f"{name}.png", ord(name))
    prepare_output(output)
    for _ in range(3):
        with Manifest(output) as manifest:
            manifest.begin(str(album / "a.png"))
    seen = []

    class Watching(StandIn):
        def restore(self, image, *rest):
            seen.append(image[0, 0].tolist())
            return super().restore(image, *rest)

    assert restore(album, output, Watching(), resume=True) == 0
    first = [read_photo(album / f"{name}.png").pixels[0, 0].tolist() for name in "bca"]
    assert seen == first
    assert [Path(line["input"]).name for line in lines(output)] == ["a.png", "b.png", "c.png"]


def test_results_are_written_anew_from_the_manifest(tmp_path):
    album, output = tmp_path / "album", tmp_path / "out"
    for name in "abc":
        save(album / f"{name}.png", ord(name))
    assert restore(album, output) == 0
    before = (output / "results.jsonl").read_bytes()
    (output / "results.jsonl").unlink()
    nothing = StandIn()
    assert restore(album, output, nothing, resume=True) == 0
    assert nothing.seen == 0
    assert (output / "results.jsonl").read_bytes() == before
    assert (output / MANIFEST).is_file()


def test_a_damaged_manifest_is_one_line_with_resume_and_no_matter_without(tmp_path):
    save(tmp_path / "a.png")
    output = tmp_path / "out"
    prepare_output(output)
    (output / MANIFEST).write_bytes(b"damaged beyond recognition" * 100)
    with pytest.raises(ManifestError, match="damaged"):
        restore(tmp_path / "a.png", output, resume=True)
    assert restore(tmp_path / "a.png", output) == 0


def test_results_do_not_depend_on_what_is_under_way(tmp_path, monkeypatch):
    album = tmp_path / "album"
    for i in range(6):
        save(album / f"{i}.png", i)
    real = predict.staged
    for name, ahead, writers in (("one", 1, 1), ("many", 8, 4)):
        monkeypatch.setattr(
            predict, "staged", lambda *args, a=ahead, w=writers, **kw: real(*args, ahead=a, writers=w, **kw)
        )
        assert restore(album, tmp_path / name) == 0
    for path in (tmp_path / "one").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "many" / path.relative_to(tmp_path / "one")).read_bytes()


def archive(tiny, output, *arguments):
    command = [sys.executable, ROOT / "benchmarks/archive.py", "--output", output, *arguments]
    command += ["-c", tiny / "tiny.yaml", "--weights", tiny / "tiny.pdparams", "--json", output / "answer.json"]
    output.mkdir()
    answer = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads((output / "answer.json").read_text())


def test_sixty_pictures_survive_a_kill(tiny, tmp_path):
    answer = archive(tiny, tmp_path / "archive", "--count", "60", "--kills", "1", "--again", "6")
    assert answer["pictures"] == 60
    assert answer["corrupt, all listed"] == 1
    assert answer["restored anew, byte for byte the same"] == 6


@pytest.mark.slow
def test_two_thousand_pictures_survive_five_kills(tiny, tmp_path):
    count = os.environ.get("PPGAN_ARCHIVE_COUNT", "2000")
    answer = archive(tiny, tmp_path / "archive", "--count", count, "--kills", "5")
    assert len(answer["done before -> after each kill"]) == 5


def test_an_image_error_knows_what_the_system_said(tmp_path):
    with pytest.raises(ImageError) as caught:
        read_photo(tmp_path / "gone.png")
    assert caught.value.errno == errno.ENOENT
