"""The quality bench: what is degraded, measured, counted and shown."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from ppgan_fr import facebench
from ppgan_fr.face.align import already_aligned
from ppgan_fr.face.spec import ModelSpec, TensorSpec, write_spec
from ppgan_fr.facebench import BenchError


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for index in range(3):
        picture = np.random.default_rng(index).integers(0, 255, (32, 32, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(picture, (512, 512), interpolation=cv2.INTER_CUBIC))
    return folder


class FakeJudge:
    names = {"identity": "fake"}

    def __init__(self, *_):
        pass

    def compare(self, original, pictures):
        return [
            dict.fromkeys(facebench.COLUMNS, abs(float(picture.mean()) - float(original.mean()))) | {"landmarks": None}
            for picture in pictures
        ]


@pytest.fixture
def bench(monkeypatch, faces, tmp_path):
    restorer = SimpleNamespace(restore_faces=lambda crops: [np.float32(one.image) for one in crops], settings="fake")
    monkeypatch.setattr(facebench, "load_restorer", lambda *_, **__: restorer)
    monkeypatch.setattr(facebench, "Judge", FakeJudge)

    def run(**changes):
        arguments = {
            "config": "c.yaml",
            "override": [],
            "faces": str(faces),
            "list": None,
            "weights": None,
            "vgg": None,
            "output": str(tmp_path / "out"),
            "protocol": "gfpgan",
            "seed": 0,
            "limit": 0,
            "fidelity": None,
            "checks": False,
        }
        code = facebench.run(SimpleNamespace(**(arguments | changes)))
        return code, json.loads((tmp_path / "out" / "facebench.json").read_text()), tmp_path / "out" / "index.html"

    return run


def test_two_runs_measure_the_same(bench):
    assert bench()[1]["faces"][0]["input"] == bench()[1]["faces"][0]["input"]


def test_another_seed_degrades_differently(bench):
    assert bench(seed=1)[1]["faces"][0]["input"] != bench()[1]["faces"][0]["input"]


def test_what_could_not_be_measured_is_counted(bench):
    means = bench()[1]["means"]["restored"]
    assert means["landmarks"] == {"mean": None, "count": 0, "failures": 3}
    assert means["psnr"]["count"] == 3


def test_a_broken_face_is_named_and_the_others_are_measured(bench, faces, capsys):
    (faces / "1.png").write_bytes(b"not a picture")
    code, report, _ = bench()
    assert code == 1
    assert report["count"] == 2
    assert report["failures"][0]["input"] == "1.png"
    assert "failed: 1.png" in capsys.readouterr().out


def test_the_page_needs_nothing_from_outside(bench):
    text = bench()[2].read_text()
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert text.count("data:image/jpeg;base64,") == 3


def test_a_listed_face_that_is_absent_is_an_error(faces, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("# comment\n0.png\nelse.png\n")
    with pytest.raises(BenchError, match="else.png"):
        facebench.chosen(str(faces), str(listing), 0)


def test_softening_keeps_size_and_mean():
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    soft = facebench.soften(picture)
    assert soft.shape == picture.shape
    assert abs(float(soft.mean()) - float(picture.mean())) < 3
    assert soft.std() < picture.std()


def test_an_export_folder_is_benched_without_a_configuration(tmp_path, monkeypatch):
    write_spec(ModelSpec("x", inputs=(TensorSpec("lq", (-1, 3, 512, 512)),)), tmp_path)
    monkeypatch.setattr(facebench, "paddle_run", lambda folder: lambda arrays: [arrays["lq"]])
    given = SimpleNamespace(config=str(tmp_path), override=[], weights=None, fidelity=None)
    restorer = facebench.open_restorer(given)
    crop = already_aligned(np.full((512, 512, 3), 90, np.uint8))
    assert np.abs(restorer.restore_faces([crop])[0] - 90).max() < 1e-3
    assert restorer.fidelity is None
    given.weights = "w.pdparams"
    with pytest.raises(BenchError, match="leave --weights"):
        facebench.open_restorer(given)


def test_the_exported_distance_is_the_metric_s():
    import paddle

    from ppgan_fr import metrics
    from ppgan_fr.archs import vgg19

    paddle.seed(0)
    network = facebench.with_distance(vgg19.build(vgg19.Config(width=0.0625)))
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    with paddle.no_grad():
        distances = network(paddle.to_tensor(pictures)).numpy()
        features = {name: value.numpy() for name, value in network.features(paddle.to_tensor(pictures)).items()}
    first, second = ({name: value[i] for name, value in features.items()} for i in (0, 1))
    assert distances[0] == 0
    assert distances[1] == pytest.approx(metrics.perceptual_distance(second, first), rel=1e-5)
