"""Every YAML loads; every smoke configuration trains two steps, evaluates and can be resumed."""

import json

import numpy as np
import pytest

from ppgan_fr import cli, weights
from ppgan_fr.config import CHECKOUT, Config, dump_config, load_config, make_config, read_yaml

CONFIGS = sorted((CHECKOUT / "configs").rglob("*.yaml"))
SMOKE = [path for path in CONFIGS if path.parent.name == "smoke"]


def name(path):
    return path.relative_to(CHECKOUT / "configs").with_suffix("").as_posix()


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_configuration_loads_and_survives_being_saved(path):
    config = load_config(path)
    assert isinstance(config, Config)
    assert config == make_config(read_yaml_text(dump_config(config)))


def read_yaml_text(text):
    import yaml

    return yaml.safe_load(text)


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_the_comments_of_a_configuration_begin_with_what_it_is(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", SMOKE, ids=name)
def test_a_smoke_configuration_trains_evaluates_and_resumes(path, tmp_path, capsys):
    common = [f"output_dir={tmp_path}", "device=cpu", "train.progress=false"]
    assert cli.main(["train", "-c", str(path), "-o", *common]) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(np.isfinite(value) for line in steps for value in line.values())
    latest = tmp_path / "latest" / "generator.pdparams"
    before = weights.load(latest)
    assert cli.main(["train", "-c", str(path), "--resume", "-o", *common, "train.total_steps=3"]) == 0
    after = weights.load(latest)
    assert any((before[key] != after[key]).any() for key in before)
    if "evaluate" in read_yaml(path):
        shape = tmp_path / "latest" / "shape.pdparams"  # SGPN restores with two networks
        extra = [f"pipeline.shape_weights={shape}"] if shape.exists() else []
        output = tmp_path / "metrics.json"
        overrides = [f"weights={latest}", "device=cpu", *extra]
        assert cli.main(["eval", "-c", str(path), "--output", str(output), "-o", *overrides]) == 0
        report = json.loads(output.read_text())
        assert report["failures"] == []
        assert report["hashes"]["weights"]
        assert np.isfinite(report["metrics"]["psnr"])
    capsys.readouterr()


def test_gfpgan_is_the_published_training():
    config = load_config("gfpgan")
    recipe = config.recipe
    assert (config.generator.variant, config.generator.out_size, config.generator.fix_decoder) == (
        "original",
        512,
        True,
    )
    assert recipe.ema_decay == 0.5 ** (32 / 10_000)
    assert recipe.loss_weights.model_dump() == {
        "pixel": 0.1,
        "pyramid": 1.0,
        "perceptual": 1.0,
        "style": 50.0,
        "gan": 0.1,
        "component_gan": 1.0,
        "component_style": 200.0,
        "identity": 10.0,
        "r1": 10.0,
    }
    assert (recipe.r1_every, recipe.pyramid_until, recipe.schedule.milestones) == (16, 50_000, (600_000, 700_000))


def test_the_simple_training_has_neither_components_nor_identity():
    recipe = load_config("gfpgan_simple").recipe
    assert recipe.component_discriminator is None
    assert recipe.identity is None
