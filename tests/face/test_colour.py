"""Colours of restored faces: gray, toned prints, and the input's own on request."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppgan_fr.face.align import already_aligned
from ppgan_fr.face.colour import is_gray, keep_colour, lab_shift, settle_colours
from tests.face.pictures import face

CROP = already_aligned(face())
GREENISH = np.clip(face().astype(np.int16) + (-10, 14, -12), 0, 255).astype(np.uint8)


def test_the_colours_of_the_input_come_back_on_request():
    assert lab_shift(GREENISH, CROP) > 8
    assert lab_shift(settle_colours(GREENISH, CROP, "auto"), CROP) > 8
    assert lab_shift(settle_colours(GREENISH, CROP, "keep"), CROP) < 1.5


def test_an_iris_gets_its_colour_back_too():
    x, y = np.rint(CROP.landmarks[0]).astype(int)
    changed = face().copy()
    cv2.circle(changed, (x, y), 14, (160, 60, 40), -1)
    part = slice(y - 8, y + 9), slice(x - 8, x + 9)
    before, after = (
        np.abs(picture[part].astype(float).mean((0, 1)) - face()[part].mean((0, 1)))
        for picture in (changed, keep_colour(changed, CROP))
    )
    assert np.ptp(after) < 0.5 * np.ptp(before)


def test_detail_of_the_restoration_survives_the_input_s_colours():
    blurred = already_aligned(cv2.GaussianBlur(face(), (0, 0), 6))
    kept = keep_colour(face(), blurred)
    sharpness = [
        cv2.Laplacian(cv2.cvtColor(p, cv2.COLOR_BGR2GRAY), cv2.CV_64F)[150:400, 150:360].std() for p in (face(), kept)
    ]
    assert sharpness[1] > 0.95 * sharpness[0]


def test_outside_the_face_nothing_is_moved():
    kept = keep_colour(GREENISH, CROP)
    assert np.abs(kept[:20].astype(int) - GREENISH[:20]).max() <= 1


@pytest.mark.parametrize("policy", ["auto", "keep"])
def test_a_gray_face_stays_gray_under_either_policy(policy):
    gray = cv2.cvtColor(cv2.cvtColor(face(), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    assert is_gray(settle_colours(GREENISH, already_aligned(gray), policy), tolerance=0)
