"""What every Python deployment does around its engine: arguments, the folder, batches of faces, results, timing.

An engine comes as a function `open_run(folder, args) -> Run`; see `inference_python/infer.py`, `onnx_python/infer.py`.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppgan_fr.face.align import AlignError, Template, align, already_aligned, named_template
from ppgan_fr.face.detect import detector
from ppgan_fr.face.image_io import ImageError, Photo, list_images, output_suffix, read_photo, write_photo
from ppgan_fr.face.pipeline import restore_image
from ppgan_fr.face.restore import image_restorer
from ppgan_fr.face.sgpn import GuideError, exported_restorer, wants_shape
from ppgan_fr.face.spec import ModelSpec, read_spec
from ppgan_fr.face.types import AlignedFace, Detect, Face, Restore, Run

DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"
OpenRun = Callable[[Path, argparse.Namespace], Run]


class InferError(ValueError):
    """Wrong usage of an `infer.py`. One line."""


def boolean(text: str) -> bool:
    """`True`, `False` and their usual spellings; nothing is evaluated."""
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off", "none", "null"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")


def common_arguments(description: str) -> argparse.ArgumentParser:
    """The arguments that every `infer.py` has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_dir", type=Path, required=True, help="export folder with inference.yml")
    parser.add_argument("--detector_dir", type=Path, help="folder with yunet/ and onet/; default: the model's own")
    parser.add_argument("--image_dir", type=Path, default=DEMO, help="a picture or a folder of pictures")
    parser.add_argument("--save_dir", type=Path, default=Path("output/inference"), help="restored/ goes in here")
    parser.add_argument("--aligned", type=boolean, default=False, help="the pictures are face crops, not photos")
    parser.add_argument("--cpu_threads", type=int, default=None, help="default: every processor this process may use")
    parser.add_argument("--batch_size", type=int, default=1, help="faces per call, of as many photos as it takes")
    parser.add_argument("--fidelity", type=float, default=None, help="0 to 1, for networks with this knob")
    parser.add_argument("--upscale", type=float, default=1.0, help="size of the results against the inputs")
    parser.add_argument("--benchmark", type=boolean, default=False, help="warm up, and print times in AutoLog form")
    parser.add_argument("--save_log_path", default=None, help="also write the benchmark there")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses `--key value`, `--key=value` and `key=value`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    names = {option[2:] for action in parser._actions for option in action.option_strings if option.startswith("--")}
    given = [f"--{word}" if word.partition("=")[0] in names and "=" in word else word for word in given]
    args = parser.parse_args(given)
    if args.batch_size < 1:
        parser.error(f"--batch_size must be at least 1, got {args.batch_size}")
    if args.cpu_threads is not None and args.cpu_threads < 1:
        parser.error(f"--cpu_threads must be at least 1, got {args.cpu_threads}")
    if not 0 < args.upscale <= 8:
        parser.error(f"--upscale must be above 0 and at most 8, got {args.upscale:g}")
    return args


@dataclass
class Job:
    """A photo on its way."""

    path: Path
    target: Path
    photo: Photo | None = None
    faces: list[Face] = field(default_factory=list)
    crops: list[AlignedFace] = field(default_factory=list)
    answers: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None


@dataclass
class Times:
    """Seconds, summed over all photos; `calls` holds each call of the network."""

    preprocess: float = 0.0
    postprocess: float = 0.0
    calls: list[float] = field(default_factory=list)
    faces: int = 0
    photos: int = 0
    total: float = 0.0


