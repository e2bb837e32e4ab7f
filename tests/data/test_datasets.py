"""Data sets as users bring them: good, mixed, broken and belonging to something else."""

import json

import cv2
import numpy as np
import pytest

from ppgan_fr.config import Data, Degradation
from ppgan_fr.data import degrade
from ppgan_fr.data.datasets import (
    ComponentBoxes,
    DegradedFaces,
    LatentPairs,
    PairedFolder,
    dataset,
    decode,
    fit,
    write_lmdb,
)
from ppgan_fr.data.loader import DataError, Loader
from ppgan_fr.data.make_components import boxes_from_landmarks, write_components
from ppgan_fr.data.make_lite_data import draw_face


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    boxes = {}
    for number in range(4):
        face, landmarks = draw_face(32, np.random.default_rng(number))
        cv2.imwrite(str(folder / f"{number:03d}.png"), face)
        boxes[f"{number:03d}.png"] = boxes_from_landmarks(landmarks, 32)
    write_components(tmp_path / "boxes.npz", boxes, 32)
    return folder


def section(root, **options):
    return Data(root=str(root), size=32, **options)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_degraded_face_is_a_pair_in_the_range_of_the_network(faces):
    sample = DegradedFaces(section(faces, mirror=False)).sample(0, rng())
    assert sample["lq"].shape == sample["gt"].shape == (3, 32, 32)
    assert sample["gt"].dtype == np.float32
    assert -1 <= sample["lq"].min() <= sample["lq"].max() <= 1
    original = cv2.imread(str(faces / "000.png"))[:, :, ::-1].transpose(2, 0, 1)
    np.testing.assert_allclose((sample["gt"] + 1) * 127.5, original, atol=1e-3)
    assert np.abs(sample["lq"] - sample["gt"]).mean() > 0.01


def test_a_sample_is_drawn_again_from_the_same_numbers(faces):
    source = DegradedFaces(section(faces))
    np.testing.assert_array_equal(source.sample(1, rng(5))["lq"], source.sample(1, rng(5))["lq"])


def test_an_lmdb_gives_the_same_samples_as_its_folder(faces, tmp_path):
    pytest.importorskip("lmdb")
    assert write_lmdb(faces, tmp_path / "faces.lmdb") == 4
    folder, base = DegradedFaces(section(faces)), DegradedFaces(section(tmp_path / "faces.lmdb"))
    assert [base.name(i) for i in range(4)] == [folder.name(i) for i in range(4)]
    np.testing.assert_array_equal(base.sample(2, rng(1))["lq"], folder.sample(2, rng(1))["lq"])


def test_boxes_follow_the_mirror_and_change_sides(faces, tmp_path):
    boxes = ComponentBoxes.read(tmp_path / "boxes.npz", 32)
    plain, mirrored = (boxes.boxes(0, "000.png", 32, mirrored) for mirrored in (False, True))
    centres = (plain[:, :2] + plain[:, 2:] - 1) / 2
    flipped = (mirrored[:, :2] + mirrored[:, 2:] - 1) / 2
    np.testing.assert_allclose(flipped[0], [32 - centres[1][0], centres[1][1]], atol=1e-4)
    np.testing.assert_allclose(flipped[2], [32 - centres[2][0], centres[2][1]], atol=1e-4)
    np.testing.assert_array_equal(boxes.boxes(0, "000.png", 32, False), plain)


def test_the_originals_habit_of_flipping_for_good_is_kept_for_replays_only(faces, tmp_path):
    boxes = ComponentBoxes.read(tmp_path / "boxes.npz", 32)
    plain = boxes.boxes(0, "000.png", 32, False)
    boxes.boxes(0, "000.png", 32, True, in_place=True)
    assert np.abs(boxes.boxes(0, "000.png", 32, False) - plain).max() > 0.01


def test_boxes_scale_with_the_picture(faces, tmp_path):
    boxes = ComponentBoxes.read(tmp_path / "boxes.npz", 32)
    small, large = boxes.boxes(0, "000.png", 32, False), boxes.boxes(0, "000.png", 64, False)
    np.testing.assert_allclose(large[:, 2:], 2 * small[:, 2:], rtol=1e-5)


def test_eye_boxes_are_enlarged_as_in_the_original(tmp_path):
    entry = {"left_eye": [10, 20, 5], "right_eye": [30, 20, 5], "mouth": [20, 40, 8]}
    (tmp_path / "boxes.json").write_text(json.dumps({"size": 64, "a.png": entry}))
    boxes = ComponentBoxes.read(tmp_path / "boxes.json", 64).boxes(0, "a.png", 64, False)
    np.testing.assert_allclose(boxes, [[4, 14, 17, 27], [24, 14, 37, 27], [13, 33, 28, 48]])


def test_boxes_for_other_names_are_refused(faces, tmp_path):
    write_components(tmp_path / "other.npz", {"x.png": np.ones((3, 3))}, 32)
    with pytest.raises(DataError, match=r"has boxes for none of the 4 pictures .*'x\.png'.*for another set"):
        DegradedFaces(section(faces, component_boxes=str(tmp_path / "other.npz")))


