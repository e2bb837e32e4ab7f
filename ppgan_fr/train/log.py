"""What a run tells: one line per `log_every` steps, `log.jsonl`, and VisualDL when asked for.

    [TRAIN] epoch: 1, iter: 10/100, lr: 0.00200000, loss: 12.34567, g/pixel: 0.08310, ..., avg_reader_cost: 0.00123 sec,
    avg_batch_cost: 0.51234 sec, avg_samples: 3.0, avg_ips: 5.85550 images/sec, eta: 0:12:34

`loss` is what the generator minimises; `avg_*` are means since the line before. The line is the one that the tools
around Paddle's reproduction repositories read (`loss: <number>,` stands exactly once in it, `ips:` once).
"""

from __future__ import annotations

import copy
import datetime
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

LOGGER = logging.getLogger("ppgan_fr")


class VisualDlMissingError(ValueError):
    """`train.visualdl` is on and the package is not installed."""


def set_up(output_dir: Path | None) -> None:
    """Sends the messages of this run to the console and, with a folder, to `train.log` in it."""
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [_Console()]
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(output_dir / "train.log", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        LOGGER.addHandler(handler)


class _Console(logging.Handler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record))


class Meter:
    """Times since the last line: how long a step took, and how long of it went into waiting for data."""

    def __init__(self) -> None:
        self.restart()
        self.steps_done, self.seconds = 0, 0.0

    def restart(self) -> None:
        """Begins a new interval."""
        self.began = time.perf_counter()
        self.reader = 0.0
        self.steps = 0
        self.samples = 0

    def step(self, reader_seconds: float, samples: int) -> None:
        """Counts one step."""
        self.reader += reader_seconds
        self.steps += 1
        self.samples += samples

    def summary(self, steps_left: int) -> dict[str, float]:
        """Means of the interval, which ends here; `eta` in seconds follows the mean of the whole run."""
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        steps = max(self.steps, 1)
        self.steps_done += self.steps
        self.seconds += elapsed
        values = {
            "avg_reader_cost": self.reader / steps,
            "avg_batch_cost": elapsed / steps,
            "avg_samples": self.samples / steps,
            "avg_ips": self.samples / elapsed,
            "eta": steps_left * self.seconds / max(self.steps_done, 1),
        }
        self.restart()
        return values


def line(epoch: int, step: int, total: int, lr: float, loss: float, terms: Mapping[str, float], costs: Mapping) -> str:
    """The line of the module's docstring."""
    named = "".join(f" {name}: {value:.5f}," for name, value in terms.items())
    eta = datetime.timedelta(seconds=int(costs["eta"]))
    return (
        f"[TRAIN] epoch: {epoch}, iter: {step}/{total}, lr: {lr:.8f}, loss: {loss:.5f},{named} "
        f"avg_reader_cost: {costs['avg_reader_cost']:.5f} sec, avg_batch_cost: {costs['avg_batch_cost']:.5f} sec, "
        f"avg_samples: {costs['avg_samples']:.1f}, avg_ips: {costs['avg_ips']:.5f} images/sec, eta: {eta}"
    )


class Journal:
    """`log.jsonl` (one object per logged step or evaluation) and the VisualDL record."""

    def __init__(self, output_dir: Path, visualdl: bool) -> None:
        output_dir.mkdir(parents=True, exist_ok=True)
        self.folder = output_dir
        self.file = (output_dir / "log.jsonl").open("a", encoding="utf-8")
        self.writer = _visualdl_writer(output_dir / "vdl") if visualdl else None

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line and, to VisualDL, every number of it."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        if self.writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self.writer.add_scalar(tag=name, step=step, value=value)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Shows (H, W, 3) uint8 RGB pictures in VisualDL."""
        if self.writer is not None:
            for name, picture in pictures.items():
                self.writer.add_image(tag=name, img=picture, step=step)

    def graph(self, model: Any, input_spec: list) -> None:
        """Shows the network's graph in VisualDL; a network that cannot be traced is no reason to stop."""
        if self.writer is None:
            return
        try:
            drawn = _graph(copy.deepcopy(model), input_spec)
        except Exception as error:  # noqa: BLE001 - depends on what the tracer supports
            LOGGER.warning("VisualDL: the graph cannot be drawn (%s)", str(error).strip().splitlines()[-1:])
            return
        (self.folder / "vdl" / f"vdlgraph.{int(time.time()):010d}.log").write_text(drawn, encoding="utf-8")

    def close(self) -> None:
        """Ends the record."""
        self.file.close()
        if self.writer is not None:
            self.writer.close()


def _graph(model: Any, input_spec: list) -> str:
    """What `LogWriter.add_graph` would write, if it knew Paddle 3: it looks for a program of the older form, and its
    JSON stops at constants. The network is changed on the way.
    """
    from visualdl.component.graph.graph_component import analyse_model
    from visualdl.component.graph.utils import create_opname_scope

    model.eval()
    model._full_name = f"{type(model).__name__}[model]"  # noqa: SLF001 - the root of VisualDL's names
    create_opname_scope(model)
    with tempfile.TemporaryDirectory() as folder, paddle.pir_utils.OldIrGuard():
        traced = paddle.jit.to_static(model, input_spec, full_graph=True)
        paddle.jit.save(traced, f"{folder}/graph")
        program = Path(folder, "graph.pdmodel").read_bytes()
    return json.dumps(analyse_model(program), default=str)


def _visualdl_writer(folder: Path) -> Any:
    try:
        from visualdl import LogWriter
    except ImportError as error:
        raise VisualDlMissingError(
            f"train.visualdl is on, but VisualDL cannot be imported ({error}); pip install -r requirements-visualdl.txt"
        ) from None
    return LogWriter(logdir=str(folder))