class Folder:
    """Restores pictures with the faces of several photos in one call of the network."""

    def __init__(self, restore: Restore, spec: ModelSpec, detect: Detect | None, batch_size: int, upscale: float = 1.0):
        """Args are those of the pipeline; `detect` None: the pictures are aligned faces."""
        self.restore, self.detect, self.batch_size, self.upscale = restore, detect, batch_size, upscale
        self.mask = spec.mask if spec.mask in ("face", "square", "sgpn") else "face"
        name = spec.template if spec.template != "none" else "ffhq_512"
        self.template = named_template(name).at_size(spec.size)
        self.times = Times()

    def run(self, jobs: Iterable[Job], done: Callable[[Job], None]) -> None:
        """Reads, restores and writes; `done` hears of every photo, in order."""
        start = time.perf_counter()
        waiting: deque[Job] = deque()
        queue: deque[tuple[Job, AlignedFace]] = deque()
        for job in jobs:
            self._prepare(job)
            waiting.append(job)
            queue.extend((job, crop) for crop in job.crops)
            while len(queue) >= self.batch_size:
                self._restore([queue.popleft() for _ in range(self.batch_size)])
            self._finish(waiting, done)
        while queue:
            self._restore([queue.popleft() for _ in range(min(self.batch_size, len(queue)))])
        self._finish(waiting, done)
        self.times.total = time.perf_counter() - start

    def _prepare(self, job: Job) -> None:
        start = time.perf_counter()
        try:
            job.photo = read_photo(job.path)
            image = job.photo.pixels
            if self.detect is None:
                job.crops = [already_aligned(image, self.template)]
            else:
                job.faces = self.detect(image)
                job.crops = [crop for crop in (self._align(image, face) for face in job.faces) if crop is not None]
        except (ImageError, MemoryError, cv2.error) as error:
            job.error = _one_line(error, job.path)
            job.photo, job.crops = None, []
        job.seconds += time.perf_counter() - start
        self.times.preprocess += time.perf_counter() - start

    def _align(self, image: np.ndarray, face: Face) -> AlignedFace | None:
        try:
            return align(image, face, self.template)
        except AlignError:
            return None

    def _restore(self, batch: list[tuple[Job, AlignedFace]]) -> None:
        start = time.perf_counter()
        try:
            answers = self.restore([crop for _, crop in batch])
        except (GuideError, AlignError) as error:  # of one face, whose photo alone has to fail
            if len(batch) > 1:
                for one in batch:
                    self._restore([one])
                return
            job, crop = batch[0]
            job.error = _one_line(error, job.path)
            answers = [np.full_like(crop.image, 0, np.float32)]
        seconds = time.perf_counter() - start
        self.times.calls.append(seconds)
        self.times.faces += len(batch)
        for (job, _), answer in zip(batch, answers):
            job.answers.append(answer)
            job.seconds += seconds / len(batch)

    def _finish(self, waiting: deque[Job], done: Callable[[Job], None]) -> None:
        while waiting and len(waiting[0].answers) == len(waiting[0].crops):
            job = waiting.popleft()
            start = time.perf_counter()
            if job.error is None:
                self._paste(job)
            job.seconds += time.perf_counter() - start
            self.times.postprocess += time.perf_counter() - start
            self.times.photos += 1
            done(job)
            job.photo, job.crops, job.answers = None, [], []

    def _paste(self, job: Job) -> None:
        """The pipeline once more, with the faces and the answers that are there already."""
        known = {crop.image.tobytes(): answer for crop, answer in zip(job.crops, job.answers)}
        try:
            restored = restore_image(
                job.photo.pixels,
                None if self.detect is None else lambda _: job.faces,
                lambda crops: [known[crop.image.tobytes()] for crop in crops],
                mask=self.mask,
                template=self.template,
                scale=self.upscale,
            )
            wrong = [one.error for one in restored.faces if one.image is None]
            if wrong:
                job.error = f"{job.path}: {len(wrong)} of {len(restored.faces)} faces: {wrong[0]}"
                return
            alpha = job.photo.alpha
            if alpha is not None and alpha.shape != restored.image.shape[:2]:
                alpha = cv2.resize(alpha, restored.image.shape[1::-1])
            write_photo(job.target, replace(job.photo, pixels=restored.image, alpha=alpha))
        except (ImageError, MemoryError, OSError, cv2.error) as error:
            job.error = _one_line(error, job.path)


