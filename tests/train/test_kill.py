"""kill -9 in the middle of a run: no half-written file, and the resumed run ends with the same bits."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from ppgan_fr import weights
from ppgan_fr.config import CHECKOUT
from ppgan_fr.train import checkpoint

pytestmark = pytest.mark.slow

TRAIN = [sys.executable, "tools/train.py", "-c", "configs/smoke/stylegan2.yaml"]
OVERRIDES = ["-o", "device=cpu", "train.total_steps=12", "train.save_every=1", "train.progress=false"]


def start(output_dir, *words):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen([*TRAIN, *words, *OVERRIDES, f"output_dir={output_dir}"], cwd=CHECKOUT, env=environment)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(600) == 0
    for lines in (3, 7):
        process = start(killed, "--resume")
        log = killed / "log.jsonl"
        deadline = time.monotonic() + 300
        while not log.exists() or log.read_text().count("\n") < lines:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        found = checkpoint.find(killed / "latest")
        logged = json.loads(log.read_text().splitlines()[-1])["step"]
        assert checkpoint.load(found).counters["step"] >= logged - 1
    assert start(killed, "--resume").wait(600) == 0
    for path in sorted((whole / "latest").glob("*.pdparams")):
        first, second = weights.load(path), weights.load(killed / "latest" / path.name)
        assert first.keys() == second.keys()
        for key, value in first.items():
            np.testing.assert_array_equal(value, second[key], err_msg=f"{path.stem}.{key}")
    assert {path.name for path in killed.iterdir()} <= {"latest", "log.jsonl", "train.log"}
