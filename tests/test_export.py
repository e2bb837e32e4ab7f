"""A network becomes an inference model that answers like it, or nothing at all."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppgan_fr import cli, export, inference, weights
from ppgan_fr.config import build, dump_config, make_config
from ppgan_fr.face.spec import read_spec, write_spec
from ppgan_fr.inference import EngineError, choose_engine, offered, paddle_run

TREE = {
    "name": "tiny",
    "generator": {"arch": "gfpgan", "out_size": 32, "num_style_feat": 12, "narrow": 1 / 16, "num_mlp": 2},
}


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    return lively(make_config(TREE).generator, tmp_path_factory.mktemp("weights") / "tiny.pdparams")


def lively(generator, path, noise=0.05):
    """Saves random weights with which every layer has a say in the answer."""
    paddle.seed(0)
    network = build(generator)
    for parameter in network.parameters():
        if not parameter.stop_gradient:
            parameter.set_value(parameter + noise * paddle.randn(parameter.shape))
    weights.save(network, path)
    return path


def tiny(path, **options):
    return make_config({**TREE, "weights": str(path), **options})


@pytest.fixture(scope="module")
def exported(weights_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    return export.export(tiny(weights_file, export={"dir": str(folder)}))


def test_every_engine_offered_answers_like_the_eager_network(exported, weights_file):
    folder, _ = exported
    spec = read_spec(folder)
    network = export.load_network(tiny(weights_file).generator, weights_file)
    assert {"paddle/fp32", "onednn/fp32"} <= set(spec.engines)
    for name in spec.engines:
        engine, precision = name.split("/")
        run = paddle_run(folder, engine=engine, precision=precision, cpu_threads=1)
        for batch in (3, 1):  # sizes that the export itself did not try, or not in this order
            image = np.random.default_rng(batch).uniform(-1, 1, (batch, 3, 32, 32)).astype(np.float32)
            first, second = run({"lq": image})[0], run({"lq": image})[0]
            with paddle.no_grad():
                eager = network(paddle.to_tensor(image))[0].numpy()
            assert np.array_equal(first, second)
            assert np.abs(first - eager).max() <= (1e-4 if precision == "fp32" else 0.1) * max(1, np.abs(eager).max())


SMALL_GFPGAN = {"arch": "gfpgan", "out_size": 32, "num_style_feat": 12, "narrow": 1 / 16, "num_mlp": 2}
SMALL_HIFACEGAN = {"arch": "hifacegan", "ngf": 4, "crop_size": 64}
# The 1,024 codes that RestoreFormer starts with lie so close together that rounding decides between them (float32 and
# float64 choose differently); 16 do not.
SMALL_RESTOREFORMER = {"ch": 32, "ch_mult": [1, 2], "resolution": 32, "num_res_blocks": 1, "n_embed": 16}
NETWORKS = {
    "gfpgan_original": {**SMALL_GFPGAN, "variant": "original", "channel_multiplier": 1},
    "gfpgan_bilinear": {**SMALL_GFPGAN, "variant": "bilinear"},
    "gfpgan_mobile": {"arch": "gfpgan_mobile", "out_size": 64, "narrow": 0.0625, "num_style_feat": 32},
    "hifacegan_batch_stats": {**SMALL_HIFACEGAN, "variant": "hifacegan", "test_mode": "batch_stats"},
    "lipspade": {**SMALL_HIFACEGAN, "variant": "lipspade"},
    "spade": {**SMALL_HIFACEGAN, "variant": "spade"},
    "sgpn": {"arch": "sgpn", "size": 64, "style_dim": 32, "enc_style_dim": 16, "narrow": 0.0625},
    "restoreformer": {"arch": "restoreformer", **SMALL_RESTOREFORMER},
}


@pytest.mark.parametrize(
    "network",
    [name if name == "lipspade" else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_every_engine_of_this_paddle_answers_for_every_network(network, tmp_path):
    generator = NETWORKS[network]
    size = next(generator[key] for key in ("out_size", "crop_size", "size", "resolution") if key in generator)
    tree = {"name": network, "generator": generator, "pipeline": {"size": size}, "export": {"dir": str(tmp_path / "m")}}
    # With 0.05 the eager float32 of these two is itself 6e-4 and 1e-3 from its float64; with 0.035 it is below 2e-6.
    noise = 0.035 if network in ("lipspade", "spade") else 0.05
    path = lively(make_config(tree).generator, tmp_path / "weights.pdparams", noise)
    folder, checks = export.export(make_config({**tree, "weights": str(path)}))
    wrong = {f"{check.engine}/{check.precision}": check.wrong for check in checks if check.precision == "fp32"}
    assert wrong == dict.fromkeys(("openvino/fp32", "onednn/fp32", "paddle/fp32"))
    assert set(wrong) <= set(read_spec(folder).engines)


def test_the_default_engine_is_the_fastest_that_passed(exported):
    folder, checks = exported
    good = [check for check in checks if check.wrong is None and check.precision == "fp32"]
    assert read_spec(folder).engine == min(good, key=lambda check: check.seconds).engine


def test_nothing_but_the_model_and_its_detector_lies_in_the_folder(exported):
    folder, _ = exported
    assert sorted(path.name for path in folder.iterdir()) == [
        "inference.pdiparams",
        "inference.pdmodel",
        "inference.single.pdiparams",
        "inference.single.pdmodel",
        "inference.yml",
        "onet",
        "yunet",
    ]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]


@pytest.mark.skipif(("openvino", "fp32") not in offered(), reason="this Paddle has no OpenVINO engine")
def test_openvino_takes_the_program_for_one_picture_and_a_batch_apart(exported, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(exported[0], folder)
    (folder / "inference.pdmodel").write_bytes(b"not read by this engine")
    run = paddle_run(folder, engine="openvino", cpu_threads=1)
    pictures = np.random.default_rng(0).uniform(-1, 1, (3, 3, 32, 32)).astype(np.float32)
    together = run({"lq": pictures})[0]
    for i in range(3):
        np.testing.assert_array_equal(run({"lq": pictures[i : i + 1]})[0][0], together[i])
    (folder / "inference.single.pdmodel").unlink()
    with pytest.raises(EngineError, match="inference.single.pdmodel: no such file"):
        paddle_run(folder, engine="openvino")


def test_a_wrong_weight_makes_the_export_fail_and_leaves_nothing(weights_file, tmp_path, monkeypatch, capsys):
    config = tmp_path / "tiny.yaml"
    config.write_text(f"name: tiny\ngenerator: {TREE['generator']}\n".replace("'", ""))
    save = export.save

    def save_with_a_mistake(network, *args, **options):
        parameter = network.final_conv.weight if hasattr(network, "final_conv") else network.parameters()[0]
        right = parameter.numpy().copy()
        wrong = right.copy()
        wrong.flat[0] += 0.5
        parameter.set_value(wrong)
        save(network, *args, **options)
        parameter.set_value(right)

    monkeypatch.setattr(export, "save", save_with_a_mistake)
    monkeypatch.setattr(export, "offered", lambda model_file: [("paddle", "fp32")])
    arguments = ["-c", str(config), "-o", f"weights={weights_file}", f"export.dir={tmp_path / 'model'}"]
    assert cli.run_command("export", arguments) == 2
    assert "does not answer like the eager one" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


def test_an_engine_that_kills_its_process_is_not_offered(exported, tmp_path, monkeypatch):
    folder, _ = exported
    monkeypatch.setattr(export.sys, "executable", str(tmp_path / "crash"))
    (tmp_path / "crash").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (tmp_path / "crash").chmod(0o755)
    check = export._check("onednn", "fp32", folder, tmp_path / "inputs.npz", {}, 1e-4)
    assert check.wrong == "the process ended with signal 11"


def test_the_json_form_is_exported_too_and_openvino_refuses_it(weights_file, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "offered", lambda model_file: [("paddle", "fp32")])
    folder, _ = export.export(tiny(weights_file, export={"dir": str(tmp_path / "json"), "format": "json"}))
    spec = read_spec(folder)
    assert spec.model_file == "inference.json"
    assert (folder / "inference.json").is_file()
    assert ("openvino", "fp32") not in offered(spec.model_file)
    with pytest.raises(EngineError, match="reads .pdmodel only"):
        paddle_run(folder, engine="openvino")


def test_an_export_is_made_once_and_found_again(weights_file, tmp_path, monkeypatch):
    path = tmp_path / "w.pdparams"
    path.write_bytes(weights_file.read_bytes())
    first = export.cached_export(tiny(path))
    assert first.parent == tmp_path / ".cache"
    monkeypatch.setattr(export, "write_checked", lambda *_, **__: pytest.fail("exported twice"))
    assert export.cached_export(tiny(path)) == first
    with pytest.raises(pytest.fail.Exception):
        export.cached_export(tiny(path, pipeline={"template": "sgpn_512"}))


def test_a_batch_size_that_somebody_exported_with_does_not_get_into_the_cache(weights_file, tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(weights_file.read_bytes())
    folder = export.cached_export(tiny(path, export={"batch_size": 4}))
    assert export.cached_export(tiny(path)) == folder
    assert read_spec(folder).inputs[0].shape[0] == -1


def test_another_users_cache_is_passed_over(weights_file, tmp_path, monkeypatch):
    path = tmp_path / "w.pdparams"
    path.write_bytes(weights_file.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    theirs, is_file, writable = str(tmp_path / ".cache"), Path.is_file, export._writable

    def refused(self):
        if str(self).startswith(theirs):
            raise PermissionError(13, "Permission denied", str(self))
        return is_file(self)

    monkeypatch.setattr(Path, "is_file", refused)
    monkeypatch.setattr(export, "_writable", lambda folder: not str(folder).startswith(theirs) and writable(folder))
    monkeypatch.setattr(export, "write_checked", lambda *_, **__: [])
    assert export.cached_export(tiny(path)).parent == tmp_path / "user" / "ppgan_fr"


def test_a_cache_that_one_user_made_can_be_read_by_others(tmp_path):
    assert export._writable(tmp_path / ".cache")
    assert (tmp_path / ".cache").stat().st_mode & 0o055 == 0o055


def test_a_folder_that_is_a_link_elsewhere_is_filled_there_and_stays_a_link(exported, tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "model"
    link.symlink_to(tmp_path / "disk")
    seen = []
    with export._beside(link) as folder:
        seen.append(folder.resolve().parent)
    export.copy_export(exported[0] / "onet", link)
    assert seen == [tmp_path / "disk"]
    assert link.is_symlink()
    assert sorted(path.name for path in link.iterdir()) == sorted(
        path.name for path in (exported[0] / "onet").iterdir()
    )


def test_of_two_exports_into_one_folder_one_stays_whole(tmp_path):
    sources = []
    for name in "ab":
        (tmp_path / name).mkdir()
        for file in ("inference.pdmodel", "inference.pdiparams", "inference.yml"):
            (tmp_path / name / file).write_text(name)
        sources.append(tmp_path / name)
    target = tmp_path / "model"
    target.mkdir()
    for _ in range(30):
        threads = [threading.Thread(target=export.copy_export, args=(source, target)) for source in sources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({path.read_text() for path in target.iterdir()}) == 1


def test_an_export_told_to_end_leaves_nothing_half_written(weights_file, tmp_path):
    program = (
        "import os, signal, sys\n"
        "from ppgan_fr import cli, export\n"
        "export.compare = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    config = tmp_path / "tiny.yaml"
    config.write_text(dump_config(tiny(weights_file, export={"dir": str(tmp_path / "out" / "model")})))
    done = subprocess.run(
        [sys.executable, "-c", program, "export", "-c", str(config)], cwd=Path(__file__).parent.parent, check=False
    )
    assert done.returncode == 128 + 15
    assert list((tmp_path / "out").iterdir()) == []


def test_processes_that_export_at_once_share_one_export_and_remains_are_removed(weights_file, tmp_path, monkeypatch):
    path = tmp_path / "w.pdparams"
    path.write_bytes(weights_file.read_bytes())
    config = tiny(path)
    cache = tmp_path / ".cache"
    cache.mkdir()
    name = f"w-{export.cache_key(config, path)}"
    killed = cache / f".{name}.abc.part"
    killed.mkdir()
    (killed / "inference.pdmodel").write_bytes(b"half")
    made = []

    def slowly(network, spec, target, *_, **__):
        made.append(target)
        target.mkdir()
        (target / "inference.yml").write_text("arch: gfpgan\n")

    monkeypatch.setattr(export, "write_checked", slowly)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(export.cached_export(config))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / name] * 3
    assert made == [cache / name]
    assert not killed.exists()


def test_a_cache_that_cannot_be_written_is_kept_in_the_users_folder(weights_file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(export, "_writable", lambda folder: str(folder).startswith(str(tmp_path / "user")))
    (tmp_path / "user" / "ppgan_fr").mkdir(parents=True)
    monkeypatch.setattr(export, "write_checked", lambda *_, **__: [])
    assert export.cached_export(tiny(weights_file)).parent == tmp_path / "user" / "ppgan_fr"


def test_requests_that_cannot_be_met_are_one_line(exported):
    folder, _ = exported
    for options, message in (
        ({"use_gpu": True}, "no CUDA"),
        ({"use_tensorrt": True}, "TensorRT runs on a GPU"),
        ({"engine": "magic"}, "engine: must be one of"),
        ({"precision": "fp8"}, "precision: must be one of"),
    ):
        with pytest.raises(EngineError, match=message) as caught:
            paddle_run(folder, **options)
        assert "\n" not in str(caught.value)


def test_loading_writes_nothing(exported, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = sorted(exported[0].iterdir())
    for engine, precision in offered():
        paddle_run(exported[0], engine=engine, precision=precision, cpu_threads=1)
    assert list(tmp_path.iterdir()) == [] and sorted(exported[0].iterdir()) == before


FILES = {
    "openvino": ("inference.single.pdmodel", "inference.single.pdiparams"),
    "onednn": ("inference.pdmodel", "inference.pdiparams"),
    "paddle": ("inference.pdmodel", "inference.pdiparams"),
}
DAMAGE = {
    "nothing left": lambda content: b"",
    "a little left": lambda content: content[:100],
    "half of it left": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
}


def damaged_files():
    """What is to be refused. Half a file of parameters is read by Paddle as it is, unless its size is known."""
    for engine, name, damage, sizes_known in itertools.product(FILES, (0, 1), DAMAGE, (True, False)):
        unnoticed = name == 1 and engine != "openvino" and damage == "half of it left"
        if (engine, "fp32") in offered() and (sizes_known or not unnoticed):
            yield engine, FILES[engine][name], damage, sizes_known


@pytest.mark.parametrize(("engine", "name", "damage", "sizes_known"), damaged_files())
def test_a_damaged_file_is_refused_in_one_line(exported, tmp_path, engine, name, damage, sizes_known):
    folder = tmp_path / "model"
    shutil.copytree(exported[0], folder)
    if not sizes_known:
        write_spec(dataclasses.replace(read_spec(folder), file_bytes={}), folder)
    (folder / name).write_bytes(DAMAGE[damage]((folder / name).read_bytes()))
    with pytest.raises(EngineError) as told:
        paddle_run(folder, engine=engine, cpu_threads=1)
    assert str(folder) in str(told.value) and "\n" not in str(told.value)


@pytest.mark.skipif(("openvino", "fp32") not in offered(), reason="this Paddle has no OpenVINO engine")
def test_a_model_loaded_again_takes_over_the_engine_that_nobody_uses(exported):
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    known = set(inference._ENGINES_LEFT)
    first, second = (paddle_run(exported[0], engine="openvino", cpu_threads=3) for _ in range(2))
    (made_from,) = set(inference._ENGINES_LEFT) - known
    assert inference._ENGINES_LEFT[made_from] == []  # both are used: each has its own
    expected = first({"lq": image})[0]
    assert np.array_equal(second({"lq": image})[0], expected)
    del first
    (left,) = inference._ENGINES_LEFT[made_from]
    third = paddle_run(exported[0], engine="openvino", cpu_threads=3)
    assert inference._ENGINES_LEFT[made_from] == [], left
    assert np.array_equal(third({"lq": image})[0], expected)


def test_a_processor_without_bfloat16_says_so(exported, monkeypatch):
    monkeypatch.setattr("ppgan_fr.inference.cpu_flags", frozenset)
    with pytest.raises(EngineError, match="neither avx512_bf16 nor amx_bf16"):
        choose_engine(read_spec(exported[0]), None, "bf16")


def test_the_predictor_starts_without_importing_paddle_and_paddle_can_follow(exported):
    program = (
        "import sys, numpy as np\n"
        "from ppgan_fr.inference import paddle_run\n"
        f"run = paddle_run({str(exported[0])!r}, cpu_threads=1)\n"
        "run({'lq': np.zeros((1, 3, 32, 32), np.float32)})\n"
        "assert 'paddle' not in sys.modules\n"
        "import paddle\n"
        "assert float((paddle.ones([2]) * 3).sum()) == 6\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
