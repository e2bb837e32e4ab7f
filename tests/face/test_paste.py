"""Restored faces land where they were cut, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from ppgan_fr.face.align import FFHQ_512, SGPN_512, align
from ppgan_fr.face.paste import enlarge, face_mask, parsing_mask, paste, paste_reference, paste_sgpn


def photo(height=240, width=320, dtype=np.uint8):
    import cv2

    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return smooth if dtype == np.uint8 else smooth.astype(np.uint16) * 257


LANDMARKS = FFHQ_512.array() * 0.3 + (80, 40)


def test_the_mask_is_the_face_and_ends_softly():
    mask = face_mask(FFHQ_512.array())
    for x, y in (*FFHQ_512.array(), (256, 200), (180, 320), (330, 320)):
        assert mask[int(y), int(x)] == 1
    for x, y in ((5, 5), (256, 20), (256, 500), (40, 256), (470, 256)):
        assert mask[y, x] == 0
    assert np.abs(np.diff(mask, axis=0)).max() < 0.05
    assert np.abs(np.diff(mask, axis=1)).max() < 0.05


def test_the_mask_leans_with_the_head():
    turn = np.deg2rad(30)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (FFHQ_512.array() - 256) @ rotation.T + 256
    straight, leaning = face_mask(FFHQ_512.array()), face_mask(points)
    for x, y in ((256, 120), (256, 440), (150, 300)):
        turned = rotation @ (np.array([x, y]) - 256) + 256
        assert leaning[round(turned[1]), round(turned[0])] == pytest.approx(straight[y, x], abs=0.1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bytes_outside_the_mask_are_unchanged_and_inside_they_are_the_face(dtype):
    picture = photo(dtype=dtype)
    aligned = align(picture, LANDMARKS)
    white = np.full((512, 512, 3), 255, np.uint8)
    result = paste(picture, white, aligned.to_template, face_mask(aligned.landmarks))
    changed = (result != picture).any(2)
    assert result.dtype == dtype
    assert (result[int(LANDMARKS[2, 1]), int(LANDMARKS[2, 0])] == np.iinfo(dtype).max).all()
    rows, columns = np.nonzero(changed)
    assert columns.min() > 80 + 0.3 * 50
    assert columns.max() < 80 + 0.3 * 460
    assert rows.min() > 40 + 0.3 * 40
    assert rows.max() < 40 + 0.3 * 500
    assert np.array_equal(picture, photo(dtype=dtype))  # the input was not touched


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 0.5])
@pytest.mark.parametrize("zoom", [0.08, 0.3, 1.4])
def test_pasting_what_was_cut_changes_almost_nothing_at_any_size(scale, zoom):
    picture = photo(round(640 * zoom) + 60, round(640 * zoom) + 80)
    aligned = align(picture, FFHQ_512.array() * zoom + 30)
    background = enlarge(picture, scale)
    result = paste(background, aligned.image, aligned.to_template, face_mask(aligned.landmarks), scale)
    difference = np.abs(result.astype(int) - background)
    # A slip of half a pixel on this picture would be a mean of 2 levels and more
    assert difference.mean() < 0.35
    assert difference.max() < 12


def test_a_dot_comes_back_to_its_pixel():
    picture = np.zeros((200, 220, 3), np.uint8)
    aligned = align(picture, FFHQ_512.array() * 0.25 + (50.25, 30.75))
    crop = np.zeros((512, 512, 3), np.uint8)
    y, x = np.mgrid[:512, :512]
    crop[...] = (250 * np.exp(-((x - 260) ** 2 + (y - 300) ** 2) / (2 * 12**2)))[..., None].astype(np.uint8)
    for scale in (1.0, 2.0, 3.0):
        result = paste(enlarge(picture, scale), crop, aligned.to_template, face_mask(aligned.landmarks), scale)
        weight = result[..., 0].astype(float)
        rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
        found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
        inverse = np.linalg.inv(aligned.to_template[:, :2])
        expected = (inverse @ (np.array([260, 300]) - aligned.to_template[:, 2]) + 0.5) * scale - 0.5
        np.testing.assert_allclose(found, expected, atol=0.05 * scale)


def test_the_soft_edge_grows_with_the_face():
    widths = []
    for zoom in (0.2, 0.8):
        picture = np.zeros((round(512 * zoom) + 4, round(512 * zoom) + 4, 3), np.uint8)
        aligned = align(picture, FFHQ_512.array() * zoom)
        result = paste(
            picture, np.full((512, 512, 3), 255, np.uint8), aligned.to_template, face_mask(aligned.landmarks)
        )
        row = result[round(280 * zoom), :, 0]
        widths.append(((row > 12) & (row < 243)).sum() / 2)
    assert widths[1] / widths[0] == pytest.approx(4, rel=0.2)


def test_a_face_at_the_rim_is_cut_by_it():
    picture = photo()
    for shift in ((-100, -60), (280, 200), (-3000, 0)):
        aligned = align(picture, FFHQ_512.array() * 0.3 + shift)
        result = paste(picture, aligned.image, aligned.to_template, face_mask(aligned.landmarks))
        assert result.shape == picture.shape
    assert np.array_equal(result, picture)  # the last one lies outside


def test_pasting_in_place_returns_the_same_array():
    picture = photo()
    aligned = align(picture, LANDMARKS)
    result = paste(
        picture, np.zeros((512, 512, 3), np.uint8), aligned.to_template, face_mask(aligned.landmarks), out=picture
    )
    assert result is picture
    assert not np.array_equal(picture, photo())


def test_gray_pictures_are_pasted_too():
    picture = photo()[..., 0].copy()
    aligned = align(photo(), LANDMARKS)
    result = paste(picture, np.full((512, 512), 9, np.uint8), aligned.to_template, face_mask(aligned.landmarks))
    assert result[int(LANDMARKS[2, 1]), int(LANDMARKS[2, 0])] == 9


def test_the_parsing_mask_keeps_the_face_and_drops_hair_and_rim():
    labels = np.zeros((512, 512), np.uint8)
    labels[100:400, 120:390] = 1
    labels[:60] = 17
    mask = parsing_mask(labels)
    assert mask[250, 256] > 0.99
    assert mask[20, 256] < 0.01
    assert not mask[:10].any()
    assert not mask[:, -10:].any()


def test_the_reference_square_reaches_further_than_the_face():
    picture = photo()
    aligned = align(picture, LANDMARKS)
    white = np.full((512, 512, 3), 255, np.uint8)
    square = paste_reference(picture, white, aligned.to_template).astype(np.uint8)
    ours = paste(picture, white, aligned.to_template, face_mask(aligned.landmarks))
    assert (square != picture).any(2).sum() > 1.5 * (ours != picture).any(2).sum()
    nothing = paste_reference(picture, white, aligned.to_template, np.zeros((512, 512), np.uint8))
    assert np.array_equal(nothing.astype(np.uint8), picture)


def test_sgpn_blends_inside_the_crop():
    picture = photo()
    aligned = align(picture, SGPN_512.array() * 0.3 + (80, 40), SGPN_512)
    same = paste_sgpn(picture, aligned.image, aligned)
    assert np.abs(same.astype(int) - picture).mean() < 0.5
    black = paste_sgpn(picture, np.zeros_like(aligned.image), aligned)
    assert black[40 + 77, 80 + 77].max() == 0
    assert np.array_equal(black[:30], picture[:30])
