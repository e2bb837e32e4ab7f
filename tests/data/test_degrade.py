"""Properties of the degradations; equality with the originals is in tests/parity/test_degrade.py."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppgan_fr.data import degrade


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    y, x = np.mgrid[0:96, 0:80] / 15
    image = 0.5 + 0.4 * np.stack([np.sin(x + y), np.cos(2 * x - y), np.sin(3 * y)], axis=-1)
    return image.astype(np.float32)


@pytest.mark.parametrize("preset", degrade.PRESETS)
def test_every_preset_keeps_size_type_and_range_and_its_input(picture, preset):
    for image in (picture, degrade.to_uint8(picture)):
        before = image.copy()
        out = degrade.degrade(image, preset, np.random.default_rng(0))
        assert out.shape == image.shape
        assert out.dtype == image.dtype
        assert out.min() >= 0
        assert out.max() <= (255 if image.dtype == np.uint8 else 1)
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("preset", degrade.PRESETS)
def test_the_same_seed_gives_the_same_picture(picture, preset):
    first, second = (degrade.degrade(picture, preset, np.random.default_rng([7, 3])) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("preset", [p for p in degrade.PRESETS if not p.startswith("hifacegan_sr")])
def test_other_seeds_give_other_pictures(picture, preset):
    results = {degrade.degrade(picture, preset, np.random.default_rng(seed)).tobytes() for seed in range(4)}
    assert len(results) > 1


def test_an_unknown_preset_is_named_with_the_known_ones(picture):
    with pytest.raises(ValueError, match="unknown degradation 'blurr'; there are gfpgan"):
        degrade.degrade(picture, "blurr", np.random.default_rng(0))


def test_kernels_sum_to_one_and_are_symmetric():
    rng = np.random.default_rng(0)
    for kind in ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"):
        kernel = degrade.random_kernel(kind, 21, (0.5, 4.0), rng)
        assert kernel.sum() == pytest.approx(1)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
    with pytest.raises(ValueError, match="unknown blur kernel 'skew'"):
        degrade.random_kernel("skew", 21, (0.5, 4.0), rng)


def test_the_sinc_kernel_passes_a_flat_picture():
    kernel = degrade.sinc_kernel(2.0, 13, pad_to=21)
    assert kernel.shape == (21, 21)
    assert kernel.sum() == pytest.approx(1)
    assert not kernel[:4].any()


def test_gfpgan_without_any_step_returns_the_picture_on_255_levels(picture):
    options = degrade.GfpganOptions(
        kernel_list=("iso",),
        kernel_prob=(1.0,),
        blur_sigma=(0.01, 0.011),
        downsample_range=(1.0, 1.0),
        noise_range=None,
        jpeg_range=None,
        color_jitter_prob=None,
        color_jitter_pt_prob=None,
        gray_prob=None,
    )
    lq = degrade.gfpgan_degrade(picture, options, np.random.default_rng(0))
    np.testing.assert_allclose(lq, picture, atol=0.51 / 255)
    np.testing.assert_allclose(lq * 255, np.rint(lq * 255), atol=1e-4)


def test_gt_gray_makes_both_gray(picture):
    options = {"gray_prob": 1.0, "gt_gray": True, "noise_range": None, "jpeg_range": None}
    pair = degrade.gfpgan_pair(picture, options, np.random.default_rng(0))
    for part in pair:
        np.testing.assert_array_equal(part[..., 0], part[..., 2])


def test_an_option_file_without_colour_keys_draws_no_colour(picture):
    lq = degrade.gfpgan_options({"noise_range": [0, 20], "dataroot_gt": "faces"})
    assert lq.color_jitter_prob is None
    assert lq.color_jitter_pt_prob is None
    assert lq.gray_prob is None


def test_the_mirror_is_fair_and_can_be_switched_off(picture):
    rng = np.random.default_rng(1)
    assert 60 < sum(degrade.mirror(picture, rng)[1] for _ in range(160)) < 100
    out, mirrored = degrade.mirror(picture, rng, enabled=False)
    assert not mirrored
    assert out is picture


def test_colour_adjustments_with_neutral_factors_change_nothing(picture):
    for adjust, neutral in (
        (degrade.adjust_brightness, 1),
        (degrade.adjust_contrast, 1),
        (degrade.adjust_saturation, 1),
        (degrade.adjust_hue, 0),
    ):
        np.testing.assert_allclose(adjust(picture, neutral), picture, atol=2e-6)


def test_noise_has_the_strength_it_was_asked_for():
    flat = np.full((200, 200, 3), 0.5, np.float32)
    noisy = degrade.gaussian_noise(flat, 10, np.random.default_rng(0), clip=False)
    assert (noisy - flat).std() * 255 == pytest.approx(10, rel=0.02)
    gray = degrade.gaussian_noise(flat, 10, np.random.default_rng(0), gray=True)
    np.testing.assert_array_equal(gray[..., 0], gray[..., 2])


def test_published_noise_whitens_where_the_fixed_one_does_not():
    flat = np.full((64, 64, 3), 100, np.uint8)
    values = np.random.default_rng(0).normal(0, 1.5, flat.shape)
    published = degrade.face_renovation_noise_values(flat, values, "as_published")
    fixed = degrade.face_renovation_noise_values(flat, values)
    assert (published == 255).mean() == pytest.approx((values <= -1).mean())
    assert fixed.max() < 110


def test_motion_kernels_point_where_they_should():
    upright = degrade.motion_kernel(10, 0, 0)
    assert upright.shape == (11, 11)
    np.testing.assert_allclose(upright[:, 5], 1 / 11, atol=1e-6)
    lying = degrade.motion_kernel(11, 90, 0)
    np.testing.assert_allclose(lying[5], 1 / 11, atol=1e-6)


def test_a_mosaic_keeps_the_mean_of_each_block(picture):
    out = degrade.mosaic(degrade.to_uint8(picture), 16)
    assert len(np.unique(out[:16, :16, 0])) == 1


def test_sepia_is_warm_and_fading_lifts_the_blacks(picture):
    brown = degrade.sepia(picture)
    assert brown[..., 2].mean() > brown[..., 1].mean() > brown[..., 0].mean()
    assert degrade.fade(picture, 1.0).min() > 0.2


def test_grain_leaves_black_and_white_calmer_than_gray():
    gray = np.full((128, 128, 3), 0.5, np.float32)
    black = np.full((128, 128, 3), 0.03, np.float32)
    strong, weak = (degrade.film_grain(image, 10, np.random.default_rng(0), 0) - image for image in (gray, black))
    assert strong.std() * 255 == pytest.approx(10, rel=0.05)
    assert weak.std() < 0.6 * strong.std()


def test_scratches_touch_a_small_part_of_the_picture():
    flat = np.full((256, 256, 3), 0.5, np.float32)
    out = degrade.scratches(flat, 6, np.random.default_rng(0))
    touched = (np.abs(out - flat) > 0.02).any(axis=2).mean()
    assert 0.001 < touched < 0.15


def test_hifacegan_jpeg_is_strong_and_swaps_channels(picture):
    image = degrade.to_uint8(picture)
    assert degrade.pil_quality(50) == 51
    assert degrade.pil_quality(85) == 17
    swapped = degrade.jpeg_swapped(image, 30)
    straight = degrade.jpeg(image, 30)
    assert (swapped != straight).any()
    assert cv2.PSNR(swapped, image) > 20
