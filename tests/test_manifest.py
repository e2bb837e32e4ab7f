"""The record of a job: what is in it is done, and nothing else is."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ppgan_fr.manifest import MANIFEST, Done, Manifest, ManifestError, digest, recorded_names, stamp, still_done

ROOT = Path(__file__).resolve().parent.parent


def done(tmp_path, name="a.png", status="ok", settings="s"):
    source, target = tmp_path / name, tmp_path / f"restored_{name}"
    source.write_bytes(name.encode(errors="surrogateescape"))
    target.write_bytes(b"restored")
    line = {"input": str(source), "output": str(target), "status": status, "faces": []}
    content = digest(source.read_bytes())
    return Done(line, source.stem, settings, content, stamp(source), stamp(target), digest(b"restored"))


def enter(manifest, one):
    manifest.begin(one.line["input"])
    manifest.finish(one.line["input"], one, one.line["output"])


def kept(tmp_path, one, settings="s"):
    wanted = [(Path(one.line["input"]), one.name, Path(one.line["output"]))]
    with Manifest(tmp_path) as manifest:
        return list(still_done(wanted, manifest.done(), settings, tmp_path))


def test_what_was_entered_is_there_in_the_next_run(tmp_path):
    one = done(tmp_path)
    with Manifest(tmp_path) as manifest:
        enter(manifest, one)
    with Manifest(tmp_path) as manifest:
        assert manifest.done() == {one.line["input"]: one}
        assert manifest.lines() == {one.line["input"]: one.line}
        assert manifest.names() == {one.line["input"]: ("a", one.line["output"])}
        assert manifest.begun() == {}
    assert recorded_names(tmp_path) == {one.line["input"]: ("a", one.line["output"])}
    assert [path.name for path in tmp_path.glob(f"{MANIFEST}*")] == [MANIFEST]


def test_what_was_begun_is_counted_until_it_is_finished(tmp_path):
    one = done(tmp_path)
    for expected in (1, 2, 3):
        with Manifest(tmp_path) as manifest:
            manifest.begin(one.line["input"])
            assert manifest.begun() == {one.line["input"]: expected}
            assert manifest.done() == {}
    with Manifest(tmp_path) as manifest:
        enter(manifest, one)
        assert manifest.begun() == {}


def test_a_name_that_is_not_text_is_a_name(tmp_path):
    name = os.fsdecode(b"caf\xe9 \n.png")
    one = done(tmp_path, name)
    with Manifest(tmp_path) as manifest:
        enter(manifest, one)
    assert kept(tmp_path, one) == [str(tmp_path / name)]


def test_anew_forgets_everything_and_keep_only_the_rest(tmp_path):
    ones = [done(tmp_path, f"{name}.png") for name in "abc"]
    with Manifest(tmp_path) as manifest:
        for one in ones:
            enter(manifest, one)
        manifest.begin("other")
        manifest.keep_only([ones[1].line["input"]])
        assert list(manifest.done()) == [ones[1].line["input"]]
        assert list(manifest.begun()) == ["other"]
    with Manifest(tmp_path, anew=True) as manifest:
        assert manifest.done() == {}
        assert manifest.begun() == {}


def test_only_what_is_unchanged_is_still_done(tmp_path):
    one = done(tmp_path)
    with Manifest(tmp_path) as manifest:
        enter(manifest, one)
    source, target = Path(one.line["input"]), Path(one.line["output"])
    assert kept(tmp_path, one) == [str(source)]
    assert kept(tmp_path, one, settings="other") == []
    os.utime(source, (1, 1))  # another time, the same bytes
    assert kept(tmp_path, one) == [str(source)]
    source.write_bytes(b"other")
    assert kept(tmp_path, one) == []
    source.write_bytes(b"a.png")
    target.write_bytes(b"half")
    assert kept(tmp_path, one) == []
    target.unlink()
    assert kept(tmp_path, one) == []


def test_missing_face_files_are_made_again(tmp_path):
    one = done(tmp_path)
    one.line["faces"].append({})
    with Manifest(tmp_path) as manifest:
        enter(manifest, one)
    assert kept(tmp_path, one) == []
    for kind in ("input", "restored"):
        (tmp_path / f"a_0_{kind}.png").write_bytes(b"")
    assert len(kept(tmp_path, one)) == 1


def test_a_failed_photo_is_listed_and_not_done(tmp_path):
    one = done(tmp_path, status="failed")
    with Manifest(tmp_path) as manifest:
        enter(manifest, one)
        assert manifest.done() == {}
        assert list(manifest.lines()) == [one.line["input"]]


def test_two_runs_in_one_folder_are_one_too_many(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path\n"
    code += f"from ppgan_fr.manifest import Manifest, ManifestError\ntry: Manifest(Path({str(tmp_path)!r}))\n"
    code += "except ManifestError as error: print(error); sys.exit(3)\n"
    with Manifest(tmp_path):
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert answer.returncode == 3, answer.stderr
        assert "another run is writing its results here" in answer.stdout
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_damaged_manifest_is_one_line_and_is_replaced_when_everything_is_done_anew(tmp_path):
    (tmp_path / MANIFEST).write_bytes(b"this is no database, and long enough to be taken for one" * 20)
    with pytest.raises(ManifestError, match="damaged") as caught:
        Manifest(tmp_path)
    assert "\n" not in str(caught.value)
    with Manifest(tmp_path, anew=True) as manifest:
        assert manifest.done() == {}


def test_a_manifest_of_another_version_is_left_alone(tmp_path):
    with Manifest(tmp_path):
        pass
    database = sqlite3.connect(tmp_path / MANIFEST)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ManifestError, match="another version"):
        Manifest(tmp_path)
