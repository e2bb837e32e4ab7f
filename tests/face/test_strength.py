"""The blind estimator: what it sees, what it guesses, what follows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppgan_fr.data.degrade import gaussian_noise, jpeg, to_float, to_uint8
from ppgan_fr.face import strength
from ppgan_fr.face.types import Quality
from tests.face.pictures import face

SHARP = face()


def damaged(how):
    picture = to_float(SHARP)
    if how == "blur":
        picture = cv2.GaussianBlur(picture, (0, 0), 4)
    elif how == "noise":
        picture = gaussian_noise(picture, 15, np.random.default_rng(0))
    elif how == "jpeg":
        picture = jpeg(picture, 15)
    elif how == "scale":
        picture = cv2.resize(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA), (512, 512))
    return to_uint8(picture)


@pytest.mark.parametrize("how", ["blur", "noise", "scale"])
def test_a_damage_is_seen_where_it_was_done(how):
    sharp, worse = (strength.estimate(damaged(name)) for name in ("nothing", how))
    assert getattr(worse, how) > getattr(sharp, how)


@pytest.mark.parametrize("how", ["blur", "noise", "jpeg", "scale"])
def test_any_damage_lowers_the_estimated_psnr(how):
    assert strength.estimate(damaged(how)).psnr < strength.estimate(SHARP).psnr - 2


def test_estimates_stay_inside_what_was_learnt():
    for picture in (
        np.zeros((512, 512, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8),
    ):
        quality = strength.estimate(picture)
        for name, (low, high) in strength.BOUNDS.items():
            assert low <= getattr(quality, name) <= high


def test_targets_and_labels_are_one_anothers_inverse():
    labels = np.array([[0, 0, 100, 1, 50, 0.9], [5, 12, 40, 7.5, 24, 0.3]])
    assert np.allclose(strength.from_targets(strength.to_targets(labels)), labels)


def test_the_strength_grows_from_sharp_to_damaged_without_a_jump():
    def amount(psnr):
        return strength.automatic_strength(Quality(0, 0, 100, 1, psnr, 1))[1]

    values = [amount(psnr) for psnr in np.linspace(50, 20, 301)]
    assert (values[0], values[-1]) == (0, 1)
    steps = np.diff(values)
    assert (steps >= 0).all()
    assert steps.max() < 0.1


def test_the_estimator_is_a_few_kilobytes():
    assert strength.WEIGHTS.stat().st_size < 24_000
