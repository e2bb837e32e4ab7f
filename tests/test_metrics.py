"""Metrics against their definitions, scikit-image and simple cases."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ppgan_fr import metrics


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:200, 0:210] / 40
    target = 127 + 90 * np.stack([np.sin(x + y), np.cos(2 * x - y), np.sin(3 * y)], axis=-1)
    target += rng.normal(0, 12, target.shape)
    image = target + rng.normal(0, 9, target.shape)
    return np.clip(image, 0, 255).astype(np.uint8), np.clip(target, 0, 255).astype(np.uint8)


def test_psnr_equals_scikit_image(pair):
    assert metrics.psnr(*pair) == pytest.approx(peak_signal_noise_ratio(pair[1], pair[0]), abs=1e-9)


def test_ssim_equals_scikit_image(pair):
    expected = structural_similarity(
        *pair, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert metrics.ssim(*pair) == pytest.approx(expected, abs=1e-9)


def test_equal_pictures_reach_the_best_values(pair):
    image = pair[0]
    assert metrics.psnr(image, image) == pytest.approx(80)
    assert metrics.ssim(image, image) == pytest.approx(1)
    assert metrics.ms_ssim(image, image) == pytest.approx(1)


def test_float_and_uint8_pictures_give_the_same_numbers(pair):
    floats = [p.astype(np.float32) / 255 for p in pair]
    for metric in (metrics.psnr, metrics.ssim, metrics.ms_ssim):
        assert metric(*floats) == pytest.approx(metric(*pair), abs=1e-6)


def test_the_published_ms_ssim_is_a_little_lower(pair):
    correct, published = metrics.ms_ssim(*pair), metrics.ms_ssim(*pair, as_published=True)
    assert 0 < correct - published < 0.05


def test_a_different_size_is_refused(pair):
    with pytest.raises(metrics.MetricError, match="differ in size"):
        metrics.psnr(pair[0], pair[1][:-1])


def test_pictures_too_small_for_a_metric_are_refused(pair):
    small = [p[:100, :100] for p in pair]
    with pytest.raises(metrics.MetricError, match="176"):
        metrics.ms_ssim(*small)
    with pytest.raises(metrics.MetricError, match="larger picture"):
        metrics.niqe(small[0])


def test_niqe_rises_with_blur_and_with_noise():
    import cv2

    rng = np.random.default_rng(1)
    # a picture with structure at all scales, as photographs have: 1 / f noise
    spectrum = np.fft.rfft2(rng.normal(size=(384, 384)))
    frequency = np.hypot(np.fft.fftfreq(384)[:, None], np.fft.rfftfreq(384)[None, :])
    natural = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / 384))
    natural = np.clip(128 + 45 * natural / natural.std(), 0, 255).astype(np.uint8)
    picture = np.repeat(natural[:, :, None], 3, axis=2)
    clean = metrics.niqe(picture)
    assert clean > 0
    assert metrics.niqe(cv2.GaussianBlur(picture, (0, 0), 4)) > clean
    assert metrics.niqe(np.clip(picture + rng.normal(0, 60, picture.shape), 0, 255).astype(np.uint8)) > clean


def test_a_flat_picture_has_no_niqe():
    with pytest.raises(metrics.MetricError, match="texture"):
        metrics.niqe(np.full((300, 300, 3), 128, np.uint8))


def test_the_frechet_distance_of_shifted_sets_is_the_squared_shift():
    features = np.random.default_rng(2).normal(size=(50, 8))
    assert metrics.frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(features, features + 3) == pytest.approx(9 * 8, rel=1e-9)


def test_the_frechet_distance_of_few_pictures_equals_that_of_their_statistics():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 12)), rng.normal(1, 2, size=(7, 12))
    whole = metrics.frechet_from_statistics(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert metrics.frechet_distance(a, b) == pytest.approx(whole, rel=1e-6)  # roots of zero eigenvalues there


def test_the_frechet_distance_of_scaled_gaussians_follows_the_formula():
    zero, eye = np.zeros(4), np.eye(4)
    # tr(1 + 9 - 2 * 3) per axis
    assert metrics.frechet_from_statistics(zero, eye, zero, 9 * eye) == pytest.approx(16)


def test_identity_metrics_agree_with_each_other():
    a, b = np.array([1.0, 0, 0]), np.array([1.0, 1.0, 0])
    assert metrics.identity_angle(a, b) == pytest.approx(45)
    assert metrics.identity_similarity(a, 7 * a) == pytest.approx(1)
    assert metrics.face_embedding_distance(a, -a) == pytest.approx(2)
    with pytest.raises(metrics.MetricError):
        metrics.identity_angle(a, np.zeros(3))


def test_the_landmark_distance_is_a_mean_of_lengths():
    a = np.zeros((5, 2))
    assert metrics.landmark_distance(a, a + [3, 4]) == pytest.approx(5)


def test_feature_distances_are_zero_for_equal_features_and_ignore_their_length():
    rng = np.random.default_rng(3)
    a = [rng.normal(size=(1, 4, 5, 6)), rng.normal(size=(1, 3, 2, 2))]
    b = [rng.normal(size=(1, 4, 5, 6)), rng.normal(size=(1, 3, 2, 2))]
    assert metrics.perceptual_distance(a, [5 * v for v in a]) == pytest.approx(0, abs=1e-12)
    heads = [np.ones(4), np.ones(3)]
    assert metrics.lpips(a, b, heads) == pytest.approx(2 * metrics.perceptual_distance(a, b))


def test_failures_are_counted_beside_the_mean():
    mean = metrics.Mean()
    for value in (1.0, None, 3.0, float("nan")):
        mean.add(value)
    assert mean.result() == {"mean": 2.0, "count": 2, "failures": 2}
    assert metrics.Mean().result()["mean"] is None


def test_features_are_collected_in_batches():
    images = [np.full((2, 2, 3), i, np.float32) for i in range(5)]
    features = metrics.collect_features(images, lambda batch: batch.mean(axis=(1, 2)), batch=2)
    np.testing.assert_array_equal(features[:, 0], np.arange(5))
