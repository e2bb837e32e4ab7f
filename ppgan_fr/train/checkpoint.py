"""Checkpoints that survive a kill at any time, and resume bit by bit.

    output_dir/latest/generator.pdparams, generator_ema.pdparams, discriminator.pdparams, ...   plain state dicts
                      training.pdstate        step, optimizer state, counters (numpy `.npz`, nothing pickled)
                      config.yaml             the resolved configuration
    output_dir/step_00100000/                 milestones, the same files
    output_dir/best/                          the best evaluation so far

A folder is written beside (`latest.tmp`), flushed to the disk, and only then renamed. Between the two renames of a
replacement the previous one is `latest.old`, which `find` falls back to.

Paddle keys the state of an optimizer by the order in which parameters were constructed (`conv2d_0.w_0_moment1_0`);
here it is stored under the parameter's path in its network (`down.weight|moment1`), so it does not matter what was
built first.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppgan_fr import weights

STATE_FILE = "training.pdstate"


class CheckpointError(ValueError):
    """A checkpoint that is missing, broken or belongs to another configuration."""


@dataclass
class Checkpoint:
    """What a checkpoint holds, as arrays."""

    networks: dict[str, Mapping[str, Any]]
    """File name without suffix -> state dict."""
    optimizers: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """Phase -> slot under the parameter's path -> array."""
    counters: dict[str, Any] = field(default_factory=dict)
    """Step and whatever else is a number or text."""
    config: str = ""


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes the folder completely or not at all; an older one of the same name is replaced."""
    beside, old = _named(folder, ".tmp"), _named(folder, ".old")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, state in checkpoint.networks.items():
        weights.save(state, beside / f"{name}.pdparams")
    arrays = {
        f"{phase}/{slot}": value for phase, slots in checkpoint.optimizers.items() for slot, value in slots.items()
    }
    counters = np.frombuffer(json.dumps(checkpoint.counters).encode(), np.uint8)
    with (beside / STATE_FILE).open("wb") as file:
        np.savez(file, counters=counters, **arrays)
    (beside / "config.yaml").write_text(checkpoint.config, encoding="utf-8")
    for path in [*beside.iterdir(), beside]:
        _flush(path)
    _replace(folder, beside, old)


def load(folder: Path) -> Checkpoint:
    """Reads what `save` wrote.

    Raises:
        CheckpointError: a file is missing or broken.
    """
    try:
        with np.load(folder / STATE_FILE, allow_pickle=False) as archive:
            arrays = dict(archive.items())
        counters = json.loads(arrays.pop("counters").tobytes())
        networks = {path.stem: weights.load(path) for path in sorted(folder.glob("*.pdparams"))}
    except Exception as error:  # noqa: BLE001 - a broken zip file raises many kinds
        raise CheckpointError(f"{folder}: cannot be resumed from ({error})") from None
    optimizers: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        phase, _, slot = key.partition("/")
        optimizers.setdefault(phase, {})[slot] = value
    return Checkpoint(networks, optimizers, counters)


def find(folder: Path) -> Path | None:
    """`folder`, or what a kill in the middle of its replacement left; None when there is nothing."""
    return next((path for path in (folder, _named(folder, ".old")) if (path / STATE_FILE).is_file()), None)


def copy(source: Path, target: Path) -> None:
    """A copy of a checkpoint, again completely or not at all (hard links where the disk allows)."""
    beside, old = _named(target, ".tmp"), _named(target, ".old")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(source, beside, copy_function=_link)
    _replace(target, beside, old)


def optimizer_state(optimizer: paddle.optimizer.Optimizer, network: nn.Layer) -> dict[str, np.ndarray]:
    """The optimizer's slots under the paths of the network's parameters."""
    paths = {parameter.name: path for path, parameter in network.named_parameters()}
    found: dict[str, np.ndarray] = {}
    for slot, by_name in optimizer._accumulators.items():  # noqa: SLF001 - no public access by slot
        for name, value in by_name.items():
            if name in paths:
                found[f"{paths[name]}|{slot}"] = value.numpy()
    return found


def load_optimizer_state(
    optimizer: paddle.optimizer.Optimizer, network: nn.Layer, state: dict[str, np.ndarray]
) -> None:
    """Gives the slots of `optimizer_state` back; an empty state is an optimizer that has not stepped yet.

    Raises:
        CheckpointError: the state belongs to another network.
    """
    if not state:
        return
    parameters = dict(network.named_parameters())
    unknown = sorted({key.partition("|")[0] for key in state} - set(parameters))
    if unknown:
        raise CheckpointError(f"optimizer state for parameters that do not exist: {', '.join(unknown[:5])}")
    optimizer._create_accumulators(
        paddle.base.framework.default_main_program().global_block(),
        [  # noqa: SLF001
            parameter for parameter in parameters.values() if not parameter.stop_gradient
        ],
    )
    for slot, by_name in optimizer._accumulators.items():  # noqa: SLF001
        for path, parameter in parameters.items():
            if parameter.name in by_name and f"{path}|{slot}" in state:
                by_name[parameter.name].set_value(state[f"{path}|{slot}"])


def _named(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _replace(folder: Path, beside: Path, old: Path) -> None:
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    beside.rename(folder)
    _flush_parent(folder)
    shutil.rmtree(old, ignore_errors=True)


def _flush_parent(folder: Path) -> None:
    _flush(folder.parent)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
