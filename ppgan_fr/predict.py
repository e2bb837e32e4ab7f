"""Restore photos: every face of every picture in a folder, the rest of each picture left as it is.

  python tools/predict.py --input photo.jpg --output restored
  python tools/predict.py --input album/ --recursive --output restored --report
  find archive -name '*.tif' -print0 | python tools/predict.py --input - --output restored --resume

Writes OUTPUT/restored/<name>, OUTPUT/faces/<name>_<i>_{input,restored}.png and OUTPUT/results.jsonl (a line per input).
OUTPUT/manifest.sqlite is what --resume goes by.
Exit code 0: all done; 1: some inputs failed, each on a line with its reason, or the disk is full; 2: wrong usage,
configuration or weights; 130, 143: stopped by Ctrl-C or SIGTERM. Whatever ended it, --resume goes on.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from ppgan_fr.batch import Stop, patiently, staged
from ppgan_fr.face.image_io import (
    ImageError,
    Photo,
    list_images,
    output_kind,
    output_suffix,
    parse_photo,
    read_content,
    shown,
    write_file,
    write_photo,
)
from ppgan_fr.face.paste import enlarge
from ppgan_fr.face.types import COLOUR, IDENTITY, Restored, RestoredFace
from ppgan_fr.face.xmp import mark_as_enhanced
from ppgan_fr.manifest import Done, Manifest, ManifestError, digest, file_digest, recorded_names, stamp, still_done

DEFAULT_CONFIG = "configs/gfpgan_mobile.yaml"
RESULTS = "results.jsonl"
MAX_NAME = 180
"""Bytes of a face file's name before its number; file systems allow 255 in all."""

_HICCUPS = """
EIO EAGAIN EINTR EBUSY ESTALE ETIMEDOUT ENETDOWN ENETUNREACH EHOSTDOWN EHOSTUNREACH ECONNRESET ECONNABORTED ENFILE
EMFILE ENOBUFS EREMOTEIO
"""
TRANSIENT = frozenset(getattr(errno, name) for name in _HICCUPS.split() if hasattr(errno, name))
"""What a network share or a loose cable says and may not say again a second later."""
_QUICKLY = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
"""For face files: smaller than zlib's ordinary level 2 and a quarter less time, faces being noise to a dictionary."""
OF_ONE_FILE = frozenset({errno.EFBIG, errno.ENAMETOOLONG, errno.EISDIR})
"""Reasons for which one file cannot be written and the next one can."""


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
    provenance: bool = False
    """Note in the result that and how it was restored."""
    network: str = "unknown"
    """Its name, for that note."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of `tools/predict.py`."""
    parser.add_argument(
        "--input",
        required=True,
        metavar="PATH",
        help="a picture, a folder of pictures, a list of them (.txt: one path a line, or with NUL between), - for a"
        " list on standard input",
    )
    parser.add_argument("--recursive", action="store_true", help="the pictures in the folder's folders, too")
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
        default="warn",
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
    parser.add_argument(
        "--provenance",
        choices=("on", "off"),
        default="on",
        help="note in the XMP of each restored photo that and how it was restored (IPTC digital source type, history)",
    )


