"""RetinaFace's anchors, decoding, suppression and the detector around them."""

from __future__ import annotations

import numpy as np
import pytest

from ppgan_fr.face import retinaface


def test_there_are_two_anchors_per_cell_of_three_grids():
    anchors = retinaface.priors(64, 96)
    assert anchors.shape == (2 * (8 * 12 + 4 * 6 + 2 * 3), 4)
    np.testing.assert_allclose(anchors[0], [4 / 96, 4 / 64, 16 / 96, 16 / 64], rtol=1e-6)


def test_zero_offsets_decode_to_the_anchors():
    anchors = retinaface.priors(64, 64)
    boxes = retinaface.decode_boxes(np.zeros_like(anchors), anchors)
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], anchors[:, 2:], atol=1e-6)
    points = retinaface.decode_landmarks(np.zeros((len(anchors), 10)), anchors)
    np.testing.assert_allclose(points.reshape(-1, 5, 2)[:, 3], anchors[:, :2], atol=1e-6)


def test_the_better_of_two_overlapping_boxes_stays():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]], np.float32)
    kept = retinaface.suppress(boxes, np.array([0.8, 0.9, 0.7]), 0.4)
    np.testing.assert_array_equal(kept, [1, 2])
    assert retinaface.suppress(boxes[:0], np.zeros(0), 0.4).size == 0


def fake_network(target: np.ndarray, score: float = 0.99):
    """A `Run` that sees one face whose middle is `target` (x, y as parts of the picture)."""

    def run(inputs):
        _, _, height, width = inputs["image"].shape
        anchors = retinaface.priors(height, width)
        best = np.argmin(np.hypot(*(anchors[:, :2] - target).T))
        scores = np.zeros((1, len(anchors), 2), np.float32)
        scores[0, best, 1] = score
        points = np.zeros((1, len(anchors), 10), np.float32)
        points[0, best] = [-2, -2, 2, -2, 0, 0, -2, 2, 2, 2]
        return [np.zeros((1, len(anchors), 4), np.float32), scores, points]

    return run


def test_a_face_comes_back_in_pixels_of_the_picture():
    image = np.zeros((128, 192, 3), np.uint8)
    (face,) = retinaface.detector(fake_network(np.array([0.5, 0.5])))(image)
    middle = face.box[:2] + face.box[2:] / 2
    np.testing.assert_allclose(middle, [96, 64], atol=4.1)
    np.testing.assert_allclose(face.landmarks[2], middle, atol=1e-3)
    assert face.score == pytest.approx(0.99)


def test_a_resized_look_gives_the_same_place():
    image = np.zeros((256, 384, 3), np.uint8)
    (face,) = retinaface.detector(fake_network(np.array([0.25, 0.5])), size=128, minimum_eye_distance=0)(image)
    np.testing.assert_allclose(face.box[:2] + face.box[2:] / 2, [96, 128], atol=8.1)


def test_doubtful_and_tiny_faces_are_left_out():
    image = np.zeros((128, 128, 3), np.uint8)
    centre = np.array([0.5, 0.5])
    assert retinaface.detector(fake_network(centre, score=0.9))(image) == []
    assert retinaface.detector(fake_network(centre), minimum_eye_distance=50)(image) == []


def test_preprocessing_subtracts_the_mean_in_bgr():
    out = retinaface.preprocess(np.full((4, 5, 3), 200, np.uint8))
    assert out.shape == (1, 3, 4, 5)
    np.testing.assert_allclose(out[0, :, 0, 0], [96, 83, 77])
