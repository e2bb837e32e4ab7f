"""Restores photos with ONNX Runtime.

python tools/export_onnx.py --model_dir inference/gfpgan_mobile
python deploy/onnx_python/infer.py --model_dir inference/gfpgan_mobile --image_dir photos --save_dir output/photos
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.restore_folder import InferError, boolean, common_arguments, main, parse
from ppgan_fr.face.types import Run

FILE_NAMES = ("inference.onnx", "model.onnx")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = common_arguments(__doc__.splitlines()[0])
    parser.add_argument("--model_file", default=None, help=f"name in the folder; default: {' or '.join(FILE_NAMES)}")
    parser.add_argument("--use_gpu", type=boolean, default=False)
    return parse(parser, given)


def ort_run(path: Path, cpu_threads: int | None = None, use_gpu: bool = False) -> Run:
    """Loads an ONNX file.

    Raises:
        InferError: the file cannot be loaded, or the GPU was asked for and this build has none.
    """
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    if use_gpu:
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise InferError("use_gpu: this build of ONNX Runtime has no CUDA; install onnxruntime-gpu")
        providers.insert(0, "CUDAExecutionProvider")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_threads or _threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # noqa: BLE001 - the runtime's exceptions share no base class
        raise InferError(f"{path}: cannot be loaded ({' '.join(str(error).split())[:300]})") from None
    names = [tensor.name for tensor in session.get_inputs()]

    def run(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        return session.run(None, {name: arrays[name] for name in names})

    return run


def open_run(folder: Path, args: argparse.Namespace) -> Run:
    """Finds and loads the ONNX file of an export folder."""
    given = args.model_file if folder == args.model_dir else None
    for name in (given,) if given else FILE_NAMES:
        if (folder / name).is_file():
            return ort_run(folder / name, args.cpu_threads, args.use_gpu)
    raise InferError(
        f"{folder}: no {given or ' or '.join(FILE_NAMES)} here; run python tools/export_onnx.py --model_dir DIR"
    )


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(given: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    args = arguments(given)
    try:
        import onnxruntime

        facts = {
            "engine": "onnxruntime",
            "engine_version": f"onnxruntime {onnxruntime.__version__}",
            "runtime_device": "gpu" if args.use_gpu else "cpu",
            "cpu_threads": args.cpu_threads or _threads(),
        }
        return main(open_run, args, facts)
    except ModuleNotFoundError as error:
        if error.name not in ("onnxruntime", "cv2", "yaml", "PIL"):
            raise
        hint = "pip install -r requirements-onnx.txt"
        print(f"infer.py: the Python package {error.name!r} is missing ({hint})", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run())
