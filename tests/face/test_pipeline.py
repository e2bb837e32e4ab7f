"""From a photo to a photo, with stand-ins for the networks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ppgan_fr.face.align import FFHQ_512, already_aligned
from ppgan_fr.face.colour import is_gray
from ppgan_fr.face.pipeline import Policies, restore_image
from ppgan_fr.face.restore import RestoreError, image_restorer
from ppgan_fr.face.spec import ModelSpec, TensorSpec
from ppgan_fr.face.types import Face
from tests.face.pictures import face as sharp_face


def photo():
    return cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8), (0, 0), 5)


def face(zoom, x, y):
    points = (FFHQ_512.array() * zoom + (x, y)).astype(np.float32)
    low, high = points.min(0), points.max(0)
    return Face(np.array([*low, *(high - low)], np.float32), points, 0.9)


SMALL, LARGE = face(0.15, 10, 20), face(0.4, 150, 60)


def both(_image):
    return [SMALL, LARGE]


def same(faces):
    return [one.image.astype(np.float32) for one in faces]


def test_restoring_nothing_gives_the_photo_back():
    result = restore_image(photo(), both, same)
    assert np.abs(result.image.astype(int) - photo()).mean() < 0.1
    assert len(result.faces) == 2
    assert set(result.seconds) == {"detect", "align", "restore", "paste"}


def test_without_a_face_the_photo_is_the_same_bytes():
    result = restore_image(photo(), lambda _: [], same)
    assert np.array_equal(result.image, photo())
    assert result.faces == ()


def test_the_largest_face_comes_first_and_only_center_takes_the_middle_one():
    assert restore_image(photo(), both, same).faces[0].face is LARGE
    centre = restore_image(photo(), both, same, only_center=True)
    assert [one.face for one in centre.faces] == [LARGE]


def test_faces_too_small_to_restore_are_left_alone():
    result = restore_image(photo(), both, same, min_eye_distance=30)
    assert [one.face for one in result.faces] == [LARGE]


def test_a_larger_result_has_the_size_asked_for():
    assert restore_image(photo(), both, same, scale=2).image.shape == (600, 800, 3)
    assert restore_image(photo(), both, same, scale=1.5).image.shape == (450, 600, 3)


def test_an_answer_that_is_no_number_is_reported_and_not_pasted():
    def broken(faces):
        answers = same(faces)
        answers[0][5, 5, 1] = np.nan
        return answers

    result = restore_image(photo(), lambda _: [LARGE], broken)
    assert result.faces[0].image is None
    assert "not a number" in result.faces[0].error
    assert np.array_equal(result.image, photo())


def test_a_black_and_white_photo_stays_black_and_white():
    def colourful(faces):
        return [np.full((512, 512, 3), (10, 100, 200), np.float32) for _ in faces]

    gray = cv2.cvtColor(cv2.cvtColor(photo(), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    assert is_gray(restore_image(gray, both, colourful).image, tolerance=0)
    assert not is_gray(restore_image(photo(), both, colourful).image)


def sepia(image):
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)[..., None]
    return np.clip(gray * (0.72, 0.9, 1.07), 0, 255).astype(np.uint8)


def test_a_sepia_print_stays_sepia_through_a_colourful_network():
    print_ = cv2.imdecode(cv2.imencode(".jpg", sepia(photo()), [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1)

    def colourful(faces):
        return [one.image * np.float32([0.2, 1.1, 1.6]) for one in faces]

    def tints(image):
        blue, green, red = (
            restore_image(image, lambda _: [LARGE], colourful).faces[0].image[100:400, 100:400].mean((0, 1))
        )
        return blue / green, red / green

    assert tints(print_) == pytest.approx((0.72 / 0.9, 1.07 / 0.9), rel=0.05)
    assert tints(photo()) == pytest.approx((0.2 / 1.1, 1.6 / 1.1), rel=0.15)  # a colour photo may change its colours


def test_sixteen_bits_stay_outside_and_inside():
    deep = photo().astype(np.uint16) * 257 + 3
    result = restore_image(deep, both, same).image
    assert result.dtype == np.uint16
    assert np.array_equal(result[270:], deep[270:])


def test_an_aligned_picture_is_its_own_face():
    result = restore_image(photo()[:256, :256], None, lambda faces: [one.image * 0.5 for one in faces])
    assert result.image.shape == (256, 256, 3)
    assert len(result.faces) == 1


@pytest.mark.parametrize("mask", ["square", "sgpn"])
def test_the_masks_of_the_references_can_be_chosen(mask):
    white = restore_image(photo(), lambda _: [LARGE], lambda f: [np.full((512, 512, 3), 255.0)], mask=mask).image
    assert white[200, 250].min() >= 254  # SGPN truncates
    with pytest.raises(ValueError, match="parsing network"):
        restore_image(photo(), both, same, mask="parsing")
    with pytest.raises(ValueError, match="no mask 'oval'"):
        restore_image(photo(), both, same, mask="oval")


def test_progress_is_told_face_by_face():
    told = []
    restore_image(photo(), both, same, on_face=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_crops_go_in_as_the_spec_says_and_come_back_in_place():
    seen = []

    def run(arrays):
        seen.append(arrays)
        return [arrays["lq"]]

    spec = ModelSpec(arch="x", inputs=(TensorSpec("lq", (-1, 3, 512, 512)), TensorSpec("fidelity", (-1, 1, 1, 1))))
    restore = image_restorer(run, spec, fidelity=0.25, batch_size=2)
    result = restore_image(photo(), both, restore)
    assert np.abs(result.image.astype(int) - photo()).mean() < 0.1
    assert seen[0]["lq"].dtype == np.float32
    assert -1 <= seen[0]["lq"].min() < seen[0]["lq"].max() <= 1
    red = result.faces[0].aligned.image[..., 2]
    np.testing.assert_allclose(seen[0]["lq"][0, 0], red / 127.5 - 1, atol=1e-6)
    assert seen[0]["fidelity"].shape == (1, 1, 1, 1)
    assert seen[0]["fidelity"].item() == 0.25


def test_what_the_pipeline_cannot_give_or_take_is_one_line():
    with pytest.raises(RestoreError, match="rendered"):
        image_restorer(
            lambda _: [], ModelSpec(arch="sgpn", inputs=(TensorSpec("lq", (1,)), TensorSpec("rendered", (1,))))
        )
    with pytest.raises(RestoreError, match="between 0 and 1"):
        image_restorer(lambda _: [], ModelSpec(arch="x"), fidelity=2)
    with pytest.raises(RestoreError, match="expected"):
        restore_image(photo(), both, image_restorer(lambda _: [np.zeros((1, 1))], ModelSpec(arch="x")))


def test_the_face_pipeline_does_not_need_paddle():
    code = "import sys, ppgan_fr.face.pipeline, ppgan_fr.face.detect; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_face_below_twenty_pixels_keeps_its_bytes_and_is_told():
    tiny = replace(LARGE, box=np.array([10, 10, 14, 19], np.float32))
    result = restore_image(photo(), lambda _: [tiny], lambda faces: [one.image * 0.0 for one in faces])
    assert np.array_equal(result.image, photo())
    assert result.faces[0].left_alone == "small"
    assert result.faces[0].remarks() == {"left_alone": "small"}


def test_a_sharp_face_is_left_alone_and_a_blurred_one_restored_when_strength_is_automatic():
    asked = []

    def network(faces):
        asked.extend(one.fidelity for one in faces)
        return [np.zeros((512, 512, 3), np.float32) for _ in faces]

    automatic = Policies(automatic=True)
    sharp = restore_image(sharp_face(), None, network, policies=automatic)
    assert np.array_equal(sharp.image, sharp_face())
    assert sharp.faces[0].left_alone == "sharp"
    assert not asked
    blurred = restore_image(cv2.GaussianBlur(sharp_face(), (0, 0), 8), None, network, policies=automatic)
    assert blurred.faces[0].left_alone is None
    assert blurred.image.max() == 0
    assert 0 <= asked[0] <= 1


def test_the_network_is_asked_for_the_fidelity_of_each_sharp_face():
    spec = ModelSpec("x", inputs=(TensorSpec("lq", (-1, 3, 512, 512)), TensorSpec("fidelity", (-1, 1, 1, 1))))
    seen = []

    def run(arrays):
        seen.append(arrays["fidelity"].ravel().tolist())
        return [arrays["lq"]]

    faces = [replace(already_aligned(sharp_face()), fidelity=value) for value in (0.25, None)]
    image_restorer(run, spec, fidelity=0.75, batch_size=2)(faces)
    assert seen == [[0.25, 0.75]]
