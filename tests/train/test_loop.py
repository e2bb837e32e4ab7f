"""The loop as a user runs it: to the end, stopped and resumed, killed, diverged, with bad files."""

import json
import logging
import signal

import cv2
import numpy as np
import pytest

from ppgan_fr import weights
from ppgan_fr.config import ConfigError
from ppgan_fr.train import checkpoint, loop
from ppgan_fr.train.step import DivergedError


def networks(config, folder="latest"):
    from pathlib import Path

    files = sorted((Path(config.output_dir) / folder).glob("*.pdparams"))
    return {file.stem: weights.load(file) for file in files}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, state in first.items():
        for key, value in state.items():
            np.testing.assert_array_equal(value, second[name][key], err_msg=f"{name}.{key}")


def test_resuming_at_step_3_gives_the_same_weights_as_never_stopping(toy_config):
    whole = toy_config("whole", total_steps=6)
    loop.train(whole)
    loop.train(toy_config("parts", total_steps=3))
    parts = toy_config("parts", total_steps=6, resume=True)
    loop.train(parts)
    assert_equal(networks(whole), networks(parts))
    assert set(networks(whole)) == {"generator", "generator_ema", "critic"}


def test_workers_and_accumulation_resume_exactly_too(toy_config):
    whole = toy_config("whole", total_steps=4, accumulate=2)
    loop.train(whole)
    loop.train(toy_config("parts", total_steps=2, accumulate=2))
    loop.train(toy_config("parts", total_steps=4, accumulate=2, resume=True))
    assert_equal(networks(whole), networks(toy_config("parts")))


def test_a_kill_in_the_middle_loses_only_the_steps_since_the_last_save(toy_config, monkeypatch):
    whole = toy_config("whole", total_steps=6)
    loop.train(whole)
    stepped = loop.Stepper.step

    def step(self, batches, number):
        if number == 5:
            raise KeyboardInterrupt
        return stepped(self, batches, number)

    monkeypatch.setattr(loop.Stepper, "step", step)
    with pytest.raises(KeyboardInterrupt):
        loop.train(toy_config("killed", total_steps=6))
    monkeypatch.undo()
    loop.train(toy_config("killed", total_steps=6, resume=True))
    assert_equal(networks(whole), networks(toy_config("killed")))


def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(toy_config, monkeypatch):
    stepped = loop.Stepper.step

    def step(self, batches, number):
        if number == 3:
            signal.raise_signal(signal.SIGTERM)
        return stepped(self, batches, number)

    monkeypatch.setattr(loop.Stepper, "step", step)
    config = toy_config("stopped", save_every=100)
    with pytest.raises(loop.StoppedError, match="SIGTERM: stopped after step 3, continue with --resume"):
        loop.train(config)
    assert checkpoint.load(checkpoint.find(loop.Path(config.output_dir) / "latest")).counters["step"] == 3


def test_a_run_that_diverges_names_the_term_and_keeps_the_checkpoint(toy_config):
    config = toy_config("diverged", lr=1e37, total_steps=20)
    with pytest.raises(DivergedError, match=r"step \d+: .*; stopped, the last good checkpoint is .*latest"):
        loop.train(config)
    for state in networks(config).values():
        assert all(np.isfinite(value).all() for value in state.values())


def test_every_logged_step_is_one_line_of_json(toy_config):
    config = toy_config("logged", total_steps=3)
    loop.train(config)
    lines = [json.loads(line) for line in (loop.Path(config.output_dir) / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"g/pixel", "g/gan", "d/gan", "d/real_score", "lr", "loss", "avg_ips"} <= lines[0].keys()
    assert "d/r1" in lines[1]
    assert lines[0]["loss"] == pytest.approx(lines[0]["g/pixel"] + lines[0]["g/gan"])


def test_milestones_are_kept(toy_config):
    config = toy_config("milestones", total_steps=4, milestone_every=2)
    loop.train(config)
    assert (loop.Path(config.output_dir) / "step_00000002" / "generator.pdparams").is_file()
    assert checkpoint.load(loop.Path(config.output_dir) / "step_00000004").counters["step"] == 4


def test_two_bad_files_are_skipped_and_reported_once(toy_config, faces, caplog):
    (faces / "03.png").write_bytes(b"this is no picture")
    good = (faces / "05.png").read_bytes()
    (faces / "05.png").write_bytes(good[: len(good) // 2])
    config = toy_config("bad", total_steps=9)
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_bad_fraction": 0.2})})
    loop.LOGGER.propagate = True
    loop.train(config)
    text = (loop.Path(config.output_dir) / "train.log").read_text()
    assert text.count("skipped 03.png: not a picture") == 1
    assert text.count("skipped 05.png: the file ends too early") == 1
    assert "2 of 12 files could not be used" in text
    logging.getLogger("ppgan_fr").propagate = False


def test_a_section_that_is_missing_is_named(toy_config):
    config = toy_config().model_copy(update={"data": None})
    with pytest.raises(ConfigError, match="data: missing"):
        loop.train(config)


def test_the_benchmark_mode_only_measures(toy_config):
    config = toy_config("fast", benchmark=True)
    loop.train(config)
    assert not (loop.Path(config.output_dir) / "latest").exists()
    assert "[BENCHMARK] ips: " in (loop.Path(config.output_dir) / "train.log").read_text()


def test_the_profiler_takes_the_options_of_the_benchmarks(toy_config, tmp_path):
    options = f"batch_range=[1,3];profile_path={tmp_path / 'trace'}"
    loop.train(toy_config("profiled", total_steps=4, profiler_options=options))
    assert list((tmp_path / "trace").glob("*.json"))


def test_training_on_the_compiled_generator_gives_the_same_losses(toy_config):
    dynamic, static = toy_config("dynamic", total_steps=3), toy_config("static", total_steps=3, to_static=True)
    losses = []
    for config in (dynamic, static):
        loop.train(config)
        lines = (loop.Path(config.output_dir) / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_visualdl_gets_scalars_pictures_and_the_graph(toy_config):
    pytest.importorskip("visualdl", reason="VisualDL is not tested: pip install -r requirements-visualdl.txt")
    from visualdl import LogReader

    config = toy_config("shown", total_steps=2, visualdl=True)
    loop.train(config)
    folder = loop.Path(config.output_dir)
    (record,) = (folder / "vdl").glob("vdlrecords*")
    reader = LogReader(file_path=str(record))
    shown = [item.value for item in reader.get_data("scalar", "g/pixel")]
    logged = [json.loads(line)["g/pixel"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert shown == pytest.approx(logged)
    picture = reader.get_data("image", "output")[0].image.encoded_image_string
    decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (16, 4 * 16, 3)
    (graph,) = (folder / "vdl").glob("vdlgraph*")
    kinds = [node["type"] for node in json.loads(graph.read_text())["nodes"]]
    assert kinds.count("conv2d") == 2
