from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppgan_fr.cli import run_command
from ppgan_fr.data.contact_sheet import contact_sheet
from ppgan_fr.data.degrade import PRESETS
from ppgan_fr.data.degrade_faces import degrade_faces
from ppgan_fr.data.loader import DataError


@pytest.fixture
def faces(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "faces"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC))
    return folder


def read(path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None, path
    return image


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_keeps_names_and_sizes_and_changes_the_pictures(faces, tmp_path, preset):
    result = degrade_faces(faces, tmp_path / "lq", preset, seed=1, progress=False)
    assert [path.name for path in result.written] == ["a.png", "b.png"]
    for name in ("a.png", "b.png"):
        worse, original = read(tmp_path / "lq" / name), read(faces / name)
        assert worse.shape == original.shape
        assert (worse != original).any()


def test_a_picture_depends_on_seed_and_name_but_not_on_its_neighbours(faces, tmp_path):
    degrade_faces(faces, tmp_path / "both", "hifacegan_renovation", seed=1, progress=False)
    (faces / "a.png").unlink()
    degrade_faces(faces, tmp_path / "one", "hifacegan_renovation", seed=1, progress=False)
    degrade_faces(faces, tmp_path / "other", "hifacegan_renovation", seed=2, progress=False)
    np.testing.assert_array_equal(read(tmp_path / "one/b.png"), read(tmp_path / "both/b.png"))
    assert (read(tmp_path / "other/b.png") != read(tmp_path / "one/b.png")).any()


def test_stacked_files_hold_the_degraded_face_above_its_original(faces, tmp_path):
    degrade_faces(faces, tmp_path / "pairs", "face_renovation", layout="stacked", size=32, progress=False)
    pair = read(tmp_path / "pairs/a.png")
    assert pair.shape == (64, 32, 3)
    np.testing.assert_array_equal(pair[32:], cv2.resize(read(faces / "a.png"), (32, 32), interpolation=cv2.INTER_AREA))


def test_results_that_exist_are_kept_unless_asked(faces, tmp_path):
    degrade_faces(faces, tmp_path / "lq", "gfpgan", seed=0, progress=False)
    before = read(tmp_path / "lq/a.png")
    with pytest.raises(DataError, match="--overwrite"):
        degrade_faces(faces, tmp_path / "lq", "gfpgan", seed=1, progress=False)
    np.testing.assert_array_equal(read(tmp_path / "lq/a.png"), before)
    degrade_faces(faces, tmp_path / "lq", "gfpgan", seed=1, overwrite=True, progress=False)


def test_the_originals_are_never_overwritten(faces):
    before = read(faces / "a.png")
    with pytest.raises(DataError, match="lost"):
        degrade_faces(faces, faces, "gfpgan", overwrite=True, progress=False)
    np.testing.assert_array_equal(read(faces / "a.png"), before)


def test_two_pictures_that_would_share_a_result_are_refused(faces, tmp_path):
    cv2.imwrite(str(faces / "a.jpg"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.jpg and a\.png would both become a\.png"):
        degrade_faces(faces, tmp_path / "lq", "gfpgan", progress=False)


def test_an_unreadable_picture_is_reported_and_the_others_are_done(faces, tmp_path, capsys):
    (faces / "broken.png").write_bytes(b"no picture")
    arguments = ["--preset", "face_renovation", "--input", str(faces), "--output", str(tmp_path / "lq")]
    assert run_command("degrade", arguments) == 1
    captured = capsys.readouterr()
    assert "broken.png" in captured.err
    assert "2 faces in" in captured.out


def test_the_contact_sheet_shows_degraded_and_original(faces, tmp_path):
    sheet = tmp_path / "sheet.png"
    degrade_faces(faces, tmp_path / "lq", "face_renovation", sheet=sheet, progress=False)
    picture = read(sheet)
    assert picture.shape[1] > 2 * 160
    assert picture.std() > 10


def test_a_contact_sheet_places_every_version_of_every_face():
    rows = [[np.full((10, 20, 3), 10 * row + column, np.uint8) for column in range(3)] for row in range(4)]
    sheet = contact_sheet(rows, ("one", "two", "three"), tile=20, rows_per_column=2)
    assert {10 * row + column for row in range(4) for column in range(3)} <= set(np.unique(sheet))
    with pytest.raises(ValueError, match="nothing to show"):
        contact_sheet([])
    with pytest.raises(ValueError, match="as many"):
        contact_sheet([rows[0], rows[1][:2]])


@pytest.mark.parametrize("wrong", [{"preset": "nope"}, {"layout": "sideways"}, {"seed": -1}])
def test_wrong_arguments_are_named(faces, tmp_path, wrong):
    options = {"preset": "gfpgan", "progress": False, **wrong}
    with pytest.raises(DataError, match=str(next(iter(wrong.values())))):
        degrade_faces(faces, tmp_path / "lq", **options)
