"""Restore photos: every face of every picture in a folder, the rest of each picture left as it is.

  python tools/predict.py --input photo.jpg --output restored
  python tools/predict.py --input album/ --output restored --report

Writes OUTPUT/restored/<name>, OUTPUT/faces/<name>_<i>_{input,restored}.png and OUTPUT/results.jsonl (a line per input).
Exit code 0: all done; 1: some inputs failed, each on a line with its reason; 2: wrong usage, configuration or weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from ppgan_fr.face.image_io import (
    ImageError,
    list_images,
    output_suffix,
    read_photo,
    write_file,
    write_photo,
)
from ppgan_fr.face.paste import enlarge
from ppgan_fr.face.types import COLOUR, IDENTITY, Restored, RestoredFace

DEFAULT_CONFIG = "configs/gfpgan_mobile.yaml"
RESULTS = "results.jsonl"
STATE = ".resume.jsonl"
"""Checksums of inputs and outputs, for `--resume` to tell what is really done."""


class PredictError(ValueError):
    """The job as a whole cannot be done as asked."""


@dataclass(frozen=True)
class Job:
    """One input and where its results go."""

    source: Path
    name: str
    """Stem of the face files; unique within the job."""
    target: Path


@dataclass(frozen=True)
class Options:
    """What is done to each photo, apart from the networks."""

    scale: float = 1.0
    only_center: bool = False
    aligned: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of `tools/predict.py`."""
    parser.add_argument("--input", required=True, metavar="PATH", help="a picture, or a folder of pictures")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the results go; made when missing")
    parser.add_argument("-c", "--config", default=DEFAULT_CONFIG, help="YAML file, or its name under configs/")
    parser.add_argument("-o", "--override", nargs="*", action="extend", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--weights", metavar="FILE", help="weights of the generator instead of the configuration's")
    parser.add_argument("--upscale", type=float, metavar="S", help="size of the results against the inputs (default 1)")
    parser.add_argument(
        "--fidelity",
        type=fidelity,
        metavar="0..1|auto",
        help="closer to the input when higher, for networks that can; auto: as each face needs it, sharp ones not",
    )
    parser.add_argument(
        "--identity",
        choices=IDENTITY,
        default="off",
        help="a restored face that is somebody else: note it (warn) or mix the input back in until it is not (gate)",
    )
    parser.add_argument(
        "--colour",
        choices=COLOUR,
        default="auto",
        help="auto: gray stays gray, sepia sepia; keep: the input's skin tone and eye colour as well",
    )
    parser.add_argument("--only-center", action="store_true", help="restore only the face nearest to the middle")
    parser.add_argument("--aligned", action="store_true", help="the inputs are face crops, not photos")
    parser.add_argument("--guide", metavar="FILE", help="a second, aligned face that guides HiFaceGAN (see its page)")
    parser.add_argument("--guide-level", type=int, default=4, metavar="N", help="which of the 8 levels, or how many")
    parser.add_argument("--guide-mode", default="progressive", help="progressive, one_plug or one_ablate")
    parser.add_argument("--report", action="store_true", help="also write OUTPUT/report.html, before and after")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier, interrupted run has finished")


def run(args: argparse.Namespace) -> int:
    """Does the whole job.

    Returns:
        0 when every input was restored or has no face, 1 when some failed.

    Raises:
        ValueError: of this package, when nothing can be done: no input, no place for the output, a wrong configuration
        or weights.
    """
    from ppgan_fr.mixed_guidance import Guide  # Paddle is loaded only once the arguments make sense
    from ppgan_fr.restorer import load_restorer

    output = Path(args.output)
    if args.upscale is not None and not 0 < args.upscale <= 8:
        raise PredictError(f"--upscale must be above 0 and at most 8, got {args.upscale:g}")
    if isinstance(args.fidelity, float) and not 0 <= args.fidelity <= 1:
        raise PredictError(f"--fidelity must be between 0 and 1, got {args.fidelity:g}")
    jobs = plan(list_images(args.input), output)
    prepare_output(output)
    guide = Guide(args.guide, args.guide_level, args.guide_mode) if args.guide else None
    restorer = load_restorer(
        args.config,
        args.override,
        args.weights,
        args.fidelity,
        aligned=args.aligned,
        guide=guide,
        identity=args.identity,
        colour=args.colour,
    )
    scale = restorer.scale if args.upscale is None else args.upscale
    options = Options(scale, args.only_center, args.aligned)
    return process(jobs, restorer, options, output, resume=args.resume, report=args.report)


def fidelity(text: str) -> float | str:
    """`--fidelity`: a number, or `auto`."""
    return text if text == "auto" else float(text)


def plan(sources: Iterable[Path], output: Path) -> list[Job]:
    """Gives every input its names; two inputs never share one (`a.jpg` and `a.png` have different face files)."""
    sources = list(sources)
    stems = Counter(path.stem for path in sources)
    taken: set[str] = set()
    jobs = []
    for path in sources:
        name = path.stem if stems[path.stem] == 1 else f"{path.stem}_{path.suffix[1:]}"
        suffix = output_suffix(path)
        target = f"{path.stem}{suffix}"
        if target.lower() in taken:
            target = f"{name}{suffix}"
        taken.add(target.lower())
        jobs.append(Job(path, name, output / "restored" / target))
    return jobs


def prepare_output(output: Path) -> None:
    """Makes the folders and checks that files can be written there, before any work is done.

    Raises:
        PredictError: with the folder and the reason.
    """
    try:
        for folder in (output / "restored", output / "faces"):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (output, output / "restored", output / "faces"):
            for left in folder.glob(".*.part"):  # from a run that was killed
                left.unlink()
            write_file(folder / ".probe", b"")
            (folder / ".probe").unlink()
    except OSError as error:
        raise PredictError(f"{error.filename or output}: cannot write results here ({error.strerror})") from None


def process(
    jobs: Sequence[Job],
    restorer: Any,
    options: Options,
    output: Path,
    *,
    resume: bool = False,
    report: bool = False,
) -> int:
    """Restores the jobs one after the other, writing each result before the next begins.

    Args:
        jobs: of `plan`.
        restorer: a `ppgan_fr.restorer.Restorer`, or anything with its `restore`, `similarities`, `fidelity` and
        `settings`.
        options: the same for all.
        output: folder, prepared.
        resume: keep results that are recorded and whose files are still what they were.
        report: write `report.html` at the end.

    Returns:
        0, or 1 when some inputs failed.
    """
    settings = _digest(json.dumps([restorer.settings, options.scale, options.only_center, options.aligned]).encode())
    done = _finished(output, jobs, settings) if resume else {}
    _start_records(output, jobs, done)
    results = list(done.values())
    failed = 0

    def on_face(index: int, count: int) -> None:
        progress.set_postfix_str(f"face {index}/{count}", refresh=False)
        progress.update(0)

    with tqdm(total=len(jobs), initial=len(done), unit="photo", file=sys.stderr, dynamic_ncols=True) as progress:
        for job in jobs:
            if str(job.source) in done:
                continue
            progress.set_description(job.source.name[-30:], refresh=False)
            line = restore_file(job, restorer, options, output, on_face)
            _record(output, job, line, settings)
            results.append(line)
            if line["status"] == "failed":
                failed += 1
                progress.write(line["error"], file=sys.stderr)
            progress.set_postfix_str("", refresh=False)
            progress.update()
    if report:
        from ppgan_fr.report import write_report

        by_input = {line["input"]: line for line in results}
        print(f"report: {write_report([by_input[str(job.source)] for job in jobs], output)}")  # noqa: T201
    _say_how_it_went(results, len(done), output)
    return 1 if failed else 0


def _say_how_it_went(results: Sequence[dict], kept: int, output: Path) -> None:
    count = Counter(line["status"] for line in results)
    faces = sum(face["restored"] for line in results for face in line["faces"])
    parts = [f"{count['ok']} restored ({faces} {'face' if faces == 1 else 'faces'})"]
    if count["no_face"]:
        parts.append(f"{count['no_face']} without a face, copied")
    if count["failed"]:
        parts.append(f"{count['failed']} failed")
    if kept:
        parts.append(f"{kept} kept from before")
    photos = "1 photo" if len(results) == 1 else f"{len(results)} photos"
    print(f"{photos}: {', '.join(parts)}; results in {output}")  # noqa: T201


def restore_file(
    job: Job, restorer: Any, options: Options, output: Path, on_face: Callable[[int, int], None] | None = None
) -> dict:
    """Restores one file and writes its results; a failure is an answer, not an exception.

    Returns:
        Its line of `results.jsonl`.
    """
    start = time.perf_counter()
    line: dict[str, Any] = {
        "input": str(job.source),
        "output": None,
        "status": "failed",
        "error": None,
        "width": None,
        "height": None,
        "faces": [],
        "seconds": 0.0,
    }
    written: list[Path] = []
    try:
        photo = read_photo(job.source)
        line["height"], line["width"] = photo.pixels.shape[:2]
        restored = restorer.restore(photo.pixels, options, on_face)
        wrong = [one.error for one in restored.faces if one.image is None]
        if not wrong:
            similarities = restorer.similarities(restored.faces)
            _write_faces(job, restored.faces, output, written)
            _write_result(job, photo, restored, options)
            line["output"] = str(job.target)
            line["status"] = "ok" if restored.faces else "no_face"
        else:
            similarities = [None] * len(restored.faces)
            line["error"] = f"{job.source}: {len(wrong)} of {len(restored.faces)} faces: {wrong[0]}"
        line["faces"] = [
            _describe(one, similarity, restorer.fidelity) for one, similarity in zip(restored.faces, similarities)
        ]
    except MemoryError:
        line["error"] = f"{job.source}: not enough memory"
    except (ImageError, ValueError, RuntimeError, OSError, cv2.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        line["error"] = reason if isinstance(error, ImageError) else f"{job.source}: {reason[:300]}"
    if line["status"] == "failed":
        for path in written:
            path.unlink(missing_ok=True)
    line["seconds"] = round(time.perf_counter() - start, 3)
    return line


def _describe(one: RestoredFace, similarity: float | None, fidelity: float | None) -> dict:
    described = {
        "box": [round(float(value), 1) for value in one.face.box],
        "landmarks": [[round(float(x), 2), round(float(y), 2)] for x, y in one.face.landmarks],
        "score": round(one.face.score, 4),
        "restored": one.image is not None and one.left_alone is None,
        "identity_similarity": None if similarity is None else round(float(similarity), 4),
        "fidelity": fidelity if one.aligned.fidelity is None else round(one.aligned.fidelity, 4),
    }
    return described | one.remarks()


def _write_faces(job: Job, faces: Sequence[RestoredFace], output: Path, written: list[Path]) -> None:
    for i, one in enumerate(faces):
        for kind, crop in (("input", one.aligned.image), ("restored", one.image)):
            path = output / "faces" / f"{job.name}_{i}_{kind}.png"
            content = cv2.imencode(".png", crop, [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes()
            try:
                write_file(path, content)
            except OSError as error:
                raise ImageError(f"{path}: cannot be written ({error.strerror or error})") from None
            written.append(path)


def _write_result(job: Job, photo: Any, restored: Restored, options: Options) -> None:
    if not restored.faces and options.scale == 1 and job.source.suffix == job.target.suffix:
        try:
            write_file(job.target, job.source.read_bytes())  # nothing to change: the very same file
        except OSError as error:
            raise ImageError(f"{job.target}: cannot be written ({error.strerror or error})") from None
        return
    alpha = photo.alpha
    if alpha is not None and alpha.shape != restored.image.shape[:2]:
        alpha = enlarge(alpha, restored.image.shape[0] / alpha.shape[0])
        if alpha.shape != restored.image.shape[:2]:
            alpha = cv2.resize(alpha, restored.image.shape[1::-1])
    write_photo(job.target, replace(photo, pixels=restored.image, alpha=alpha))


# --- results.jsonl, and what --resume needs to know ------------------------------------------------------------------


def _finished(output: Path, jobs: Sequence[Job], settings: str) -> dict[str, dict]:
    """Lines of an earlier run that still hold: recorded, same settings, input and output unchanged. By input."""
    recorded = {line["input"]: line for line in _read_lines(output / RESULTS) if "input" in line}
    states = {line["input"]: line for line in _read_lines(output / STATE) if "input" in line}
    done = {}
    for job in jobs:
        line, state = recorded.get(str(job.source)), states.get(str(job.source))
        if line is None or state is None or line.get("status") not in ("ok", "no_face"):
            continue
        if state.get("settings") != settings or line.get("output") != str(job.target):
            continue
        if state.get("source") == _file_digest(job.source) and state.get("target") == _file_digest(job.target):
            done[str(job.source)] = line
    return done


def _read_lines(path: Path) -> list[dict]:
    """The whole lines of a file of JSON lines; a half one (a full disk) is left out."""
    try:
        text = path.read_bytes()
    except OSError:
        return []
    lines = []
    for raw in text.split(b"\n"):
        try:
            value = json.loads(raw)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def _start_records(output: Path, jobs: Sequence[Job], done: dict[str, dict]) -> None:
    """Leaves exactly the finished inputs in both records."""
    states = {line["input"]: line for line in _read_lines(output / STATE) if "input" in line}
    kept = [str(job.source) for job in jobs if str(job.source) in done]
    write_file(output / STATE, b"".join(_line(states[name]) for name in kept))
    write_file(output / RESULTS, b"".join(_line(done[name]) for name in kept))


def _record(output: Path, job: Job, line: dict, settings: str) -> None:
    """Adds an input to both records, each line with one write, so that a killed program leaves whole lines."""
    if line["status"] != "failed":
        state = {
            "input": line["input"],
            "settings": settings,
            "source": _file_digest(job.source),
            "target": _file_digest(job.target),
        }
        _append(output / STATE, _line(state))
    _append(output / RESULTS, _line(line))


def _line(value: dict) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _append(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(handle).st_size
        if os.write(handle, content) != len(content):
            os.ftruncate(handle, size)
            raise PredictError(f"{path}: cannot be written (no space left on device)")
    finally:
        os.close(handle)


def _file_digest(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() if _HAS_FILE_DIGEST else _digest(stream.read())
    except OSError:
        return None


_HAS_FILE_DIGEST = hasattr(hashlib, "file_digest")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
