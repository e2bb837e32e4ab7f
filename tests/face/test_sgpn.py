import numpy as np
import pytest

from ppgan_fr.face import sgpn
from ppgan_fr.face.align import SGPN_512, AlignError, already_aligned, similarity
from ppgan_fr.face.sgpn import GuideError, shape_guided_restorer
from ppgan_fr.face.synthetic_model import synthetic_model
from ppgan_fr.face.types import AlignedFace, Face

SIZE = 64


@pytest.fixture(scope="module")
def model():
    return synthetic_model(21)


@pytest.fixture
def face():
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return AlignedFace(crop, SGPN_512.at_size(SIZE).array().astype(np.float32), np.eye(2, 3))


def mean_face(arrays):
    assert arrays["image"].shape == (1, 3, 224, 224)
    assert arrays["image"].dtype == np.float32
    return [np.zeros((1, 257), np.float32)]


def the_picture(arrays):
    return [arrays["lq"]]


def the_drawing(arrays):
    return [arrays["rendered"]]


def test_a_network_that_changes_nothing_gives_the_crop_back(model, face):
    restored = shape_guided_restorer(mean_face, the_picture, model, size=SIZE)([face])[0]
    np.testing.assert_allclose(restored, face.image, atol=1e-3)


def test_the_drawing_lies_on_the_face(model, face):
    drawn = shape_guided_restorer(mean_face, the_drawing, model, size=SIZE)([face])[0]
    left, right = face.landmarks[0], face.landmarks[1]
    middle = ((left + right) / 2 + [0, 8]).round().astype(int)
    assert drawn[middle[1], middle[0]].max() > 30
    assert drawn[0, 0].max() < 1e-3


def test_the_generator_gets_what_it_declares(model, face):
    seen = {}

    def generator(arrays):
        seen.update(arrays)
        return [arrays["lq"], "further outputs do not matter"]

    shape_guided_restorer(mean_face, generator, model, size=SIZE)([face])
    assert {name: (value.shape, value.dtype) for name, value in seen.items()} == {
        "lq": ((1, 3, SIZE, SIZE), np.float32),
        "rendered": ((1, 3, SIZE, SIZE), np.float32),
        "coefficients": ((1, 257), np.float32),
    }
    assert seen["rendered"].min() >= -1 - 1e-6
    assert seen["rendered"].max() <= 1 + 1e-6


def test_every_result_can_be_watched(model, face):
    watched = []
    shape_guided_restorer(mean_face, the_picture, model, size=SIZE, observe=watched.append)([face, face])
    assert len(watched) == 2
    assert watched[0].coefficients.shape == (257,)


def test_coefficients_that_are_no_numbers_become_a_picture_that_is_none(model, face):
    def broken(_):
        return [np.full((1, 257), np.nan, np.float32)]

    restored = shape_guided_restorer(broken, the_drawing, model, size=SIZE)([face])[0]
    assert np.isnan(restored).any()


def test_a_crop_of_another_size_is_refused(model, face):
    with pytest.raises(GuideError, match="takes crops of 512 x 512 pixels, got 64 x 64"):
        shape_guided_restorer(mean_face, the_picture, model)([face])


def test_a_crop_without_a_face_is_refused_where_landmarks_have_to_be_found(model, face):
    with pytest.raises(GuideError, match="no face was found"):
        shape_guided_restorer(mean_face, the_picture, model, size=SIZE, locate=lambda _: [])([face])


def test_the_best_of_several_found_faces_counts(model, face):
    box = np.zeros(4)
    faces = [Face(box, face.landmarks * 0, 0.3), Face(box, face.landmarks, 0.9)]
    expected = shape_guided_restorer(mean_face, the_drawing, model, size=SIZE)([face])[0]
    got = shape_guided_restorer(mean_face, the_drawing, model, size=SIZE, locate=lambda _: faces)([face])[0]
    np.testing.assert_array_equal(got, expected)


def test_degenerate_landmarks_are_refused():
    for points in (np.zeros((5, 2)), np.full((5, 2), np.nan)):
        with pytest.raises(AlignError):
            sgpn.shape_crop_points(points)


def test_the_crop_of_the_shape_network_does_not_depend_on_the_size_of_the_picture():
    large, small = (sgpn.shape_crop_points(SGPN_512.at_size(side).array(), side) for side in (512, 128))
    np.testing.assert_allclose(large, small, atol=0.6)


def test_a_shifted_picture_is_shifted_by_whole_pixels_exactly():
    image = np.random.default_rng(0).normal(size=(8, 8, 2)).astype(np.float32)
    moved = sgpn.warp_affine(image, np.array([[1.0, 0, 2], [0, 1, 1]]), 8)
    np.testing.assert_array_equal(moved[1:, 2:], image[:-1, :-2])
    assert not moved[0].any()
    assert not moved[:, :2].any()


def test_a_tap_outside_the_picture_counts_as_zero():
    image = np.ones((4, 4, 1), np.float32)
    moved = sgpn.warp_affine(image, np.array([[1.0, 0, 0.5], [0, 1, 0]]), 5)
    np.testing.assert_allclose(moved[0, :, 0], [0.5, 1, 1, 1, 0.5])
    np.testing.assert_allclose(moved[4], 0)


def test_there_and_back_is_where_it_was():
    points = SGPN_512.array() + np.random.default_rng(1).normal(scale=3, size=(5, 2))
    there = similarity(points, sgpn.shape_crop_points(points), "umeyama")
    turned = there[:, :2] / np.sqrt(np.linalg.det(there[:, :2]))
    np.testing.assert_allclose(turned, np.eye(2), atol=1e-9)  # scale and shift only


def test_an_aligned_picture_of_another_size_meets_the_template_of_the_network():
    aligned = already_aligned(np.zeros((200, 200, 3), np.uint8), SGPN_512.at_size(SIZE))
    assert aligned.image.shape == (SIZE, SIZE, 3)
