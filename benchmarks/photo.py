"""Where the time of a whole photo goes, and how many photos a minute a folder makes.

python benchmarks/photo.py --model_dir inference/gfpgan_mobile --image photo.jpg [--megapixels 24] [--json OUT]
python benchmarks/photo.py --model_dir inference/gfpgan_mobile --folder photos --batch_size 4
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("GLOG_minloglevel", "2")

from deploy.restore_folder import Folder, Job, open_detector, peak_memory_mb
from ppgan_fr.face.align import named_template
from ppgan_fr.face.image_io import list_images, read_image, write_image
from ppgan_fr.face.pipeline import restore_image
from ppgan_fr.face.restore import image_restorer
from ppgan_fr.face.spec import read_spec
from ppgan_fr.inference import paddle_run


def main() -> int:
    """Prints one table; writes it as JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", type=Path, required=True)
    parser.add_argument("--detector_dir", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--megapixels", type=float, help="enlarge the picture to this size first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--engine")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--cpu_threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if (args.image is None) == (args.folder is None):
        parser.error("pass either --image or --folder")
    answer = folder(args) if args.folder else photo(args)
    print("\n".join(f"{name}: {value}" for name, value in answer.items()))
    if args.json:
        args.json.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return 0


def _open(directory: Path, args: argparse.Namespace) -> Any:
    return paddle_run(directory, engine=args.engine, precision=args.precision, cpu_threads=args.cpu_threads)


def photo(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds by stage, medians over the rounds; `total_to_network` is what all the rest costs."""
    start = time.perf_counter()
    spec = read_spec(args.model_dir)
    run = _open(args.model_dir, args)
    detect = open_detector(_open, args)
    load = time.perf_counter() - start
    start = time.perf_counter()
    run({tensor.name: np.ones([max(side, 1) for side in tensor.shape], np.float32) for tensor in spec.inputs})
    first = time.perf_counter() - start
    restore = image_restorer(run, spec)
    template = named_template(spec.template).at_size(spec.size)
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="ppgan_fr_photo_") as scratch:
        source = args.image
        if args.megapixels:
            source = Path(scratch) / f"large{args.image.suffix}"
            image = read_image(args.image)
            factor = (args.megapixels * 1e6 / (image.shape[0] * image.shape[1])) ** 0.5
            write_image(source, cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC))
            del image
        for _ in range(args.rounds):
            start = time.perf_counter()
            image = read_image(source)
            read = time.perf_counter() - start
            restored = restore_image(image, detect, restore, mask=spec.mask, template=template)
            before = time.perf_counter()
            write_image(Path(scratch) / f"result{source.suffix}", restored.image)
            write = time.perf_counter() - before
            rounds.append({"read": read, **restored.seconds, "write": write, "total": time.perf_counter() - start})
            faces, pixels = len(restored.faces), image.shape[0] * image.shape[1]
    answer: dict[str, Any] = {"faces": faces, "megapixels": round(pixels / 1e6, 1), "load": load, "first": first}
    answer |= {stage: statistics.median(one[stage] for one in rounds) for stage in rounds[0]}
    answer["total_to_network"] = answer["total"] / answer["restore"] if answer["restore"] else None
    answer["peak_memory_mb"] = peak_memory_mb()
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in answer.items()}


def folder(args: argparse.Namespace) -> dict[str, Any]:
    """Photos per minute, loading excluded."""
    spec = read_spec(args.model_dir)
    restore = image_restorer(_open(args.model_dir, args), spec, batch_size=args.batch_size)
    work = Folder(restore, spec, open_detector(_open, args), args.batch_size)
    failed = []
    with tempfile.TemporaryDirectory(prefix="ppgan_fr_photo_") as scratch:
        jobs = [Job(path, Path(scratch) / f"{i}{path.suffix}") for i, path in enumerate(list_images(args.folder))]
        work.run(jobs, lambda job: failed.append(job.error) if job.error else None)
    times = work.times
    return {
        "photos": times.photos,
        "failed": len(failed),
        "faces": times.faces,
        "photos_per_minute": round(60 * times.photos / times.total, 2),
        "network_share": round(sum(times.calls) / times.total, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
