"""The metric table: what is measured, what is unavailable and why, what failed."""

import importlib
import json

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn

from ppgan_fr import cli, weights
from ppgan_fr.config import ConfigError, make_config
from ppgan_fr.data.loader import DataError
from ppgan_fr.data.make_lite_data import draw_face
from ppgan_fr.evaluate import EvaluateError, evaluate, render

SIZE = 64


class Identity(nn.Layer):
    def forward(self, lq):
        return lq, []


class Broken(nn.Layer):
    def forward(self, lq):
        return lq * float("nan"), []


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), draw_face(SIZE, np.random.default_rng(number))[0])
    return folder


def config(root, **section):
    return make_config(
        {
            "name": "toy",
            "generator": {"arch": "gfpgan", "out_size": SIZE, "narrow": 0.0625, "num_style_feat": 16},
            "evaluate": {"root": str(root), **section},
            "pipeline": {"size": SIZE},
        }
    )


def test_a_network_that_changes_nothing_has_the_inputs_own_numbers(faces):
    same = evaluate(config(faces, input_root=str(faces)), Identity())
    assert same["metrics"]["psnr"] == 80.0
    assert same["metrics"]["ssim"] == pytest.approx(1.0)
    assert same["count"] == 3
    assert same["failures"] == []


def test_inputs_degraded_on_the_spot_are_the_same_every_time(faces):
    first, second = (evaluate(config(faces, seed=4), Identity()) for _ in range(2))
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["psnr"] < 40
    assert first["hashes"] == second["hashes"]
    assert evaluate(config(faces, seed=5), Identity())["hashes"]["protocol"] != first["hashes"]["protocol"]


def test_the_hash_of_the_data_follows_the_data(faces):
    before = evaluate(config(faces), Identity())["hashes"]["data"]
    cv2.imwrite(str(faces / "0.png"), np.zeros((SIZE, SIZE, 3), np.uint8))
    assert evaluate(config(faces), Identity())["hashes"]["data"] != before


def test_pictures_that_cannot_be_used_are_listed_and_the_rest_is_measured(faces):
    (faces / "9.png").write_bytes(b"no picture")
    report = evaluate(config(faces), Identity())
    assert report["failures"] == [{"input": "9.png", "reason": "9.png: not a picture"}]
    assert report["details"]["psnr"]["count"] == 3
    assert "failed: 9.png" in render(report)


def test_a_network_that_gives_no_numbers_fails_and_is_not_averaged(faces):
    report = evaluate(config(faces), Broken())
    assert len(report["failures"]) == 3
    assert report["metrics"] == {}


def test_a_metric_that_cannot_be_computed_is_counted(faces):
    report = evaluate(config(faces, metrics=["psnr", "ms_ssim"]), Identity())
    assert report["metrics"]["ms_ssim"] is None
    assert report["details"]["ms_ssim"]["failures"] == 3
    assert "176 pixels" in report["details"]["ms_ssim"]["reason"]


def test_a_metric_without_weights_is_unavailable_with_the_reason(faces):
    report = evaluate(config(faces, metrics=["psnr", "perceptual", "lpips", "fid"]), Identity())
    assert set(report["unavailable"]) == {"perceptual", "lpips", "fid"}
    assert "evaluate.weights.vgg19" in report["unavailable"]["perceptual"]
    assert "perceptual: unavailable" in render(report)


def some_weights(name, folder):
    """Random weights of a measuring network, as a file."""
    network = importlib.import_module(f"ppgan_fr.archs.{name}")
    paddle.seed(1)
    path = folder / f"{name}.pdparams"
    weights.save(network.build(network.Config()), path)
    return str(path)


def test_lpips_and_fid_are_measured_under_their_names_when_weights_are_given(faces, tmp_path):
    given = {name: some_weights(name, tmp_path) for name in ("lpips", "inception")}
    other = tmp_path / "other"
    other.mkdir()
    for number in range(3):
        cv2.imwrite(str(other / f"{number}.png"), draw_face(SIZE, np.random.default_rng(90 + number))[0])
    asked = {"metrics": ["lpips", "fid"], "weights": given}
    same = evaluate(config(faces, input_root=str(faces), **asked), Identity())
    different = evaluate(config(faces, input_root=str(other), **asked), Identity())
    assert same["unavailable"] == different["unavailable"] == {}
    assert set(same["metrics"]) == set(different["metrics"]) == {"lpips", "fid"}
    assert same["metrics"]["lpips"] == 0.0
    assert same["metrics"]["fid"] == pytest.approx(0.0, abs=1e-3)
    assert different["metrics"]["lpips"] != 0.0  # of random heads: their sign is as good as any
    assert different["metrics"]["fid"] > same["metrics"]["fid"]


def test_weights_that_do_not_fit_make_a_metric_unavailable_with_the_reason(faces, tmp_path):
    wrong = tmp_path / "wrong.pdparams"
    weights.save({"a": paddle.zeros([2])}, wrong)
    report = evaluate(config(faces, metrics=["psnr", "lpips"], weights={"lpips": str(wrong)}), Identity())
    assert "the weights do not fit the network" in report["unavailable"]["lpips"]
    assert report["metrics"].keys() == {"psnr"}


def test_the_inputs_are_measured_too_when_asked_for(faces):
    report = evaluate(config(faces, seed=4), Identity(), inputs=True)
    assert report["inputs"] == pytest.approx(report["metrics"])
    assert f"{report['inputs']['psnr']:.6f} of the inputs" in render(report)


def test_without_originals_only_metrics_that_need_none_are_possible(faces):
    report = evaluate(config(faces, has_originals=False, metrics=["psnr", "niqe"]), Identity())
    assert report["unavailable"] == {"psnr": "there are no originals to compare with"}


def test_an_unknown_metric_is_refused_with_the_known_ones(faces):
    with pytest.raises(EvaluateError, match=r"there is no psrn; available: psnr, ssim"):
        evaluate(config(faces, metrics=["psrn"]), Identity())


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        evaluate(config(tmp_path / "nowhere"), Identity())


def test_the_section_is_needed(faces):
    with pytest.raises(ConfigError, match="evaluate: missing"):
        evaluate(config(faces).model_copy(update={"evaluate": None}), Identity())


def test_the_command_writes_the_report_and_needs_weights(faces, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    tree = {"name": "toy", "generator": {"arch": "gfpgan", "out_size": SIZE, "narrow": 0.0625, "num_style_feat": 16}}
    path.write_text(json.dumps(tree | {"evaluate": {"root": str(faces)}, "pipeline": {"size": SIZE}, "device": "cpu"}))
    assert cli.main(["eval", "-c", str(path)]) == 2
    assert "weights: none given; pass -o weights=FILE" in capsys.readouterr().err

    from ppgan_fr.config import build, load_config

    paddle.seed(0)
    weights.save(build(load_config(path).generator), tmp_path / "w.pdparams")
    output, images = tmp_path / "out" / "metrics.json", tmp_path / "images"
    words = ["-o", f"weights={tmp_path / 'w.pdparams'}", "--output", str(output), "--images", str(images)]
    assert cli.main(["eval", "-c", str(path), *words]) == 0
    assert "psnr: " in capsys.readouterr().out
    report = json.loads(output.read_text())
    assert len(report["hashes"]["weights"]) == 64
    assert sorted(file.name for file in images.iterdir()) == ["0.png", "1.png", "2.png"]
