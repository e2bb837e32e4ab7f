from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppgan_fr.config import Data
from ppgan_fr.data import pairs
from ppgan_fr.data.datasets import dataset
from ppgan_fr.data.loader import DataError


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write(path, image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def planes(bgr: np.ndarray) -> np.ndarray:
    return bgr[:, :, ::-1].transpose(2, 0, 1) / np.float32(255)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_pair_is_split_along_its_longer_side(tmp_path, axis):
    lq, gt = picture(16, 16, 1), picture(16, 16, 2)
    write(tmp_path / "p.png", np.concatenate((lq, gt), axis))
    pair = pairs.load_stacked_pair(tmp_path / "p.png", 16)
    np.testing.assert_array_equal(pair.lq, planes(lq))
    np.testing.assert_array_equal(pair.gt, planes(gt))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_pair_keeps_its_roles(tmp_path, axis):
    lq, gt = picture(16, 16, 1), picture(16, 16, 2)
    write(tmp_path / "p.png", np.concatenate((lq, gt), axis))
    pair = pairs.load_stacked_pair(tmp_path / "p.png", 16, flip=True)
    np.testing.assert_array_equal(pair.lq, planes(lq[:, ::-1]))
    np.testing.assert_array_equal(pair.gt, planes(gt[:, ::-1]))


def test_as_published_the_mirror_swaps_faces_that_lie_side_by_side(tmp_path):
    lq, gt = picture(16, 16, 1), picture(16, 16, 2)
    write(tmp_path / "p.png", np.concatenate((lq, gt), 1))
    pair = pairs.load_stacked_pair(tmp_path / "p.png", 16, flip=True, mirror="as_published")
    np.testing.assert_array_equal(pair.lq, planes(gt[:, ::-1]))


def test_what_is_no_pair_is_named(tmp_path):
    write(tmp_path / "square.png", picture(16, 16))
    (tmp_path / "broken.png").write_bytes(b"")
    for name in ("square.png", "broken.png", "absent.png"):
        with pytest.raises(DataError, match=name):
            pairs.load_stacked_pair(tmp_path / name, 16)
    with pytest.raises(DataError, match="expected 512 x 1024"):
        pairs.load_stacked_test_pair(tmp_path / "square.png")


def test_stack_and_unstack_are_inverse():
    lq, gt = picture(8, 8, 1), picture(8, 8, 2)
    for got, wanted in zip(pairs.unstack(pairs.stack(lq, gt)), (lq, gt), strict=True):
        np.testing.assert_array_equal(got, wanted)
    with pytest.raises(DataError, match="one size"):
        pairs.stack(lq, gt[:4])


def test_a_picture_without_original_lies_centred_on_black(tmp_path):
    write(tmp_path / "tall.png", np.full((12, 6, 3), 200, np.uint8))
    out = pairs.load_without_original(tmp_path / "tall.png", 12)
    assert np.all(out[:, :, 3:9] == np.float32(200 / 255))
    assert not out[:, :, :3].any()
    assert not out[:, :, 9:].any()


def test_saved_values_are_cut_not_rounded():
    values = np.array([-0.5, 0.9999, 1.5, 1 / 255], np.float32)
    image = pairs.to_image(np.broadcast_to(values, (3, 1, 4)))
    assert image[0, :, 0].tolist() == [0, 254, 255, 1]


def test_the_antialiased_resize_equals_pillow():
    from PIL import Image

    for side, size in ((64, 48), (30, 70), (96, 17), (20, 20)):
        image = picture(side, side, side)
        wanted = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(pairs.resize_antialiased(image, size), wanted)


def test_both_pictures_of_a_folder_pair_get_the_same_window_and_mirror(tmp_path):
    image = picture(40, 40)
    write(tmp_path / "ori/0.png", image)
    write(tmp_path / "dgd/0.png", 255 - image)
    pair = pairs.load_folder_pair(tmp_path / "dgd/0.png", tmp_path / "ori/0.png", 30, 30, top=3, left=7, flip=True)
    np.testing.assert_array_equal(pair.gt, planes(image[3:33, 7:37][:, ::-1]))
    np.testing.assert_allclose(pair.lq, 1 - pair.gt, atol=1e-6)
    with pytest.raises(DataError, match="does not fit"):
        pairs.load_folder_pair(tmp_path / "dgd/0.png", tmp_path / "ori/0.png", 30, 30, top=11)


def test_an_original_without_partner_is_named(tmp_path):
    write(tmp_path / "ori/0.png", picture(8, 8))
    write(tmp_path / "ori/1.png", picture(8, 8))
    with pytest.raises(DataError, match="dgd: no such folder"):
        pairs.list_folders(tmp_path)
    write(tmp_path / "dgd/0.png", picture(8, 8))
    with pytest.raises(DataError, match=r"1\.png"):
        pairs.list_folders(tmp_path)


def test_stacked_pairs_can_be_trained_on(tmp_path):
    lq, gt = picture(16, 16, 1), picture(16, 16, 2)
    write(tmp_path / "p.png", pairs.stack(lq, gt))
    source = dataset(Data(kind="stacked_pairs", root=str(tmp_path), size=16, mirror=False))
    assert (len(source), source.name(0)) == (1, "p.png")
    sample = source.sample(0, np.random.default_rng(0))
    np.testing.assert_allclose(sample["lq"], planes(lq) * 2 - 1, atol=1e-6)
    np.testing.assert_allclose(sample["gt"], planes(gt) * 2 - 1, atol=1e-6)


def test_ori_and_dgd_folders_can_be_trained_on(tmp_path):
    image = picture(32, 32)
    write(tmp_path / "ori/0.png", image)
    write(tmp_path / "dgd/0.png", image)
    source = dataset(Data(kind="ori_dgd", root=str(tmp_path), size=16))
    assert (len(source), source.name(0)) == (1, "0.png")
    first, again = (source.sample(0, np.random.default_rng(4)) for _ in range(2))
    assert first["lq"].shape == first["gt"].shape == (3, 16, 16)
    np.testing.assert_array_equal(first["lq"], first["gt"])
    np.testing.assert_array_equal(first["lq"], again["lq"])
    assert first["lq"].min() >= -1
