"""Two processes: equal to one, and a lost one ends the other with a clear message."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ppgan_fr import weights
from ppgan_fr.config import CHECKOUT

pytestmark = pytest.mark.slow

TRAIN = ["tools/train.py", "-c", "configs/smoke/gfpgan.yaml", "-o", "device=cpu", "train.evaluate_every=0"]
SECONDS = 600


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def run(*words, check=True):
    return subprocess.run([sys.executable, *words], cwd=CHECKOUT, env=environment(), check=check, timeout=SECONDS)


def launch(logs, *overrides):
    words = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(logs)]
    return subprocess.Popen([*words, *TRAIN, *overrides], cwd=CHECKOUT, env=environment())


def networks(folder):
    return {path.stem: weights.load(path) for path in sorted((folder / "latest").glob("*.pdparams"))}


def workers(output_dir):
    """Process number -> process id of the training processes of a run."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"output_dir={output_dir}".encode() in command and b"launch" not in b" ".join(command):
            rank = re.search(rb"PADDLE_TRAINER_ID=(\d+)", variables)
            if rank:
                found[int(rank[1])] = int(entry.name)
    return found


def test_two_processes_equal_one(tmp_path):
    run(*TRAIN, f"output_dir={tmp_path / 'one'}")
    assert launch(tmp_path / "logs", f"output_dir={tmp_path / 'two'}").wait(SECONDS) == 0
    one, two = networks(tmp_path / "one"), networks(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, state in one.items():
        for key, value in state.items():
            np.testing.assert_allclose(two[name][key], value, atol=1e-6, err_msg=f"{name}.{key}")


def test_a_killed_process_ends_the_other_and_the_run_goes_on_with_resume(tmp_path):
    output_dir, logs = tmp_path / "run", tmp_path / "logs"
    launched = launch(logs, f"output_dir={output_dir}", "train.total_steps=1000", "train.save_every=1")
    try:
        deadline = time.monotonic() + SECONDS / 2
        while not (output_dir / "log.jsonl").exists() or not (output_dir / "log.jsonl").read_text():
            assert time.monotonic() < deadline and launched.poll() is None
            time.sleep(0.5)
        os.kill(workers(output_dir)[1], signal.SIGKILL)
        assert launched.wait(SECONDS / 2) != 0
    finally:
        if launched.poll() is None:
            launched.kill()
    said = (logs / "workerlog.0").read_text()
    assert re.search(r"ppgan-fr train: .*(cannot be reached|SIGTERM).*--resume", said), said[-2000:]
    steps = len((output_dir / "log.jsonl").read_text().splitlines())
    run(*TRAIN, "--resume", "-o", f"output_dir={output_dir}", f"train.total_steps={steps + 2}")