def main(open_run: OpenRun, args: argparse.Namespace, facts: dict[str, Any]) -> int:
    """Does the whole job of an `infer.py`.

    Args:
        open_run: loads an export folder.
        args: of `parse`.
        facts: what the benchmark says of the engine: runtime_device, enable_mkldnn, ...

    Returns:
        0 when every picture was restored or has no face, 1 when some failed, 2 for wrong usage.
    """
    try:
        spec = read_spec(args.model_dir)
        paths = list_images(args.image_dir)
        start = time.perf_counter()
        run = open_run(args.model_dir, args)
        facts = {**facts, "load_time(s)": round(time.perf_counter() - start, 3)}
        guided = wants_shape(spec)
        detect = None if args.aligned and not guided else open_detector(open_run, args)
        if guided:
            # A crop that was not cut here has its landmarks anywhere; the shape network needs to know where.
            locate, detect = (detect, None) if args.aligned else (None, detect)
            open_other = functools.partial(open_run, args=helper_arguments(args))
            restore = exported_restorer(args.model_dir, spec, run, open_other, locate)
            warm = exported_restorer(args.model_dir, spec, run, open_other) if args.benchmark and locate else restore
        else:
            restore = warm = image_restorer(run, spec, fidelity=args.fidelity, batch_size=args.batch_size)
        folder = Folder(restore, spec, detect, args.batch_size, args.upscale)
        (args.save_dir / "restored").mkdir(parents=True, exist_ok=True)
        if args.benchmark:
            start = time.perf_counter()
            _warm_up(warm, folder.template, args.batch_size)
            facts["first_inference(s)"] = round(time.perf_counter() - start, 3)
        failed = _process(folder, paths, args.save_dir)
    except OSError as error:
        print(f"infer.py: {error.filename or args.save_dir}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        if type(error).__module__.split(".")[0] not in ("ppgan_fr", "deploy", "__main__"):
            raise
        print(f"infer.py: {error}", file=sys.stderr)
        return 2
    if args.benchmark:
        report = autolog(folder.times, spec, args, facts)
        print(report)
        if args.save_log_path:
            path = Path(args.save_log_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".benchmark.txt").write_text(report + "\n", encoding="utf-8")
    return 1 if failed else 0


def helper_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """For the networks beside the restorer: their own fastest engine, in full precision."""
    return argparse.Namespace(**{**vars(args), "engine": None, "precision": "fp32", "use_tensorrt": False})


def open_detector(open_run: OpenRun, args: argparse.Namespace) -> Detect:
    """YuNet and ONet out of the export folder.

    Raises:
        InferError: they are not there.
    """
    folder = args.detector_dir or args.model_dir
    for name in ("yunet", "onet"):
        if not (folder / name / "inference.yml").is_file():
            raise InferError(f"{folder / name}: no exported detector here; pass --detector_dir or --aligned True")
    fixed = helper_arguments(args)
    return detector(open_run(folder / "yunet", fixed), open_run(folder / "onet", fixed))


def _process(folder: Folder, paths: Sequence[Path], output: Path) -> int:
    taken: set[str] = set()
    jobs = []
    for path in paths:
        name = f"{path.stem}{output_suffix(path)}"
        if name.lower() in taken:
            name = f"{path.stem}_{path.suffix[1:]}{output_suffix(path)}"
        taken.add(name.lower())
        jobs.append(Job(path, output / "restored" / name))
    failed = 0
    beside = output / f"results.jsonl.{os.getpid()}.part"
    try:
        with beside.open("w", encoding="utf-8") as records:

            def done(job: Job) -> None:
                nonlocal failed
                failed += job.error is not None
                print(job.error or f"{job.path} -> {job.target} ({len(job.crops)} faces, {job.seconds:.3f} s)")
                records.write(json.dumps(_record(job)) + "\n")

            folder.run(jobs, done)
        beside.replace(output / "results.jsonl")
    finally:
        beside.unlink(missing_ok=True)
    return failed


def _record(job: Job) -> dict[str, Any]:
    height, width = job.photo.pixels.shape[:2] if job.photo is not None else (None, None)
    status = "failed" if job.error else "ok" if job.crops else "no_face"
    return {
        "input": str(job.path),
        "output": None if job.error else str(job.target),
        "status": status,
        "error": job.error,
        "width": width,
        "height": height,
        "faces": [
            {
                "box": [round(float(value), 1) for value in face.box],
                "landmarks": [[round(float(x), 2), round(float(y), 2)] for x, y in face.landmarks],
                "score": round(face.score, 4),
                "restored": job.error is None,
            }
            for face in job.faces
        ]
        or [{"restored": job.error is None}] * len(job.crops),
        "seconds": round(job.seconds, 3),
    }


def _warm_up(restore: Restore, template: Template, batch_size: int) -> None:
    gray = already_aligned(np.full((template.size, template.size, 3), 127, np.uint8), template)
    restore([gray] * batch_size)


def _one_line(error: BaseException, path: Path) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ImageError) else f"{path}: {text[:300]}"


