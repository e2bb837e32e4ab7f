"""Stands in for every program a TIPC chain calls, in a fraction of a second. `FAULT` says what is to go wrong.

python stand_in.py train|eval|export|infer|... key=value ...
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import numpy as np

FAULT = os.environ.get("FAULT", "")


def _save(folder: Path, scale: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "generator.pdparams").open("wb") as file:
        pickle.dump({"conv.weight": np.full((2, 2), scale, np.float32), "bn._mean": np.full(2, scale)}, file, 2)
    (folder / "config.yaml").write_text(f"generator: {{arch: {os.environ.get('STAND_IN_ARCH', 'gfpgan')}}}\n")


def train(options: dict[str, str]) -> int:
    """Writes a log and two checkpoints."""
    known = {"output_dir", "train.total_steps", "data.batch_size", "weights", "train.save_every", "train.precision"}
    known |= {
        "train.milestone_every",
        "train.to_static",
        "data.root",
        "train.profiler_options",
        "train.benchmark",
        "train.log_every",
    }
    for name in options:
        if name not in known:
            print(f"{name}: unknown key")
            return 2
    if FAULT == "command fails":
        print("out of memory")
        return 1
    total, output = int(options["train.total_steps"]), Path(options["output_dir"])
    for step in range(1, total + 1):
        loss = "nan" if FAULT == "nan loss" and step == total else f"{10 / step:.5f}"
        if FAULT == "other losses" and "train.to_static" in options and step == total:
            loss = "3.14159"
        print(
            f"[TRAIN] epoch: 1, iter: {step}/{total}, lr: 0.00200000, loss: {loss}, avg_ips: 5.80000 images/sec, eta: 0"
        )
    print("[BENCHMARK] ips: 5.80000 images/sec")
    _save(output / f"step_{total // 2:08d}", 1.0)
    _save(output / "latest", 1.0 if FAULT == "unchanged weights" else 2.0)
    if FAULT == "missing file":
        (output / "latest" / "generator.pdparams").unlink()
    return 0


def evaluate(options: dict[str, str]) -> int:
    """Prints a metric."""
    if not Path(options["weights"]).is_file():
        print(f"{options['weights']}: No such file or directory")
        return 2
    print("psnr: 23.5")
    return 0


def export(options: dict[str, str]) -> int:
    """Writes an inference folder."""
    folder = Path(options["export.dir"])
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("inference.pdmodel", "inference.pdiparams"):
        (folder / name).write_bytes(b"x")
    arch = "hifacegan" if FAULT == "another model" else os.environ.get("STAND_IN_ARCH", "gfpgan")
    (folder / "inference.yml").write_text(f"arch: {arch}\n")
    return 0


def infer(options: dict[str, str]) -> int:
    """Copies the pictures."""
    target = Path(options["--save_dir"]) / "restored"
    target.mkdir(parents=True)
    for path in sorted(Path(options["--image_dir"]).iterdir()):
        if FAULT == "empty result":
            continue
        shutil.copy(path, target)
        if FAULT == "wrong number" and options["--cpu_threads"] == "2":
            import cv2

            cv2.imwrite(str(target / path.name), cv2.imread(str(path))[:, ::-1])
    print("inference_time(ms): 12.0")
    return 0


def onnx(options: dict[str, str]) -> int:
    """Writes something that is not empty."""
    if FAULT != "missing file":
        Path(options["--save_file"]).write_bytes(b"onnx")
    return 0


def server(_options: dict[str, str]) -> int:
    """Answers every request with the same picture, until it is told to stop."""
    if FAULT == "server does not start":
        print("cannot bind the port")
        return 1
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args):
            pass

    http.server.HTTPServer(("127.0.0.1", int(os.environ["STAND_IN_PORT"])), Handler).serve_forever()
    return 0


def wait(_options: dict[str, str]) -> int:
    """Never ends in time."""
    time.sleep(60)
    return 0


if __name__ == "__main__":
    commands = {"train": train, "eval": evaluate, "export": export, "infer": infer, "onnx": onnx, "server": server}
    arguments = [word for word in sys.argv[2:] if "=" in word]
    sys.exit({**commands, "wait": wait}[sys.argv[1]](dict(word.split("=", 1) for word in arguments)))
