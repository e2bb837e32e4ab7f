"""SGPN out of a configuration: whole photo and aligned crop, eager, with small random networks."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from ppgan_fr import restorer, weights
from ppgan_fr.config import ConfigError, make_config
from ppgan_fr.face.align import SGPN_512
from ppgan_fr.face.face_model import FaceModelError
from ppgan_fr.face.types import Face
from ppgan_fr.weights import WeightsError

GENERATOR = {"arch": "sgpn", "size": 32, "narrow": 1 / 32, "style_dim": 16, "enc_style_dim": 8, "channel_multiplier": 1}
SHAPE = {"arch": "d3dfr", "layers": [1, 1, 1, 1], "width_per_group": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder as a training leaves it: the generator and the shape network side by side."""
    folder = tmp_path_factory.mktemp("latest")
    paddle.seed(0)
    for name, section in (("generator_ema", GENERATOR), ("shape", SHAPE)):
        config = make_config({"name": name, "generator": section})
        network = restorer_network(config)
        weights.save(network.state_dict(), folder / f"{name}.pdparams")
    return folder


def restorer_network(config):
    from ppgan_fr.config import build

    return build(config.generator)


def config_for(checkpoint, **pipeline):
    return make_config(
        {
            "name": "small",
            "generator": GENERATOR,
            "weights": str(checkpoint / "generator_ema.pdparams"),
            "pipeline": {
                "size": 32,
                "template": "sgpn_512",
                "mask": "sgpn",
                "shape": SHAPE,
                "face_model": "synthetic",
                **pipeline,
            },
        }
    )


def one_face(image):
    points = SGPN_512.at_size(60).array() + 20
    return [Face(np.array([20, 20, 60, 60], np.float32), points.astype(np.float32), 0.9)]


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)


def options(**changes):
    return SimpleNamespace(**{"scale": 1.0, "only_center": False, "aligned": False, **changes})


def test_a_photo_is_restored_where_the_face_is_and_nowhere_else(checkpoint, photo, monkeypatch):
    monkeypatch.setattr(restorer, "face_detector", lambda section: one_face)
    ready = restorer.load_restorer(config_for(checkpoint), engine="eager")
    result = ready.restore(photo, options())
    assert [one.error for one in result.faces] == [None]
    assert result.faces[0].image.shape == (32, 32, 3)
    assert np.abs(result.image[45:55, 45:55].astype(int) - photo[45:55, 45:55]).mean() > 1
    np.testing.assert_array_equal(result.image[:15], photo[:15])
    np.testing.assert_array_equal(result.image[:, 90:], photo[:, 90:])


def test_a_photo_without_a_face_comes_back_as_it_was(checkpoint, photo, monkeypatch):
    monkeypatch.setattr(restorer, "face_detector", lambda section: lambda image: [])
    ready = restorer.load_restorer(config_for(checkpoint), engine="eager")
    result = ready.restore(photo, options())
    assert result.faces == ()
    np.testing.assert_array_equal(result.image, photo)


def test_the_face_of_an_aligned_crop_is_located_anew(checkpoint, photo, monkeypatch):
    seen = []

    def locate(image):
        seen.append(image.shape)
        return one_face(image)

    monkeypatch.setattr(restorer, "face_detector", lambda section: locate)
    ready = restorer.load_restorer(config_for(checkpoint), aligned=True, engine="eager")
    result = ready.restore(photo[:100, :100], options(aligned=True))
    assert result.image.shape == (100, 100, 3)
    assert seen == [(32, 32, 3)]


def test_a_generator_trained_without_shape_is_restored_without_it(checkpoint, photo, monkeypatch):
    monkeypatch.setattr(restorer, "face_detector", lambda section: one_face)
    plain = restorer.load_restorer(config_for(checkpoint, face_model="none", shape=None), engine="eager")
    guided = restorer.load_restorer(config_for(checkpoint), engine="eager")
    without, with_shape = (ready.restore(photo, options()).faces[0].image.astype(int) for ready in (plain, guided))
    assert np.abs(without - with_shape).max() > 0


def test_an_aligned_crop_without_a_face_says_so(checkpoint, photo, monkeypatch):
    monkeypatch.setattr(restorer, "face_detector", lambda section: lambda image: [])
    ready = restorer.load_restorer(config_for(checkpoint), aligned=True, engine="eager")
    with pytest.raises(ValueError, match="no face was found in this crop"):
        ready.restore(photo, options(aligned=True))


@pytest.mark.parametrize(
    ("pipeline", "error", "complaint"),
    [
        ({"face_model": None}, ConfigError, "pipeline.face_model: sgpn needs it"),
        ({"shape": None}, ConfigError, "pipeline.shape: sgpn needs it"),
        ({"shape_weights": "nowhere.pdparams"}, WeightsError, "nowhere.pdparams: no such file"),
        ({"face_model": "nowhere.npz"}, FaceModelError, "pipeline.face_model: nowhere.npz: no such file"),
    ],
)
def test_what_is_missing_is_named(checkpoint, monkeypatch, pipeline, error, complaint):
    monkeypatch.setattr(restorer, "face_detector", lambda section: one_face)
    with pytest.raises(error, match=complaint):
        restorer.load_restorer(config_for(checkpoint, **pipeline), engine="eager")


def test_without_shape_weights_beside_the_generator_they_are_asked_for(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(restorer, "face_detector", lambda section: one_face)
    alone = tmp_path / "generator_ema.pdparams"
    alone.write_bytes((checkpoint / "generator_ema.pdparams").read_bytes())
    with pytest.raises(ConfigError, match=r"pipeline.shape_weights: sgpn needs it"):
        restorer.load_restorer(config_for(checkpoint), weights=str(alone), engine="eager")