def run(args: argparse.Namespace) -> int:
    """Does the whole job.

    Returns:
        0 when every input was restored or has no face, 1 when some failed or there is no space left, 130 or 143 when it
        was told to stop.

    Raises:
        ValueError: of this package, when nothing can be done: no input, no place for the output, a wrong configuration
        or weights.
    """
    output = Path(args.output)
    check_arguments(args)
    sources, folder = inputs(args.input, output, args.recursive)
    jobs = plan(sources, output, folder, recorded_names(output) if args.resume else {})
    prepare_output(output)
    restorer, options = ready(args)
    return process(jobs, restorer, options, output, resume=args.resume, report=args.report)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses numbers that make no sense.

    Raises:
        PredictError: with the argument.
    """
    if args.upscale is not None and not 0 < args.upscale <= 8:
        raise PredictError(f"--upscale must be above 0 and at most 8, got {args.upscale:g}")
    if isinstance(args.fidelity, float) and not 0 <= args.fidelity <= 1:
        raise PredictError(f"--fidelity must be between 0 and 1, got {args.fidelity:g}")


def ready(args: argparse.Namespace) -> tuple[Any, Options]:
    """The networks that the arguments name, loaded, and what is done to each photo.

    Raises:
        ValueError: of this package, for a wrong configuration or weights.
    """
    from ppgan_fr.config import load_config
    from ppgan_fr.mixed_guidance import Guide  # Paddle is loaded only once the arguments make sense
    from ppgan_fr.restorer import load_restorer

    guide = Guide(args.guide, args.guide_level, args.guide_mode) if args.guide else None
    config = load_config(args.config, args.override, without=("recipe", "data", "train", "evaluate"), deferred=True)
    restorer = load_restorer(
        config,
        (),
        args.weights,
        args.fidelity,
        aligned=args.aligned,
        guide=guide,
        identity=args.identity,
        colour=args.colour,
    )
    scale = restorer.scale if args.upscale is None else args.upscale
    options = Options(scale, args.only_center, args.aligned, args.provenance == "on", config.generator.arch)
    return restorer, options


def fidelity(text: str) -> float | str:
    """`--fidelity`: a number, or `auto`."""
    return text if text == "auto" else float(text)


def inputs(given: str, output: Path, recursive: bool = False) -> tuple[list[Path], Path | None]:
    """The pictures that `--input` stands for, and the folder whose inner folders the results repeat.

    Raises:
        ImageError, PredictError: there is nothing, or the results would overwrite the inputs.
    """
    path = Path(given)
    folder = path if recursive and path.is_dir() else None
    if given == "-":
        sources = _listed(sys.stdin.buffer.read(), "standard input")
    elif path.suffix.lower() == ".txt" and path.is_file():
        sources = _listed(read_content(path), shown(path))
    else:
        sources = list_images(path, recursive=recursive, without=(output / "restored", output / "faces"))
    parents = {source.parent for source in sources}
    own = {(output / name).resolve() for name in ("restored", "faces")}
    for parent in parents:
        if not own.isdisjoint({parent.resolve(), *parent.resolve().parents}):
            raise PredictError(f"{shown(parent)}: the results would overwrite these inputs; choose another --output")
    return sources, folder


def _listed(content: bytes, name: str) -> list[Path]:
    """The paths of a list, each once; relative ones start from the current folder, as on the command line."""
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    paths = list(dict.fromkeys(Path(os.fsdecode(line)) for line in lines if line.strip()))
    if not paths:
        raise PredictError(f"{name}: the list is empty")
    return paths


def plan(
    sources: Iterable[Path],
    output: Path,
    folder: Path | None = None,
    known: dict[str, tuple[str, str]] | None = None,
) -> list[Job]:
    """Gives every input its names; two inputs never share one (`a.jpg` and `a.png` have different face files).

    Args:
        sources: the inputs.
        output: folder of the results.
        folder: repeat the folders below this one; None: all results lie side by side.
        known: names that inputs have from an earlier run; they keep them.
    """
    sources, known = list(sources), known or {}
    places = [_place(path, folder) for path in sources]
    stems = Counter((place, path.stem.lower()) for place, path in zip(places, sources))
    names = {name.lower() for name, _ in known.values()}
    targets = {target.lower() for _, target in known.values()}
    jobs = []
    for place, path in zip(places, sources):
        if str(path) in known:
            name, target = known[str(path)]
            jobs.append(Job(path, name, Path(target)))
            continue
        stem, suffix = _short(path.stem), output_suffix(path)
        longer = f"{stem}_{path.suffix[1:]}"
        alone = stems[place, path.stem.lower()] == 1
        name = _free([str(place / stem)] if alone else [], str(place / longer), names)
        target = output / "restored" / place / stem
        jobs.append(Job(path, name, Path(_free([str(target)], str(target.with_name(longer)), targets, suffix))))
    return jobs


def _place(path: Path, folder: Path | None) -> Path:
    return Path() if folder is None else path.parent.relative_to(folder)


def _short(stem: str) -> str:
    """A stem that leaves room for what is put behind it."""
    raw = os.fsencode(stem)
    return stem if len(raw) <= MAX_NAME else f"{os.fsdecode(raw[: MAX_NAME - 9])}_{digest(raw)[:8]}"


def _free(first: list[str], then: str, taken: set[str], suffix: str = "") -> str:
    """The first of `first`, `then`, `then_2`, `then_3`, ... that nobody has; taken from now on."""
    number = 1
    candidates = [*first, then]
    while (chosen := candidates.pop(0) + suffix).lower() in taken:
        if not candidates:
            number += 1
            candidates.append(f"{then}_{number}")
    taken.add(chosen.lower())
    return chosen


def prepare_output(output: Path) -> None:
    """Makes the folders and checks that files can be written there, before any work is done.

    Raises:
        PredictError: with the folder and the reason.
    """
    try:
        for folder in (output / "restored", output / "faces"):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (output, output / "restored", output / "faces"):
            write_file(folder / ".probe", b"")
            (folder / ".probe").unlink()
        for left in output.rglob(".*.part"):  # from a run that was killed
            left.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise PredictError(f"{shown(error.filename or output)}: cannot write results here ({reason})") from None


# --- the job ---------------------------------------------------------------------------------------------------------


@dataclass
class _Opened:
    """A photo as it was read, or why not."""

    content: str = ""
    """Checksum of the file."""
    stamp: tuple[int, int] | None = None
    raw: bytes = b""
    photo: Photo | None = None
    same_as: str | None = None
    """An earlier input with the same bytes; then nothing else is there."""
    error: str | None = None
    seconds: float = 0.0


@dataclass
class _Outcome:
    """What became of a photo."""

    line: dict
    opened: _Opened
    written: list[Path] = field(default_factory=list)
    restored: Restored | None = None
    errno: int | None = None
    """Why its files could not be written, where that was it."""
    needed: int = 0
    """About as many bytes as were to be written."""


class _EndError(Exception):
    """The job cannot go on: no space, no more right to write. One line."""


def process(
    jobs: Sequence[Job],
    restorer: Any,
    options: Options,
    output: Path,
    *,
    resume: bool = False,
    report: bool = False,
) -> int:
    """Restores the jobs in order; the next is read and the last ones are written meanwhile.

    Each photo goes through the networks by itself, so its result depends on nothing but itself. It is entered in
    the manifest and in `results.jsonl` when its files are complete.

    Args:
        jobs: of `plan`.
        restorer: a `ppgan_fr.restorer.Restorer`, or anything with its `restore`, `similarities`, `fidelity` and
        `settings`.
        options: the same for all.
        output: folder, prepared.
        resume: keep results that are recorded and whose files are still what they were.
        report: write `report.html` at the end.

    Returns:
        0, 1 when some inputs failed or the results cannot be written any more, 130 or 143 when a signal ended it.

    Raises:
        ManifestError: another run writes into this folder, or its manifest is damaged.
    """
    what = [restorer.settings, options.scale, options.only_center, options.aligned, options.provenance]
    settings = digest(json.dumps(what).encode())
    with Manifest(output, anew=not resume) as manifest, Stop() as stop:
        wanted = [(job.source, job.name, job.target) for job in jobs]
        kept = still_done(wanted, manifest.done(), settings, output / "faces")
        manifest.keep_only(kept)
        begun = manifest.begun()
        # What was under way whenever the program died comes last: it may be what the program died of.
        todo = sorted((job for job in jobs if str(job.source) not in kept), key=lambda job: _suspect(begun, job))
        run = _Run(restorer, options, output, manifest, settings, kept, stop)
        try:
            run.start(jobs)
            run.through(todo)
            run.end(jobs)
        except (_EndError, ManifestError, OSError) as error:
            reason = f"{shown(error.filename or output)}: {error.strerror}" if isinstance(error, OSError) else error
            _say(f"{reason}; {run.progress_made(jobs)}")
            return 1
        if stop:
            _say(f"stopped; {run.progress_made(jobs)}")
            return 128 + stop.signal
        if report:
            from ppgan_fr.report import write_report

            lines = [run.lines[str(job.source)] for job in jobs]
            try:
                print(f"report: {write_report(lines, output)}")  # noqa: T201
            except OSError as error:
                _say(f"{output}: the report cannot be written ({error.strerror})")
                return 1
        _say_how_it_went(run, len(kept), output)
        return 1 if any(line["status"] == "failed" for line in run.lines.values()) else 0


def _suspect(begun: dict[str, int], job: Job) -> bool:
    return begun.get(str(job.source), 0) >= 3


class _Run:
    """One run over many photos: the stages of a photo, and what has been done."""

    def __init__(
        self,
        restorer: Any,
        options: Options,
        output: Path,
        manifest: Manifest,
        settings: str,
        kept: dict[str, Done],
        stop: Stop,
    ):
        self.restorer, self.options, self.output = restorer, options, output
        self.manifest, self.settings, self.stop = manifest, settings, stop
        self.lines = {source: done.line for source, done in kept.items()}
        self.names = {source: done.name for source, done in kept.items()}
        self.copies = 0
        self.first = {
            (done.content, output_kind(done.line["output"])): source
            for source, done in kept.items()
            if done.same_as is None
        }
        """Input that is or will be restored, by content and kind of result. Only the reading thread touches it."""
        self.one_at_a_time = threading.Lock()
        self.on_face: Callable[[int, int], None] | None = None

    def start(self, jobs: Sequence[Job]) -> None:
        """Leaves exactly the lines of what is kept in `results.jsonl`."""
        self._write_lines(jobs)

    def _write_lines(self, jobs: Sequence[Job]) -> None:
        lines = [self.lines[str(job.source)] for job in jobs if str(job.source) in self.lines]
        write_file(self.output / RESULTS, b"".join(map(_line, lines)))

    def end(self, jobs: Sequence[Job]) -> None:
        """Puts the lines in the order of the inputs, whatever interruptions there were."""
        if [line["input"] for line in _read_lines(self.output / RESULTS)] != [str(job.source) for job in jobs]:
            self._write_lines(jobs)

    def progress_made(self, jobs: Sequence[Job]) -> str:
        """For the line that says that the job ended early."""
        done = sum(line["status"] != "failed" for line in self.lines.values())
        return f"{done} of {len(jobs)} photos are done, the same command with --resume goes on"

    def through(self, jobs: Sequence[Job]) -> None:
        """Takes the photos through the stages.

        Raises:
            _EndError, ManifestError, OSError: results cannot be written any more.
        """
        loud = sys.stderr.isatty()
        with tqdm(
            total=len(jobs) + len(self.lines),
            initial=len(self.lines),
            unit="photo",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.1 if loud else 10.0,
        ) as progress:

            def on_face(index: int, count: int) -> None:
                self.stop.check()
                progress.set_postfix_str(f"face {index}/{count}", refresh=False)
                progress.update(0)

            def work(job: Job, opened: _Opened) -> _Outcome:
                progress.set_description(shown(job.source.name)[-30:], refresh=False)
                return self.work(job, opened)

            self.on_face = on_face
            for job, outcome in staged(jobs, self.read, work, self.write, stop=self.stop):
                line = self.record(job, outcome)
                if line["status"] == "failed":
                    progress.write(line["error"], file=sys.stderr)
                progress.set_postfix_str("", refresh=False)
                progress.update()

    def read(self, job: Job, take: Callable[[int], None] | None = None, *, twins: bool = True) -> _Opened:
        """Reads and decodes a file, unless an earlier one has the same bytes."""
        start = time.perf_counter()
        opened = _Opened()
        self.manifest.begin(str(job.source))
        try:
            opened.stamp = stamp(job.source)
            opened.raw = patiently(lambda: read_content(job.source), TRANSIENT)
            opened.content = digest(opened.raw)
            first = self.first.setdefault((opened.content, output_kind(job.target)), str(job.source))
            if twins and first != str(job.source):
                return _Opened(opened.content, opened.stamp, same_as=first)
            opened.photo = parse_photo(opened.raw, job.source, on_size=take)
            if opened.photo.pages > 1:
                what = "pages" if opened.photo.metadata.container == "TIFF" else "frames"
                raise ImageError(
                    f"{shown(job.source)}: {opened.photo.pages} {what}; only files with one picture are restored"
                )
        except (ImageError, OSError, MemoryError) as error:
            opened.error, opened.photo = _reason(error, job), None
        opened.seconds = time.perf_counter() - start
        return opened

    def work(self, job: Job, opened: _Opened) -> _Outcome:
        """Finds and restores the faces."""
        line: dict[str, Any] = {
            "input": str(job.source),
            "output": None,
            "status": "failed",
            "error": opened.error,
            "width": None,
            "height": None,
            "faces": [],
            "seconds": opened.seconds,
        }
        outcome = _Outcome(line, opened)
        if opened.photo is None:
            return outcome
        start = time.perf_counter()
        line["height"], line["width"] = opened.photo.pixels.shape[:2]
        try:
            outcome.restored = self.restorer.restore(opened.photo.pixels, self.options, self.on_face)
        except (MemoryError, ValueError, RuntimeError, OSError, cv2.error) as error:
            line["error"] = _reason(error, job)
        line["seconds"] += time.perf_counter() - start
        return outcome

    def write(self, job: Job, outcome: _Outcome) -> _Outcome:
        """Writes the files of a restored photo; a failure leaves none of them."""
        if outcome.restored is not None:
            start = time.perf_counter()
            line, faces = outcome.line, outcome.restored.faces
            outcome.needed = outcome.restored.image.nbytes
            try:
                wrong = [one.error for one in faces if one.image is None]
                if wrong:
                    similarities = [None] * len(faces)
                    line["error"] = f"{shown(job.source)}: {len(wrong)} of {len(faces)} faces: {wrong[0]}"
                else:
                    with self.one_at_a_time:
                        similarities = self.restorer.similarities(faces)
                    self._write_faces(job, faces, outcome.written)
                    patiently(lambda: self._write_result(job, outcome.opened, outcome.restored), TRANSIENT)
                    line["output"] = str(job.target)
                    line["status"] = "ok" if faces else "no_face"
                line["faces"] = [_describe(*each, self.restorer.fidelity) for each in zip(faces, similarities)]
            except (ImageError, MemoryError, ValueError, RuntimeError, OSError, cv2.error) as error:
                line["status"], line["output"], line["error"] = "failed", None, _reason(error, job)
                outcome.errno = getattr(error, "errno", None)
            if line["status"] == "failed":
                for path in outcome.written:
                    path.unlink(missing_ok=True)
            line["seconds"] += time.perf_counter() - start
        outcome.restored = outcome.opened.photo = None
        outcome.opened.raw = b""
        outcome.line["seconds"] = round(outcome.line["seconds"], 3)
        return outcome

    def _write_faces(self, job: Job, faces: Sequence[RestoredFace], written: list[Path]) -> None:
        folder = self.output / "faces"
        for i, one in enumerate(faces):
            for kind, crop in (("input", one.aligned.image), ("restored", one.image)):
                content = cv2.imencode(".png", crop, _QUICKLY)[1].tobytes()
                written.append(_write(folder / f"{job.name}_{i}_{kind}.png", content))
        i = len(faces)  # of an earlier run that found more
        while (left := folder / f"{job.name}_{i}_input.png").exists():
            for path in (left, folder / f"{job.name}_{i}_restored.png"):
                path.unlink(missing_ok=True)
            i += 1

    def _write_result(self, job: Job, opened: _Opened, restored: Restored) -> None:
        photo, scale = opened.photo, self.options.scale
        changed = sum(one.left_alone is None for one in restored.faces)
        if not changed and scale == 1 and job.source.suffix.lower() == job.target.suffix.lower():
            _write(job.target, opened.raw)  # nothing to change: the very same file
            return
        alpha = photo.alpha
        if alpha is not None and alpha.shape != restored.image.shape[:2]:
            alpha = enlarge(alpha, restored.image.shape[0] / alpha.shape[0])
            if alpha.shape != restored.image.shape[:2]:
                alpha = cv2.resize(alpha, restored.image.shape[1::-1])
        metadata = photo.metadata
        if self.options.provenance and changed:
            metadata = mark_as_enhanced(metadata, changed, self.options.network)
        job.target.parent.mkdir(parents=True, exist_ok=True)
        write_photo(job.target, replace(photo, pixels=restored.image, alpha=alpha, metadata=metadata))

    def record(self, job: Job, outcome: _Outcome) -> dict:
        """Enters a photo in the manifest and in `results.jsonl`.

        Raises:
            _EndError: its files could not be written, and no file can.
        """
        if outcome.opened.same_as is not None:
            outcome = self._copy(job, outcome)
        if outcome.errno is not None and outcome.errno not in OF_ONE_FILE:
            self._try_to_write(outcome)
            outcome = self._alone(job)
        line = outcome.line
        done = Done(
            line,
            job.name,
            self.settings,
            outcome.opened.content,
            outcome.opened.stamp,
            None if line["output"] is None else stamp(job.target),
            "" if line["output"] is None else file_digest(job.target) or "",
            outcome.opened.same_as,
        )
        self.manifest.finish(str(job.source), done, str(job.target))
        _append(self.output / RESULTS, _line(line))
        self.lines[line["input"]], self.names[line["input"]] = line, job.name
        return line

    def _alone(self, job: Job) -> _Outcome:
        """The whole way of one photo at once."""
        return self.write(job, self.work(job, self.read(job, twins=False)))

    def _copy(self, job: Job, outcome: _Outcome) -> _Outcome:
        """Gives a photo the results of another one with the same bytes."""
        first = outcome.opened.same_as
        line = self.lines.get(first, {"status": "failed"})
        if line["status"] == "failed":
            return self._alone(job)
        start = time.perf_counter()
        copied = _Outcome({**line, "input": str(job.source), "output": str(job.target)}, outcome.opened)
        folder, name = self.output / "faces", self.names[first]
        pairs = [
            (folder / f"{name}_{i}_{kind}.png", folder / f"{job.name}_{i}_{kind}.png")
            for i in range(len(line["faces"]))
            for kind in ("input", "restored")
        ]
        try:
            for source, target in [*pairs, (Path(line["output"]), job.target)]:
                content = patiently(source.read_bytes, TRANSIENT)
                copied.needed = max(copied.needed, len(content))
                copied.written.append(_write(target, content))
        except (ImageError, OSError) as error:
            for path in copied.written:
                path.unlink(missing_ok=True)
            if isinstance(error, ImageError):
                copied.errno = error.errno
                copied.line.update(output=None, status="failed", error=str(error), faces=[])
                return copied
            return self._alone(job)  # somebody has taken the first one's files away
        self.copies += 1
        copied.line["seconds"] = round(time.perf_counter() - start, 3)
        return copied

    def _try_to_write(self, outcome: _Outcome) -> None:
        probe = self.output / "restored" / ".probe"
        try:
            write_file(probe, bytes(min(outcome.needed, 1 << 28)))
            probe.unlink()
        except OSError as error:
            raise _EndError(f"{shown(self.output)}: cannot be written ({error.strerror})") from None


def restore_file(
    job: Job, restorer: Any, options: Options, output: Path, on_face: Callable[[int, int], None] | None = None
) -> dict:
    """Restores one file and writes its results, without any record; a failure is an answer, not an exception.

    Returns:
        Its line of `results.jsonl`.
    """
    run = _Run(restorer, options, output, _NoManifest(), "", {}, Stop())  # type: ignore[arg-type]
    run.on_face = on_face
    return run._alone(job).line


class _NoManifest:
    def begin(self, _source: str) -> None:
        pass


def _write(path: Path, content: bytes) -> Path:
    def write() -> None:
        try:
            write_file(path, content)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, content)

    try:
        patiently(write, TRANSIENT)
    except OSError as error:
        raise ImageError(f"{shown(path)}: cannot be written ({error.strerror or error})", error.errno) from None
    return path


def _reason(error: BaseException, job: Job) -> str:
    if isinstance(error, MemoryError):
        return f"{shown(job.source)}: not enough memory"
    if isinstance(error, ImageError):
        return " ".join(str(error).split())
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{shown(job.source)}: {' '.join(str(text).split())[:300] or type(error).__name__}"


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


def _say_how_it_went(run: _Run, kept: int, output: Path) -> None:
    results = list(run.lines.values())
    count = Counter(line["status"] for line in results)
    faces = sum(face["restored"] for line in results for face in line["faces"])
    parts = [f"{count['ok']} restored ({faces} {'face' if faces == 1 else 'faces'})"]
    if count["no_face"]:
        parts.append(f"{count['no_face']} without a face, copied")
    if count["failed"]:
        parts.append(f"{count['failed']} failed")
    if run.copies:
        parts.append(f"{run.copies} the same as another")
    if kept:
        parts.append(f"{kept} kept from before")
    photos = "1 photo" if len(results) == 1 else f"{len(results)} photos"
    print(f"{photos}: {', '.join(parts)}; results in {shown(output)}")  # noqa: T201


def _say(text: str) -> None:
    print(f"ppgan-fr predict: {text}", file=sys.stderr)  # noqa: T201


# --- results.jsonl ---------------------------------------------------------------------------------------------------


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


def _line(value: dict) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _append(path: Path, content: bytes) -> None:
    """Adds a line with one write, so that a killed program leaves whole lines."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(handle).st_size
        if os.write(handle, content) != len(content):
            os.ftruncate(handle, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(handle)
