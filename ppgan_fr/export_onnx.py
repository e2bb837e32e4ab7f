"""An export folder becomes ONNX as well: `inference.onnx` beside `inference.pdmodel`, the detector's networks included.

Each file counts only when ONNX Runtime gives the answer of Paddle Inference, for batches of one and three.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppgan_fr.export import ExportError, example_inputs
from ppgan_fr.face.spec import ModelSpec, read_spec
from ppgan_fr.inference import paddle_run

TOLERANCE = 1e-4
"""Largest difference from Paddle's kernels, relative to the larger of 1 and the largest value."""
OPSET = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `ppgan-fr export-onnx`; the names are those of the program `paddle2onnx`."""
    parser.add_argument("--model_dir", required=True, help="export folder with inference.yml")
    parser.add_argument("--save_file", help="default: inference.onnx in that folder")
    parser.add_argument("--opset_version", type=int, default=OPSET)
    parser.add_argument("--model_filename", help="not needed: inference.yml says it")
    parser.add_argument("--params_filename", help="not needed: inference.yml says it")
    parser.add_argument("--enable_onnx_checker", default="True", help="the comparison is always made")


def run(args: argparse.Namespace) -> int:
    """Converts the network and, when they are there, the two of the detector and the shape network."""
    folder = Path(args.model_dir)
    target = Path(args.save_file) if args.save_file else folder / "inference.onnx"
    print(f"{target}: largest difference {to_onnx(folder, target, args.opset_version):.1e}")  # noqa: T201
    if target.parent.resolve() != folder.resolve():
        shutil.copyfile(folder / "inference.yml", target.parent / "inference.yml")
        for name in read_spec(folder).companions.values():
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target.parent / name)
    for name in ("yunet", "onet", "shape"):
        if (folder / name / "inference.yml").is_file():
            place = target.parent / name
            place.mkdir(exist_ok=True)
            if place.resolve() != (folder / name).resolve():
                shutil.copyfile(folder / name / "inference.yml", place / "inference.yml")
            difference = to_onnx(folder / name, place / "inference.onnx", args.opset_version)
            print(f"{place / 'inference.onnx'}: largest difference {difference:.1e}")  # noqa: T201
    return 0


def to_onnx(folder: Path, target: Path, opset: int = OPSET, batches: Sequence[int] = (1, 3)) -> float:
    """Converts one export folder and compares.

    Args:
        folder: an export folder.
        target: the ONNX file.
        opset: version of the ONNX operators.
        batches: sizes to compare; none where the caller compares.

    Returns:
        The largest difference between ONNX Runtime and Paddle Inference, relative to the larger of 1 and the largest
        value.

    Raises:
        ExportError: a package is missing, the converter does not know an operator, or the answers differ. Nothing is
        left behind then.
        SpecError: the folder has no readable `inference.yml`.
    """
    try:
        import onnxruntime  # noqa: F401
        import paddle2onnx
    except ImportError as error:
        raise ExportError(
            f"the Python package {error.name!r} is missing (pip install -r requirements-onnx.txt)"
        ) from None
    spec = read_spec(folder)
    if not spec.model_file.endswith(".pdmodel"):
        raise ExportError(f"{folder}: the converter reads .pdmodel; export with -o export.format=pdmodel")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        try:
            paddle2onnx.export(
                str(folder / spec.model_file),
                str(folder / spec.params_file),
                str(part),
                opset_version=opset,
                enable_onnx_checker=True,
                optimize_tool="none",  # the others install packages while running
            )
        except Exception as error:  # the converter raises whatever its C++ half throws
            raise ExportError(f"{folder}: cannot be converted ({' '.join(str(error).split())[:300]})") from None
        if not part.is_file():
            raise ExportError(f"{folder}: cannot be converted (the converter wrote nothing)")
        difference = compare(folder, spec, part, batches) if batches else 0.0
        if not difference <= TOLERANCE:
            raise ExportError(f"{target}: ONNX Runtime differs by {difference:.2g}, allowed {TOLERANCE:g}")
        part.replace(target)
        return difference
    finally:
        part.unlink(missing_ok=True)


def compare(folder: Path, spec: ModelSpec, onnx_file: Path, batches: Sequence[int] = (1, 3)) -> float:
    """The largest relative difference between ONNX Runtime and Paddle's own kernels."""
    session = _session(onnx_file)
    expected = paddle_run(folder, engine="paddle")
    worst = 0.0
    for batch in batches:
        arrays = example_inputs(spec, batch if spec.inputs[0].shape[0] < 0 else spec.inputs[0].shape[0])
        for got, want in zip(session.run(None, arrays), expected(arrays), strict=True):
            if got.shape != want.shape:
                raise ExportError(f"{onnx_file}: an output is {got.shape} instead of {want.shape}")
            scale = max(1.0, float(np.abs(want).max()))
            worst = max(worst, float(np.abs(got.astype(np.float64) - want).max()) / scale)
    return worst


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