def peak_memory_mb() -> float:
    """Most memory this process has held so far."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:  # not on this system
        return float("nan")
    # not getrusage: what it says includes the parent's memory at the moment of the fork
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: nan")
    return float(line.split()[1]) / 1024


def autolog(times: Times, spec: ModelSpec, args: argparse.Namespace, facts: dict[str, Any]) -> str:
    """The benchmark in the sections of Paddle's AutoLog; times are per photo, latencies per call of the network."""
    photos, calls = max(1, times.photos), np.array(times.calls or [0.0]) * 1000
    sections = {
        "Env info": {
            "OS_version": platform.platform(),
            "CPU": platform.machine(),
            "CPU_count": os.cpu_count(),
            "Python": platform.python_version(),
        },
        "Paddle info": {
            "engine_version": facts.get("engine_version", "unknown"),
            "log_api_version": "1.0",
        },
        "Conf info": {
            "runtime_device": facts.get("runtime_device", "cpu"),
            "engine": facts.get("engine", ""),
            "ir_optim": True,
            "enable_memory_optim": True,
            "enable_tensorrt": facts.get("enable_tensorrt", False),
            "enable_mkldnn": facts.get("enable_mkldnn", False),
            "cpu_math_library_num_threads": facts.get("cpu_threads", args.cpu_threads),
        },
        "Model info": {"model_name": spec.arch, "precision": getattr(args, "precision", "fp32")},
        "Data info": {
            "batch_size": args.batch_size,
            "input_shape": "dynamic",
            "data_num": times.photos,
            "faces": times.faces,
        },
        "Perf info": {
            "cpu_rss(MB)": round(peak_memory_mb(), 1),
            "gpu_rss(MB)": None,
            "load_time(s)": facts.get("load_time(s)"),
            "first_inference(s)": facts.get("first_inference(s)"),
            "total time spent(s)": round(times.total, 4),
            "preprocess_time(ms)": round(times.preprocess / photos * 1000, 2),
            "inference_time(ms)": round(float(calls.sum()) / photos, 2),
            "postprocess_time(ms)": round(times.postprocess / photos * 1000, 2),
            "latency_p50(ms)": round(float(np.percentile(calls, 50)), 2),
            "latency_p90(ms)": round(float(np.percentile(calls, 90)), 2),
            "latency_p99(ms)": round(float(np.percentile(calls, 99)), 2),
            "photos_per_minute": round(60 * times.photos / times.total, 2) if times.total else None,
        },
    }
    lines = []
    for title, values in sections.items():
        lines.append(f" {title} ".center(60, "-"))
        lines += [f"{name}: {value}" for name, value in values.items()]
    return "\n".join(lines)
