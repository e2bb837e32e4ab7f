"""Restores photos with Paddle Inference.

python deploy/inference_python/infer.py --model_dir inference/gfpgan_mobile --image_dir photos --save_dir output/photos
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("GLOG_minloglevel", "2")

from deploy.restore_folder import boolean, common_arguments, main, parse
from ppgan_fr.face.spec import SpecError, read_spec
from ppgan_fr.face.types import Run
from ppgan_fr.inference import ENGINES, PRECISIONS, EngineError, choose_engine, default_threads, paddle_run


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Without `--engine`, `--use_mkldnn True` means oneDNN and `False` Paddle's own kernels."""
    parser = common_arguments(__doc__.splitlines()[0])
    parser.add_argument("--use_gpu", type=boolean, default=False)
    parser.add_argument("--gpu_id", type=int, default=0)
    parser.add_argument("--engine", choices=ENGINES, default=None, help="default: the fastest of the export")
    parser.add_argument("--use_mkldnn", "--enable_mkldnn", type=boolean, default=None, help="oneDNN or plain kernels")
    parser.add_argument("--use_tensorrt", type=boolean, default=False)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    args = parse(parser, given)
    if args.engine is None and args.use_mkldnn is not None and not args.use_gpu:
        args.engine = "onednn" if args.use_mkldnn else "paddle"
    return args


def open_run(folder: Path, args: argparse.Namespace) -> Run:
    """Loads an export folder."""
    return paddle_run(
        folder,
        engine=args.engine,
        precision=args.precision,
        cpu_threads=args.cpu_threads,
        use_gpu=args.use_gpu,
        use_tensorrt=args.use_tensorrt,
        gpu_id=args.gpu_id,
    )


def facts(args: argparse.Namespace) -> dict:
    """What the benchmark says of the engine."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        engine = choose_engine(read_spec(args.model_dir), args.engine, args.precision, args.use_gpu)
    except (SpecError, EngineError, ModuleNotFoundError):
        engine = "none"  # loading will say why
    versions = []
    for name in ("paddlepaddle", "paddlepaddle-gpu"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return {
        "engine": engine,
        "engine_version": ", ".join(versions) or "unknown",
        "runtime_device": "gpu" if args.use_gpu else "cpu",
        "enable_mkldnn": engine == "onednn",
        "enable_tensorrt": args.use_tensorrt,
        "cpu_threads": args.cpu_threads or default_threads(),
    }


def run(given: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    args = arguments(given)
    try:
        return main(open_run, args, facts(args))
    except ModuleNotFoundError as error:
        if error.name not in ("paddle", "cv2", "yaml", "PIL"):
            raise
        print(
            f"infer.py: the Python package {error.name!r} is missing (pip install -r requirements.txt)", file=sys.stderr
        )
        return 2


if __name__ == "__main__":
    sys.exit(run())
