"""Faces are cut out where the template wants them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppgan_fr.face.align import (
    FFHQ_512,
    SGPN_512,
    AlignError,
    align,
    already_aligned,
    named_template,
    similarity,
    to_8_bit,
)


def matrix(scale, degrees, shift):
    turn = np.deg2rad(degrees)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([rotation, shift])


def move(points, to):
    return points @ to[:, :2].T + to[:, 2]


@pytest.mark.parametrize("solver", ["lmeds", "umeyama"])
@pytest.mark.parametrize(("scale", "degrees"), [(0.3, 0), (1.0, 25), (2.7, -80)])
def test_a_similarity_is_found_again(solver, scale, degrees):
    points = FFHQ_512.array()
    known = matrix(scale, degrees, (12.5, -40))
    found = similarity(points, move(points, known), solver)
    # OpenCV works in float32 inside: 1e-4 of a pixel
    np.testing.assert_allclose(found, known, atol=1e-3 if solver == "lmeds" else 1e-9)


def test_least_median_of_squares_does_not_follow_one_wrong_point():
    points = FFHQ_512.array()
    known = matrix(0.5, 10, (100, 60))
    target = move(points, known)
    target[2] += 40
    np.testing.assert_allclose(similarity(points, target, "lmeds"), known, atol=1e-3)
    assert np.abs(similarity(points, target, "umeyama") - known).max() > 1


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.full((5, 2), 7.0)])
def test_degenerate_landmarks_are_an_error_not_a_strange_crop(points):
    with pytest.raises(AlignError, match="degenerate"):
        align(np.zeros((20, 20, 3), np.uint8), points)


@pytest.mark.parametrize("template", [FFHQ_512, SGPN_512])
@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_a_dot_in_the_photo_lands_on_its_place_in_the_crop(template, scale):
    to_photo = matrix(1 / scale, 12, (260 / scale, 90 / scale))
    landmarks = move(template.array(), to_photo)
    side = int(1200 / scale)
    photo = np.full((side, side, 3), 30, np.uint8)
    dot = move(np.array([[300.0, 260.0]]), to_photo)[0]
    y, x = np.mgrid[:side, :side]
    blob = np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * (6 / scale) ** 2))
    photo[..., 1] = (30 + 220 * blob).astype(np.uint8)
    crop = align(photo, landmarks, template).image
    weight = crop[..., 1].astype(float) - 30
    weight[weight < 20] = 0
    rows, columns = np.mgrid[:512, :512]
    found = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
    # a fifth of a pixel: warping works in steps of 1/32, shrinking keeps centres
    np.testing.assert_allclose(found, (300, 260), atol=0.2)


def test_a_large_face_is_averaged_not_skipped():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (2000, 2000, 3), np.uint8)
    crop = align(photo, FFHQ_512.array() * 3.9).image
    assert crop[50:-50, 50:-50].std() < 30  # the mean of 15 noisy pixels, not one of them (74)


def test_sixteen_bits_give_the_crop_of_eight():
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 256, (300, 300, 3), np.uint8), (0, 0), 2)
    landmarks = FFHQ_512.array() * 0.4 + 40
    eight, sixteen = (align(picture, landmarks).image for picture in (photo, photo.astype(np.uint16) * 257))
    assert np.abs(eight.astype(int) - sixteen).max() <= 1


def test_outside_the_picture_the_crop_has_the_border_of_the_template():
    photo = np.full((100, 100, 3), 200, np.uint8)
    assert align(photo, FFHQ_512.array() + 5000).image[0, 0].tolist() == [135, 133, 132]
    assert align(photo, FFHQ_512.array()).image[511, 511].tolist() == [135, 133, 132]


def test_an_aligned_picture_of_any_size_becomes_a_crop():
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    one = already_aligned(picture)
    assert one.image.shape == (512, 512, 3)
    np.testing.assert_allclose(move(np.array([[0.0, 0.0], [127, 127]]), one.to_template), [[1.5, 1.5], [509.5, 509.5]])


def test_the_templates_have_names():
    assert named_template("sgpn_512") is SGPN_512
    with pytest.raises(AlignError, match="available: ffhq_512, sgpn_512"):
        named_template("celeba")


def test_sixteen_bits_are_rounded_to_eight():
    assert to_8_bit(np.array([0, 128, 129, 65535, 257 * 7], np.uint16)).tolist() == [0, 0, 1, 255, 7]