def test_a_few_pictures_without_boxes_are_skipped_many_are_refused(faces, tmp_path):
    archive = dict(np.load(tmp_path / "boxes.npz"))
    few = {name: box for name, box in zip(archive["names"], archive["boxes"], strict=True) if name != "001.png"}
    write_components(tmp_path / "few.npz", few, 32)
    settings = {"component_boxes": str(tmp_path / "few.npz"), "max_bad_fraction": 0.3}
    loader = Loader(DegradedFaces(section(faces, **settings)), seed=0, batch_size=4, max_bad_fraction=0.3)
    assert next(loader.batches())["boxes"].shape == (4, 3, 4)
    assert list(loader.bad) == ["001.png"]
    with pytest.raises(DataError, match=r"1 of 4 pictures have no boxes \(first: 001\.png\)"):
        DegradedFaces(section(faces, component_boxes=str(tmp_path / "few.npz"), max_bad_fraction=0.1))


def test_boxes_by_number_for_another_number_of_pictures_are_refused(tmp_path):
    entry = {part: np.ones(3) for part in ("left_eye", "right_eye", "mouth")}
    boxes = ComponentBoxes({"00000000": entry, "00000001": entry}, 32, by_index=True, source="boxes.pth")
    with pytest.raises(DataError, match="numbers 2 pictures, the data set has 3"):
        boxes.check(["a", "b", "c"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npz", None, "no such file"),
        ("boxes.txt", b"", r"\.npz, \.json or \.pth"),
        ("boxes.json", b"{", "not a file of component boxes"),
        ("boxes.json", b'{"a.png": {"left_eye": [1, 2]}}', "not a file of component boxes"),
        ("boxes.npz", b"PK broken", "not a file of component boxes"),
        ("boxes.pth", b"no checkpoint", "not a file of component boxes"),
    ],
)
def test_a_wrong_component_file_is_one_clear_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        ComponentBoxes.read(tmp_path / name, 32)


def test_a_missing_and_an_empty_folder_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        dataset(section(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there are no pictures"):
        dataset(section(tmp_path / "empty"))


def test_pictures_of_another_size_are_scaled_and_oblong_ones_are_no_aligned_faces(faces):
    cv2.imwrite(str(faces / "004.png"), np.full((64, 64, 3), 128, np.uint8))
    cv2.imwrite(str(faces / "005.png"), np.full((40, 32, 3), 128, np.uint8))
    source = DegradedFaces(section(faces))
    assert source.sample(4, rng())["gt"].shape == (3, 32, 32)
    with pytest.raises(DataError, match=r"005\.png: 32x40 is not square; training needs aligned faces"):
        source.sample(5, rng())


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_picture_is_not_filled_with_gray(suffix):
    content = cv2.imencode(suffix, draw_face(64, rng())[0])[1].tobytes()
    assert decode(content, "a").shape == (64, 64, 3)
    with pytest.raises(DataError, match="ends too early"):
        decode(content[: len(content) // 2], "a")


def test_an_empty_file_is_not_a_picture():
    with pytest.raises(DataError, match="not a picture"):
        decode(b"", "a.png")


def test_gray_and_transparent_pictures_become_colour(tmp_path):
    for image in (np.full((8, 8), 7, np.uint8), np.full((8, 8, 4), 7, np.uint8)):
        assert decode(cv2.imencode(".png", image)[1].tobytes(), "a").shape == (8, 8, 3)


def test_scaling_keeps_a_fitting_picture_as_it_is():
    image = draw_face(32, rng())[0]
    assert fit(image, 32, "a") is image


def test_pairs_are_found_by_name_whatever_the_suffix_and_mirrored_together(faces, tmp_path):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for path in faces.glob("*.png"):
        cv2.imwrite(str(inputs / f"{path.stem}.bmp"), cv2.imread(str(path)))
    source = PairedFolder(section(faces, kind="paired_folder", input_root=str(inputs)))
    assert len(source) == 4
    for seed in range(4):
        sample = source.sample(0, rng(seed))
        np.testing.assert_array_equal(sample["lq"], sample["gt"])


def test_pairs_without_partners_are_refused(faces, tmp_path):
    (tmp_path / "inputs").mkdir()
    cv2.imwrite(str(tmp_path / "inputs" / "x.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="no picture has the name"):
        PairedFolder(section(faces, kind="paired_folder", input_root=str(tmp_path / "inputs")))
    with pytest.raises(DataError, match=r"data\.input_root"):
        PairedFolder(section(faces, kind="paired_folder"))


def test_a_synthetic_face_comes_with_its_own_latent(faces):
    latents = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(faces / "latents.npz", names=np.array([f"{i:03d}.png" for i in (3, 2, 1, 0)]), latents=latents)
    source = LatentPairs(section(faces, kind="latent_pairs"))
    np.testing.assert_array_equal(source.sample(0, rng())["latent"], latents[3])


def test_latents_that_are_not_there_are_named(faces):
    with pytest.raises(DataError, match=r"latents\.npz: not the latent codes"):
        LatentPairs(section(faces, kind="latent_pairs"))


def test_another_degradation_is_chosen_by_name(faces):
    settings = section(faces, mirror=False, degradation=Degradation(preset="hifacegan_denoise"))
    sample = DegradedFaces(settings).sample(0, rng())
    assert np.abs(sample["lq"] - sample["gt"]).mean() > 0.001
    with pytest.raises(DataError, match=r"degradation\.preset: there is no 'nothing'; available: gfpgan"):
        DegradedFaces(section(faces, degradation=Degradation(preset="nothing")))


def test_a_replay_draws_from_the_originals_generators(faces):
    source = DegradedFaces(section(faces))
    first, second = (source.sample(0, degrade.ReferenceDraws(3))["lq"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
