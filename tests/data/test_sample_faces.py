from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ppgan_fr.cli import run_command
from ppgan_fr.data.loader import DataError
from ppgan_fr.data.sample_faces import sample_faces, sample_indices


@pytest.fixture
def source(tmp_path):
    """Ten pictures in two folders, each of its own gray."""
    for number in range(10):
        folder = tmp_path / "ffhq" / f"0{number // 5}000"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number:05d}.png"), np.full((4, 4, 3), number * 20, np.uint8))
    return tmp_path / "ffhq"


def grays(folder) -> list[int]:
    return [int(cv2.imread(str(path))[0, 0, 0]) // 20 for path in sorted(folder.iterdir())]


def test_the_sets_are_numbered_in_the_order_they_were_drawn(source, tmp_path):
    sample_faces(4, 3, source, tmp_path / "out", seed=3, progress=False)
    train, valid = sample_indices(10, 4, 3, seed=3)
    assert [p.name for p in sorted((tmp_path / "out/train_set/ori").iterdir())] == [f"{n:05d}.png" for n in range(4)]
    assert grays(tmp_path / "out/train_set/ori") == train.tolist()
    assert grays(tmp_path / "out/valid_set/ori") == valid.tolist()


def test_the_record_says_where_every_picture_came_from(source, tmp_path):
    sets = sample_faces(2, 1, source, tmp_path / "out", seed=1, progress=False)
    record = json.loads((tmp_path / "out/sample.json").read_text())
    assert record["sets"] == sets
    assert (record["seed"], record["count"]) == (1, 10)
    assert all((source / path).is_file() for paths in sets.values() for path in paths)


def test_the_same_seed_draws_the_same_faces_and_another_does_not():
    first, again, other = (sample_indices(1000, 50, 50, seed)[0].tolist() for seed in (5, 5, 6))
    assert first == again != other


def test_train_and_validation_never_share_a_face():
    train, valid = sample_indices(10, 6, 4, seed=0)
    assert sorted([*train, *valid]) == list(range(10))


def test_no_validation_faces_means_none_instead_of_all(source, tmp_path):
    assert len(sample_indices(10, 4, 0, seed=0)[1]) == 0
    sample_faces(4, 0, source, tmp_path / "out", progress=False)
    assert not (tmp_path / "out/valid_set").exists()


@pytest.mark.parametrize(("train", "valid", "said"), [(8, 3, "overlap"), (-1, 2, "negative"), (0, 0, "both sets")])
def test_sizes_that_make_no_sense_are_refused(source, tmp_path, train, valid, said):
    with pytest.raises(DataError, match=said):
        sample_faces(train, valid, source, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_sets_that_exist_are_kept_unless_asked(source, tmp_path):
    sample_faces(2, 1, source, tmp_path / "out", seed=0, progress=False)
    before = grays(tmp_path / "out/train_set/ori")
    with pytest.raises(DataError, match="--overwrite"):
        sample_faces(3, 1, source, tmp_path / "out", seed=1, progress=False)
    assert grays(tmp_path / "out/train_set/ori") == before
    sample_faces(3, 1, source, tmp_path / "out", seed=1, overwrite=True, progress=False)
    assert len(grays(tmp_path / "out/train_set/ori")) == 3


def test_the_pictures_to_draw_from_are_never_replaced(tmp_path):
    folder = tmp_path / "train_set" / "ori"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="drawn from"):
        sample_faces(1, 0, folder, tmp_path, overwrite=True, progress=False)
    assert (folder / "a.png").exists()


def test_an_empty_or_missing_source_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        with pytest.raises(DataError, match=name):
            sample_faces(1, 1, tmp_path / name, tmp_path / "out", progress=False)


def test_the_command_prints_what_it_wrote_and_refuses_in_one_line(source, tmp_path, capsys):
    arguments = ["3", "2", "--source", str(source), "--output", str(tmp_path / "out"), "--seed", "0"]
    assert run_command("sample", arguments) == 0
    assert "3 faces in" in capsys.readouterr().out
    assert run_command("sample", arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
