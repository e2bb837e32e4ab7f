"""Boxes are decoded, doubtful finds are judged, points are exact."""

from __future__ import annotations

import numpy as np
import pytest

from ppgan_fr.face.detect import decode, detector, find_boxes, refine_points, suppress
from ppgan_fr.face.types import Face


def silent(shape):
    """YuNet's twelve answers when there is nobody."""
    cells = [shape[0] // stride * (shape[1] // stride) for stride in (8, 16, 32)]
    return [np.zeros((1, n, channels), np.float32) for channels in (1, 1, 4, 10) for n in cells]


def one_face(shape, row=3, column=5, score=0.9, size=2.0):
    """One face at a cell of stride 16, `size` cells large."""
    outputs = silent(shape)
    cell = row * (shape[1] // 16) + column
    outputs[1][0, cell] = outputs[4][0, cell] = score
    outputs[7][0, cell] = (0.5, 0.25, np.log(size), np.log(size * 1.5))
    outputs[10][0, cell] = np.arange(10) / 10
    return outputs


def test_a_box_is_decoded_from_its_cell():
    boxes, points, scores = decode(one_face((128, 192)), (128, 192))
    best = int(scores.argmax())
    assert scores[best] == pytest.approx(0.9)
    np.testing.assert_allclose(boxes[best], [5.5 * 16 - 16, 3.25 * 16 - 24, 32, 48], rtol=1e-5)
    np.testing.assert_allclose(points[best, 0], [(5 + 0.0) * 16, (3 + 0.1) * 16], rtol=1e-5)
    np.testing.assert_allclose(points[best, 4], [(5 + 0.8) * 16, (3 + 0.9) * 16], rtol=1e-5)


def test_of_two_boxes_on_one_face_the_better_stays():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [40, 40, 10, 10], [80, 0, 9, 9]], float)
    assert suppress(boxes, np.array([0.7, 0.9, 0.8, 0.5]), 0.6, 0.3) == [1, 2]


def test_a_large_picture_is_shrunk_padded_and_boxes_are_scaled_back():
    seen = []

    def run(arrays):
        seen.append(arrays["image"])
        return one_face(arrays["image"].shape[2:])

    faces = find_boxes(np.full((500, 1280, 3), 200, np.uint8), run, 640)
    assert seen[0].shape == (1, 3, 256, 640)
    assert (seen[0][:, :, :250] == 200).all()
    assert not seen[0][:, :, 250:].any()
    np.testing.assert_allclose(faces[0].box, [2 * 72, 2 * 28, 64, 96], rtol=1e-5)


def points_run(points, probability):
    def run(arrays):
        count = len(arrays["image"])
        relative = np.array(points, np.float32)
        mirrored = relative[[1, 0, 2, 4, 3]] * (-1, 1) + (1, 0)
        both = np.stack([relative] * (count // 2) + [mirrored] * (count // 2)).astype(np.float32)
        odds = np.tile([1 - probability, probability], (count, 1)).astype(np.float32)
        return [both.transpose(0, 2, 1).reshape(count, 10), np.zeros((count, 4), np.float32), odds]

    return run


POINTS = [[0.3, 0.4], [0.7, 0.42], [0.5, 0.6], [0.35, 0.8], [0.65, 0.81]]


def some_face(box, score=0.9):
    return Face(np.array(box, np.float32), np.full((5, 2), 50, np.float32), score)


def test_points_are_counted_from_the_edge_of_the_square():
    image = np.zeros((200, 200, 3), np.uint8)
    refined = refine_points(image, [some_face([50, 60, 40, 30])], points_run(POINTS, 1.0))[0]
    # the square: side 40 around (70, 75), so the corner is (50, 55), 41 pixels wide
    np.testing.assert_allclose(refined.landmarks, np.array(POINTS) * 41 + (50, 55) - 0.5, atol=1e-4)


def test_the_square_is_cut_on_whole_pixels_with_zeros_outside():
    seen = []

    def run(arrays):
        seen.append(arrays["image"])
        return points_run(POINTS, 1.0)(arrays)

    refine_points(np.full((64, 64, 3), 255, np.uint8), [some_face([-24, -24, 47, 47])], run)
    straight = seen[0][0]
    assert straight.shape == (3, 48, 48)
    np.testing.assert_allclose(straight[:, :24, :24], -127.5 / 128)
    np.testing.assert_allclose(straight[:, 24:, 24:], 127.5 / 128)
    np.testing.assert_array_equal(seen[0][1], straight[:, :, ::-1])


@pytest.mark.parametrize(("score", "probability", "kept"), [(0.9, 0.1, 1), (0.65, 0.1, 0), (0.65, 0.9, 1)])
def test_a_find_that_neither_network_is_sure_of_is_dropped(score, probability, kept):
    image = np.zeros((100, 100, 3), np.uint8)
    assert len(refine_points(image, [some_face([10, 10, 40, 40], score)], points_run(POINTS, probability))) == kept


def test_impossible_points_leave_the_rough_ones():
    image = np.zeros((100, 100, 3), np.uint8)
    for wrong in ([[0.5, 0.5]] * 5, [[np.nan, 0.5]] * 5, [[9.0, 0.5], *POINTS[1:]]):
        refined = refine_points(image, [some_face([10, 10, 40, 40])], points_run(wrong, 1.0))[0]
        assert (refined.landmarks == 50).all()


def test_the_second_look_adds_small_faces_and_no_parts_of_known_ones():
    def run(arrays):
        height, width = arrays["image"].shape[2:]
        if width == 640:
            return one_face((height, width), row=4, column=4, size=6.0)
        outputs = one_face((height, width), row=12, column=12, size=2.0)  # an eye of the same face
        other = one_face((height, width), row=30, column=60, size=2.0)
        return [a + b for a, b in zip(outputs, other)]

    faces = detector(run)(np.zeros((960, 1920, 3), np.uint8))
    assert len(faces) == 2
    np.testing.assert_allclose(faces[1].box[:2], [60.5 * 16 - 16, 30.25 * 16 - 24], atol=0.01)


def test_nobody_is_an_empty_list():
    def run(arrays):
        return silent(arrays["image"].shape[2:])

    detect = detector(run, points_run(POINTS, 1.0))
    assert detect(np.zeros((1, 1, 3), np.uint8)) == []
    assert detect(np.zeros((30, 2000, 3), np.uint16)) == []
