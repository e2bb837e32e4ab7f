"""The identity gate: who passes, and what becomes of who does not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ppgan_fr.face import identity
from ppgan_fr.face.align import already_aligned
from ppgan_fr.face.identity import check, threshold
from ppgan_fr.face.pipeline import Policies, restore_image
from tests.face.pictures import face

CROP = already_aligned(face())
STRANGER = np.ascontiguousarray(face()[:, ::-1, ::-1])


def embed(crops, _):
    """A stand-in for a recogniser: the mean colour says who it is."""
    vectors = np.array([crop.astype(float).mean((0, 1)) - 110 for crop in crops])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def needing(monkeypatch, value):
    monkeypatch.setattr(identity, "threshold", lambda _: value)


def test_the_same_person_passes_untouched(monkeypatch):
    needing(monkeypatch, 0.5)
    pixels, verdict = check(CROP, face(), 1.0, embed, "gate")
    assert pixels is not None
    assert np.array_equal(pixels, face())
    assert (verdict.passed, verdict.kept) == (True, 0.0)


def test_a_warning_changes_nothing(monkeypatch):
    needing(monkeypatch, 0.9999)
    pixels, verdict = check(CROP, STRANGER, 1.0, embed, "warn")
    assert np.array_equal(pixels, STRANGER)
    assert not verdict.passed


def test_the_gate_mixes_the_input_back_in_until_it_passes(monkeypatch):
    alike = float(embed([face()], None)[0] @ embed([STRANGER], None)[0])
    half = identity.mix(STRANGER, face(), 0.5)
    needed = float(embed([face()], None)[0] @ embed([half], None)[0]) - 1e-6
    needing(monkeypatch, needed)
    pixels, verdict = check(CROP, STRANGER, 1.0, embed, "gate")
    assert alike < needed
    assert np.array_equal(pixels, half)
    assert (verdict.passed, verdict.kept) == (False, 0.5)
    assert verdict.final_similarity >= needed


def test_whoever_never_passes_is_left_alone(monkeypatch):
    needing(monkeypatch, 2.0)
    pixels, verdict = check(CROP, STRANGER, 1.0, embed, "gate")
    assert np.array_equal(pixels, face())
    assert verdict.kept == 1


def test_a_face_left_alone_keeps_the_bytes_of_the_photo(monkeypatch):
    needing(monkeypatch, 2.0)
    policies = Policies(identity="gate", embed=embed)
    result = restore_image(face(), None, lambda faces: [255.0 - one.image for one in faces], policies=policies)
    assert np.array_equal(result.image, face())
    assert result.faces[0].left_alone == "identity"
    assert result.faces[0].remarks()["identity"]["kept"] == 1


def test_a_policy_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="identity: must be one of off, warn, gate, got 'strict'"):
        Policies(identity="strict")
    with pytest.raises(ValueError, match="needs a face recogniser"):
        Policies(identity="gate")


def test_the_shipped_thresholds_rise_with_what_can_be_seen():
    table = json.loads(identity.TABLE.read_text())
    values = [threshold(level) for level in np.linspace(-0.2, 1, 50)]
    assert (np.diff(values) >= 0).all()
    assert 0 < values[0] < values[-1] < 0.8
    assert all(row["swapped_refused"] >= 0.95 for row in table["table"])
