"""What a restorer is made of: policies, fidelity and likeness, with stand-ins for the networks."""

from __future__ import annotations

import numpy as np
import pytest

from ppgan_fr import restorer
from ppgan_fr.config import ConfigError
from ppgan_fr.face.align import already_aligned
from ppgan_fr.face.spec import ModelSpec, TensorSpec
from ppgan_fr.face.types import Face, RestoredFace, Verdict
from ppgan_fr.restorer import load_restorer
from ppgan_fr.weights import WeightsError

KNOB = (TensorSpec("lq", (-1, 3, 512, 512)), TensorSpec("fidelity", (-1, 1, 1, 1)))


@pytest.fixture
def load(monkeypatch, tmp_path):
    weights = tmp_path / "w.pdparams"
    weights.write_bytes(b"weights")
    config = tmp_path / "c.yaml"
    config.write_text(f"name: x\nweights: {weights}\ngenerator: {{arch: gfpgan_mobile}}\npipeline: {{fidelity: 0.5}}\n")

    def make(inputs=KNOB, recogniser=lambda crops, _: np.ones((len(crops), 1)), **options):
        spec = ModelSpec("x", inputs=inputs)
        monkeypatch.setattr(restorer, "generator_run", lambda *_: (lambda arrays: [arrays["lq"]], spec))
        monkeypatch.setattr(restorer, "recognise_faces", lambda: recogniser)
        return load_restorer(config, aligned=True, **options)

    return make


def test_strength_is_automatic_only_on_request(load):
    assert load(fidelity="auto").policies.automatic
    assert not load().policies.automatic
    assert not load(fidelity=0.25).policies.automatic


def test_a_fidelity_that_the_network_does_not_have_is_refused(load):
    with pytest.raises(ConfigError, match="no such knob"):
        load(fidelity=0.25, inputs=KNOB[:1])


def test_results_are_made_anew_when_a_policy_changes(load):
    made = [load(), load(colour="keep"), load(identity="gate"), load(identity="warn"), load(fidelity="auto")]
    assert len({one.settings for one in made}) == 5


def test_without_a_recogniser_the_gate_is_an_error_and_the_warning_silent(load):
    assert load(identity="warn", recogniser=None).policies.identity == "off"
    with pytest.raises(WeightsError, match="sface"):
        load(identity="gate", recogniser=None)


def test_what_the_gate_has_measured_is_not_measured_again(load):
    face = Face(np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 1.0)
    crop = already_aligned(np.zeros((512, 512, 3), np.uint8))
    faces = [
        RestoredFace(face, crop, crop.image, identity=Verdict(0.2, 0.4, False, 0.5, 0.6)),
        RestoredFace(face, crop, crop.image, identity=Verdict(0.7, 0.4, True)),
        RestoredFace(face, crop, crop.image, left_alone="small"),
        RestoredFace(face, crop, crop.image),
    ]
    asked = []

    def recogniser(crops, _):
        asked.append(len(crops))
        return np.full((len(crops), 1), 0.5**0.5)

    assert load(recogniser=recogniser).similarities(faces) == pytest.approx([0.6, 0.7, 1.0, 0.5])
    assert asked == [2]
