"""Restore the faces of a video; sound, subtitles, timing and everything outside the faces stay as they are.

  python tools/predict_video.py --input film.mp4 --output film_restored.mp4
  python tools/predict_video.py --input film.mp4 --output film_restored.mp4 --resume

Faces are followed from frame to frame and cut by smoothed landmarks, so that the restored face stands as still as the
filmed one. The picture is written in segments beside the output, which are joined with the copied sound at the end: a
killed run goes on with --resume where its last whole segment ended. The picture is encoded anew, by default at a
quality where the loss is hard to see (libx264, CRF 16; VP9 for .webm), without B-frames, every frame at its own time.
Exit code 0: done; 1: the input cannot be read or restored, one line says why; 2: wrong usage, configuration or weights.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ppgan_fr.export import sha256_of
from ppgan_fr.face.image_io import write_file
from ppgan_fr.face.tracks import GAP, WINDOW, TrackedFace, Tracks, is_cut, look_near, thumbnail
from ppgan_fr.face.types import AlignedFace, Restore
from ppgan_fr.predict import DEFAULT_CONFIG, Options

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
ENCODERS = {
    "libx264": {"preset": "medium", "bf": "0"},
    "libx265": {"preset": "medium", "bframes": "0", "x265-params": "bframes=0:log-level=error"},
    "libvpx-vp9": {"b": "0", "deadline": "good", "cpu-used": "3", "auto-alt-ref": "0", "lag-in-frames": "0"},
    "ffv1": {},
}
"""What is set for each encoder beside the quality. Without B-frames a frame's two time stamps are one."""
CRF = {"libx264": 16, "libx265": 18, "libvpx-vp9": 20}
SEGMENT = 50
"""Frames per segment: what a killed run loses at most."""
MEMORY = 4
"""Restored frames that the next one's details may be averaged with."""
SEEN = 128
"""Side at which two crops are compared: the noise of the film is averaged away, motion is not."""
STILL = 6.0
"""Difference of the input, in grey levels, at which a pixel counts as moved and is averaged no more."""
ADVICE = "with --skip-damaged what can be decoded is restored"


class VideoError(ValueError):
    """The command cannot be done as asked."""


class DamagedVideoError(Exception):
    """The input cannot be read or restored. One line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of `tools/predict_video.py`."""
    parser.description = __doc__
    parser.add_argument("--input", required=True, metavar="VIDEO", type=Path)
    parser.add_argument("--output", required=True, metavar="VIDEO", type=Path, help=" ".join(CONTAINERS))
    parser.add_argument("-c", "--config", default=DEFAULT_CONFIG, help="YAML file, or its name under configs/")
    parser.add_argument("-o", "--override", nargs="*", action="extend", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--weights", metavar="FILE", help="weights of the generator instead of the configuration's")
    parser.add_argument("--fidelity", type=float, metavar="0..1", help="closer to the input when higher")
    parser.add_argument("--codec", choices=ENCODERS, help="of the picture; default: libx264, libvpx-vp9 for .webm")
    parser.add_argument("--crf", type=int, metavar="N", help="quality, lower is better (16 with libx264)")
    parser.add_argument("--detect-every", type=int, default=5, metavar="N", help="look for new faces every N frames")
    parser.add_argument(
        "--skip-damaged", action="store_true", help="leave out what cannot be decoded instead of ending"
    )
    parser.add_argument("--resume", action="store_true", help="keep the segments that an interrupted run has finished")


def run(args: argparse.Namespace) -> int:
    """Does the whole job.

    Returns:
        0, or 1 when the input is no whole video.

    Raises:
        ValueError: of this package, for wrong usage, configuration or weights.
    """
    container = _check(args)
    try:
        import av
    except ModuleNotFoundError:
        raise VideoError("the Python package 'av' is missing (pip install -r requirements-video.txt)") from None
    try:
        with open_video(args.input) as source:
            stream = source.streams.video[0]
            print(describe(stream), file=sys.stderr)  # noqa: T201
        from ppgan_fr.restorer import load_restorer  # Paddle is loaded only once the arguments make sense

        restorer = load_restorer(args.config, args.override, args.weights, args.fidelity)
        codec = args.codec or ("libvpx-vp9" if container == "webm" else "libx264")
        crf = CRF.get(codec) if args.crf is None else args.crf
        job = Job(args.input, args.output, container, codec, crf, args.detect_every, args.skip_damaged)
        return restore_video(job, restorer, resume=args.resume)
    except DamagedVideoError as error:
        reason = str(error)
    except av.error.FFmpegError as error:
        reason = f"{error.filename or args.input}: {error.strerror}"
    print(f"ppgan-fr predict-video: {reason}", file=sys.stderr)  # noqa: T201
    return 1


def _check(args: argparse.Namespace) -> str:
    """Refuses what cannot work; returns the output's container."""
    if not args.input.is_file():
        raise VideoError(f"{args.input}: no such file")
    container = CONTAINERS.get(args.output.suffix.lower())
    if container is None:
        raise VideoError(f"{args.output}: the ending must be one of {' '.join(CONTAINERS)}")
    if args.codec and args.codec not in ("libvpx-vp9",) and container == "webm":
        raise VideoError(f"--codec {args.codec}: WebM holds VP9 only")
    if args.codec == "ffv1" and container != "matroska":
        raise VideoError("--codec ffv1: only .mkv holds it")
    if args.output.exists() and args.output.samefile(args.input):
        raise VideoError(f"{args.output}: is the input")
    if args.fidelity is not None and not 0 <= args.fidelity <= 1:
        raise VideoError(f"--fidelity must be between 0 and 1, got {args.fidelity:g}")
    if args.detect_every < 1:
        raise VideoError(f"--detect-every must be at least 1, got {args.detect_every}")
    if args.crf is not None and not 0 <= args.crf <= 63:
        raise VideoError(f"--crf must be between 0 and 63, got {args.crf}")
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_file(args.output.with_name(f".{args.output.name}.probe"), b"")
        args.output.with_name(f".{args.output.name}.probe").unlink()
    except OSError as error:
        raise VideoError(f"{args.output.parent}: cannot write here ({error.strerror})") from None
    return container


@dataclass(frozen=True)
class Job:
    """One video, and how it is done."""

    source: Path
    target: Path
    container: str = "mp4"
    codec: str = "libx264"
    crf: int | None = 16
    detect_every: int = 5
    skip_damaged: bool = False
    segment: int = SEGMENT
    memory: int = MEMORY

    @property
    def parts(self) -> Path:
        """Where segments wait until all are there."""
        return self.target.with_name(f".{self.target.name}.parts")


# --- reading ---------------------------------------------------------------------------------------------------------


def open_video(path: Path) -> Any:
    """Opens a video for reading.

    Raises:
        DamagedVideoError: it is none, or has no picture.
    """
    import av

    try:
        source = av.open(str(path), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DamagedVideoError(f"{path}: not a video that can be read ({reason})") from None
    if not source.streams.video:
        source.close()
        raise DamagedVideoError(f"{path}: there is no picture in it")
    stream = source.streams.video[0]
    if stream.codec_context is None or not stream.codec_context.width:
        source.close()
        raise DamagedVideoError(f"{path}: its picture is in a form that is not known here")
    return source


def describe(stream: Any) -> str:
    """One line about a video stream."""
    context = stream.codec_context
    rate = stream.average_rate or stream.guessed_rate
    frames = f", about {count} frames" if (count := expected_frames(stream)) else ""
    return f"{context.width} x {context.height}, {context.name}, {float(rate or 0):g} frames/s{frames}"


def expected_frames(stream: Any) -> int | None:
    """How many frames the container promises; None when it does not say."""
    if stream.frames:
        return int(stream.frames)
    rate = stream.average_rate or stream.guessed_rate
    if stream.duration and rate:
        return round(float(stream.duration * stream.time_base * rate))
    if stream.container.duration and rate:
        return round(float(stream.container.duration / 1_000_000 * rate))
    return None


def frames_of(job: Job, source: Any, said: list[str]) -> Iterator[Any]:
    """Decodes the first video stream, frame after frame, each with a time stamp that is larger than the last.

    Args:
        job: names the file.
        source: opened by `open_video`.
        said: messages about what was left out are added here.

    Raises:
        DamagedVideoError: something cannot be decoded or the file ends too early, and `skip_damaged` is not set.
    """
    import av

    stream = source.streams.video[0]
    stream.thread_type = "AUTO"
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    step = max(1, round(1 / (rate * stream.time_base)))
    last: int | None = None
    lost = 0
    packets = source.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            decoded = packet.decode()
        except av.error.FFmpegError as error:
            lost += 1
            if not job.skip_damaged:
                where = f"{job.source}: damaged after {_seconds(stream, last)} s ({error.strerror})"
                raise DamagedVideoError(f"{where}; {ADVICE}") from None
            if lost > 10_000:
                break
            continue
        for frame in decoded:
            if frame.is_corrupt and not job.skip_damaged:
                raise DamagedVideoError(f"{job.source}: a damaged frame after {_seconds(stream, last)} s; {ADVICE}")
            if frame.pts is None:
                frame.pts = 0 if last is None else last + step
            if last is not None and frame.pts <= last:
                continue  # the same moment twice: players show one of them
            last = frame.pts
            yield frame
    if last is None:
        raise DamagedVideoError(f"{job.source}: no frame of it can be decoded")
    promised = stream.duration or (
        None if source.duration is None else round(source.duration / 1_000_000 / stream.time_base)
    )
    if promised and (promised + (stream.start_time or 0) - last - step) * stream.time_base > max(
        1.0, 3 * step * stream.time_base
    ):
        message = f"{job.source}: ends after {_seconds(stream, last)} s, too early: it has been cut off"
        if not job.skip_damaged:
            raise DamagedVideoError(f"{message}; {ADVICE}")
        said.append(message)
    if lost:
        said.append(f"{job.source}: {lost} damaged packets were left out")


def _end(source: Any, stream: Any) -> float:
    """When the picture ends according to the container, in seconds; 0 when it does not say."""
    start = float((stream.start_time or 0) * stream.time_base)
    if stream.duration:
        return start + float(stream.duration * stream.time_base)
    return start + (source.duration or 0) / 1_000_000


def _seconds(stream: Any, pts: int | None) -> str:
    return f"{float((pts or 0) * stream.time_base):.1f}"


# --- pixels ----------------------------------------------------------------------------------------------------------

_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""Colour matrix of a stream (ITU-T H.273) -> swscale's number for it."""


@dataclass(frozen=True)
class Pixels:
    """How the frames of a video become upright BGR pictures and back."""

    colours: dict[str, int]
    rotation: int
    """Quarter turns, counter-clockwise, that make a frame upright."""
    deep: bool

    @classmethod
    def of(cls, frame: Any) -> Pixels:
        """What a decoded frame says of itself; high definition without a word is BT.709, anything smaller BT.601."""
        matrix = _MATRICES.get(int(frame.colorspace), 1 if frame.height >= 720 else 5)
        full = 2 if int(frame.color_range) == 2 or frame.format.name.startswith("yuvj") else 1
        deep = max(component.bits for component in frame.format.components) > 8
        return cls({"matrix": matrix, "range": full}, round(frame.rotation / 90) % 4, deep)

    def picture(self, frame: Any) -> np.ndarray:
        """(H, W, 3) BGR, uint8 or (from more than 8 bits) uint16, upright."""
        rgb = frame.reformat(
            format="bgr48le" if self.deep else "bgr24",
            src_colorspace=self.colours["matrix"],
            dst_colorspace=self.colours["matrix"],
            src_color_range=self.colours["range"],
            dst_color_range=2,
            interpolation="BICUBIC",
        )
        return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), self.rotation))

    def changed(self, frame: Any, before: np.ndarray, after: np.ndarray) -> Any:
        """A copy of a frame in which the pixels that differ between two pictures are those of the second."""
        import av

        before, after = (np.rot90(picture, -self.rotation) for picture in (before, after))
        mask = (before != after).any(2)
        name = "bgr48le" if self.deep else "bgr24"
        painted = av.VideoFrame.from_ndarray(np.ascontiguousarray(after), format=name).reformat(
            format=frame.format.name,
            src_colorspace=self.colours["matrix"],
            dst_colorspace=self.colours["matrix"],
            src_color_range=2,
            dst_color_range=self.colours["range"],
            interpolation="BICUBIC",
        )
        result = av.VideoFrame(frame.width, frame.height, frame.format.name)
        for old, new, out in zip(frame.planes, painted.planes, result.planes):
            target = _samples(out, self.deep)
            target[:] = _samples(old, self.deep)
            here = _reduced(mask, target.shape)
            target[here] = _samples(new, self.deep)[here]
        result.pts, result.time_base = frame.pts, frame.time_base
        for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
            setattr(result, name, getattr(frame, name))
        return result


def _samples(plane: Any, deep: bool) -> np.ndarray:
    """A view of a plane, (H, W) or, for packed formats, (H, W * channels)."""
    kind = np.dtype("<u2") if deep else np.dtype(np.uint8)
    rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)
    return rows[:, : plane.width]


def _reduced(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask at the size of a plane: a sample of colour is changed when one of its pixels is."""
    if mask.shape == shape:
        return mask
    down, across = -(-mask.shape[0] // shape[0]), -(-mask.shape[1] // shape[1])
    padded = np.zeros((shape[0] * down, shape[1] * across), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return padded.reshape(shape[0], down, shape[1], across).any((1, 3))


# --- restoring -------------------------------------------------------------------------------------------------------


class SteadyFaces:
    """Restores the faces of one frame after the other, so that what the network adds does not flicker.

    A restored crop is split into the coarse picture that the input shows (`SEEN` pixels wide, where motion is seen but
    noise is not) and details. The details are averaged with those of the last frames, wherever the coarse picture has
    not changed since; the coarse picture is never averaged, so nothing lags. Only the last `MEMORY` frames count, so
    that a run that goes on after a kill gives the same bytes.
    """

    def __init__(self, restorer: Any, memory: int = MEMORY):
        """`restorer` is a `ppgan_fr.restorer.Restorer`, or anything with its `restore` that `replace` can change."""
        # Least squares: the median of facexlib's solver picks other points in every frame, and the crop jumps.
        self.restorer = replace(restorer, template=replace(restorer.template, solver="umeyama"))
        self.memory = memory
        self._details: dict[int, deque[tuple[int, np.ndarray, np.ndarray]]] = {}

    def restore(self, index: int, image: np.ndarray, faces: list[TrackedFace]) -> np.ndarray:
        """Restores the tracked faces of frame number `index`, (H, W, 3) BGR; returns a new picture."""
        for tracked in sorted(faces, key=lambda one: -float(one.face.box[2] * one.face.box[3])):
            one = replace(
                self.restorer,
                detect_faces=lambda _, face=tracked.face: [face],
                restore_faces=self._steady(index, tracked, self.restorer.restore_faces),
            )
            image = one.restore(image, Options()).image
        self._details = {key: past for key, past in self._details.items() if past[-1][0] >= index - self.memory}
        return image

    def _steady(self, index: int, tracked: TrackedFace, restore: Restore) -> Restore:
        def steady(crops: list[AlignedFace]) -> list[np.ndarray]:
            (crop,) = crops
            (answer,) = restore(crops)
            if not np.isfinite(answer).all():
                return [answer]
            seen = crop.image.astype(np.float32)
            small = cv2.resize(seen, (SEEN, SEEN), interpolation=cv2.INTER_AREA)
            coarse = cv2.resize(small, answer.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            restored = coarse + self._averaged(index, tracked.track, small, answer - coarse)
            return [np.clip(seen + tracked.fade * (restored - seen), 0, 255)]

        return steady

    def _averaged(self, index: int, track: int, small: np.ndarray, details: np.ndarray) -> np.ndarray:
        past = self._details.setdefault(track, deque(maxlen=max(1, self.memory)))
        total, weights = details.copy(), np.ones(details.shape[:2], np.float32)
        for number, before, earlier in past:
            if index - number <= self.memory:
                moved = np.abs(small - before).max(2) / STILL
                same = cv2.resize(np.exp(-moved * moved), weights.shape[::-1], interpolation=cv2.INTER_LINEAR)
                total += same[:, :, None] * earlier
                weights += same
        past.append((index, small, details))
        return total / weights[:, :, None]


def restore_video(job: Job, restorer: Any, *, resume: bool = False, progress: bool = True) -> int:
    """Restores a video into `job.target`.

    Args:
        job: input, output, and how.
        restorer: see `SteadyFaces`; also its `detect_faces` and `settings`.
        resume: keep whole segments of an earlier run of the same job.
        progress: show a bar.

    Returns:
        0.

    Raises:
        DamagedVideoError: the input cannot be read to its end.
    """
    with _alone(job):
        return _restore(job, restorer, resume, progress)


def _restore(job: Job, restorer: Any, resume: bool, progress: bool) -> int:
    done = _start(job, restorer, resume)
    said: list[str] = []
    with open_video(job.source) as source:
        stream = source.streams.video[0]
        total = expected_frames(stream)
        with tqdm(total=total, unit="frame", file=sys.stderr, dynamic_ncols=True, disable=not progress) as bar:
            frames, faces = _restore_frames(job, restorer, frames_of(job, source, said), stream, done, bar)
    join(job, said)
    shutil.rmtree(job.parts, ignore_errors=True)
    for message in said:
        print(message, file=sys.stderr)  # noqa: T201
    kept = f", {done * job.segment} of them kept from before" if done else ""
    print(f"{frames} frames{kept}, {faces} faces restored; {job.target}")  # noqa: T201
    return 0


@contextlib.contextmanager
def _alone(job: Job) -> Iterator[None]:
    """Keeps a second run from the same output; the system lets go when this process ends, however it ends."""
    path = job.target.with_name(f".{job.target.name}.lock")
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise VideoError(f"{job.target}: another run is writing it") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _start(job: Job, restorer: Any, resume: bool) -> int:
    """Makes the folder of segments ready; returns how many of them are whole and belong to this very job."""
    import av

    facts = {
        "input": sha256_of(job.source),
        "settings": hashlib.sha256(str(restorer.settings).encode()).hexdigest(),
        "encoder": [job.codec, job.crf, ENCODERS[job.codec], av.__version__],
        "frames": [job.segment, job.detect_every, job.skip_damaged, WINDOW, job.memory, SEEN, STILL],
    }
    record = job.parts / "job.json"
    try:
        same = json.loads(record.read_text(encoding="utf-8")) == facts
    except (OSError, ValueError):
        same = False
    if not (resume and same):
        shutil.rmtree(job.parts, ignore_errors=True)
        job.parts.mkdir(parents=True)
        write_file(record, json.dumps(facts).encode())
    for left in job.parts.glob("*.part"):
        left.unlink()
    done = 0
    while (job.parts / f"{done:06d}_{job.segment}.nut").is_file():
        done += 1
    for path in job.parts.glob("*.nut"):
        if int(path.name[:6]) >= done:
            path.unlink()  # a last, short segment: it is made again
    return done


def _restore_frames(
    job: Job, restorer: Any, frames: Iterator[Any], stream: Any, done: int, bar: Any
) -> tuple[int, int]:
    """Decodes, finds, follows and restores; frames before the first missing segment are only decoded.

    Faces are looked for a little before that segment, and restored there for the average's sake: from there on
    everything is as if the run had never been interrupted.
    """
    first = done * job.segment
    warm = max(0, first - job.memory)
    lead = max(0, warm - 2 * (WINDOW + GAP)) // job.detect_every * job.detect_every
    steady, tracks, writer = SteadyFaces(restorer, job.memory), Tracks(), Segments(job, stream, done)
    waiting: deque[tuple[int, Any]] = deque()
    pixels: Pixels | None = None
    before: np.ndarray | None = None
    count = faces = 0

    def finish(ready: list[list[TrackedFace]]) -> int:
        restored = 0
        for tracked in ready:
            index, frame = waiting.popleft()
            if index >= warm:
                result = frame
                if tracked:
                    image = pixels.picture(frame)
                    result = pixels.changed(frame, image, steady.restore(index, image, tracked))
                if index >= first:
                    writer.write(result, frame)
                    restored += len(tracked)
            bar.update()
        return restored

    try:
        for index, frame in enumerate(frames):
            count = index + 1
            if index + 1 < lead:
                bar.update()
                continue
            frame = writer.prepared(frame)
            pixels = pixels or Pixels.of(frame)
            image = pixels.picture(frame)
            small = thumbnail(image)
            cut = before is not None and is_cut(before, small)
            before = small
            if index < lead:
                bar.update()
                continue
            if cut or index % job.detect_every == 0:
                found = restorer.detect_faces(image)
            else:
                found = look_near(image, tracks.boxes(), restorer.detect_faces)
            waiting.append((index, frame))
            faces += finish(tracks.push(float(frame.pts * stream.time_base), found, cut))
            bar.set_postfix_str(f"{len(found)} faces", refresh=False)
        faces += finish(tracks.flush())
        writer.close()
    finally:
        writer.abandon()
    return count, faces


# --- writing ---------------------------------------------------------------------------------------------------------


class Segments:
    """Writes frames into one file after the other, each of which appears when it is whole."""

    def __init__(self, job: Job, stream: Any, done: int):
        """`done` segments are there already."""
        self.job, self.stream, self.number, self.count = job, stream, done, 0
        self.container: Any = None
        self.encoder: Any = None
        self.format: str | None = None

    def prepared(self, frame: Any) -> Any:
        """The frame in a form that the encoder takes: itself, nearly always."""
        if self.format is None:
            self.format = _encodable(self.job.codec, frame.format.name)
        if frame.format.name == self.format and frame.width == self.stream.codec_context.width:
            return frame
        pts, base = frame.pts, frame.time_base
        frame = frame.reformat(
            width=self.stream.codec_context.width, height=self.stream.codec_context.height, format=self.format
        )
        frame.pts, frame.time_base = pts, base
        return frame

    def write(self, frame: Any, source: Any) -> None:
        """Encodes the next frame; `source` is the frame it was made of, for its time."""
        if self.container is None:
            self._open(frame)
        frame.pts, frame.time_base = source.pts, self.stream.time_base
        frame.pict_type = 0  # the encoder decides, not the source
        self.container.mux(self.encoder.encode(frame))
        self.count += 1
        if self.count == self.job.segment:
            self._finish()

    def _open(self, frame: Any) -> None:
        import av

        job, context = self.job, self.stream.codec_context
        self.container = av.open(str(self._beside()), "w", format="nut")
        options = dict(ENCODERS[job.codec])
        if job.crf is not None:
            options["crf"] = str(job.crf)
        rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        self.encoder = self.container.add_stream(job.codec, rate=rate, options=options)
        target = self.encoder.codec_context
        target.width, target.height, target.pix_fmt = frame.width, frame.height, frame.format.name
        target.time_base = self.encoder.time_base = self.stream.time_base
        if context.sample_aspect_ratio:
            target.sample_aspect_ratio = context.sample_aspect_ratio
        for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
            setattr(target, name, int(getattr(context, name)))

    def _beside(self) -> Path:
        return self.job.parts / f"{self.number:06d}.part"

    def _finish(self) -> None:
        self.container.mux(self.encoder.encode(None))
        self.container.close()
        self.container = None
        self._beside().replace(self.job.parts / f"{self.number:06d}_{self.count}.nut")
        self.number, self.count = self.number + 1, 0

    def close(self) -> None:
        """Finishes the last segment."""
        if self.container is not None:
            self._finish()

    def abandon(self) -> None:
        """Lets go of an unfinished segment."""
        if self.container is not None:
            with contextlib.suppress(Exception):
                self.container.close()
            self.container = None


def _encodable(codec: str, name: str) -> str:
    """The pixel format for the encoder: the source's own, or the nearest one that holds it."""
    import av

    offered = [one.name for one in av.Codec(codec, "w").video_formats or ()]
    if name in offered and av.VideoFormat(name).is_planar:
        return name
    deep = max(component.bits for component in av.VideoFormat(name).components) > 8
    wanted = ("yuv420p10le", "yuv422p10le", "yuv444p10le") if deep else ("yuv420p",)
    if not deep and av.VideoFormat(name).is_rgb:
        wanted = ("yuv444p", "yuv420p")
    return next((one for one in wanted if one in offered), "yuv420p")


def join(job: Job, said: list[str]) -> None:
    """Puts the segments together with the source's sound, subtitles, chapters and metadata into the target.

    Packets are copied byte by byte. What the target's container does not hold is left out and named in `said`.
    """
    import av

    segments = sorted(job.parts.glob("*.nut"))
    beside = job.target.with_name(f".{job.target.name}.{os.getpid()}.part")
    options = {"avoid_negative_ts": "disabled"}
    with open_video(job.source) as source, av.open(str(segments[0])) as first:
        picture = source.streams.video[0]
        if job.container in ("mp4", "mov"):
            options["movflags"] = "+faststart"
            if picture.time_base.numerator == 1:
                options["video_track_timescale"] = str(picture.time_base.denominator)
        try:
            with av.open(str(beside), "w", format=job.container, options=options) as out:
                video, copies = _streams(job, source, first, out, said)
                out.metadata.update(source.metadata)
                with contextlib.suppress(Exception):
                    out.set_chapters(source.chapters())
                _mux(job, source, copies, segments, out, video, picture)
            beside.replace(job.target)
        finally:
            beside.unlink(missing_ok=True)


def _streams(job: Job, source: Any, first: Any, out: Any, said: list[str]) -> tuple[Any, dict[int, Any]]:
    """Makes the streams of the output in the order of the input's."""
    video, copies = None, {}
    picture = source.streams.video[0]
    for stream in source.streams:
        if stream.index == picture.index:
            video = out.add_stream_from_template(first.streams.video[0], opaque=True)
            video.time_base = picture.time_base
            matrix = _display_matrix(job, source)
            if matrix is not None:
                video.set_display_matrix(matrix)
            made = video
        else:
            try:
                made = copies[stream.index] = out.add_stream_from_template(stream)
            except Exception as error:  # noqa: BLE001 - every container has reasons of its own
                reason = " ".join(str(error).split()) or type(error).__name__
                said.append(f"{job.target}: {stream.type} stream {stream.index} is left out ({reason})")
                continue
        with contextlib.suppress(Exception):
            made.metadata.update(stream.metadata)
            made.disposition = stream.disposition
    return video, copies


def _display_matrix(job: Job, source: Any) -> list[int] | None:
    """How players turn the picture, as the source says it (nine numbers); None when it says nothing."""
    with open_video(job.source) as again:
        for frame in again.decode(again.streams.video[0]):
            for data in frame.side_data:
                if data.type.name == "DISPLAYMATRIX":
                    return np.frombuffer(bytes(data), np.int32).tolist()
            return None
    return None


def _mux(
    job: Job, source: Any, copies: dict[int, Any], segments: list[Path], out: Any, video: Any, picture: Any
) -> None:
    """Interleaves the packets by time."""
    pictures = _picture_packets(segments, picture)
    packet = next(pictures, None)
    chosen = [stream for stream in source.streams if stream.index in copies]
    for copied in source.demux(chosen) if chosen else ():
        if copied.size == 0 or (copied.dts is None and copied.pts is None):
            continue
        time = float((copied.dts if copied.dts is not None else copied.pts) * copied.time_base)
        while packet is not None and float(packet.dts * packet.time_base) <= time:
            packet.stream = video
            out.mux_one(packet)
            packet = next(pictures, None)
        copied.stream = copies[copied.stream.index]
        out.mux_one(copied)
    while packet is not None:
        packet.stream = video
        out.mux_one(packet)
        packet = next(pictures, None)


def _picture_packets(segments: list[Path], picture: Any) -> Iterator[Any]:
    """All encoded frames in order; each lasts until the next, the last one as long as it does in the source."""
    import av

    rate = picture.average_rate or picture.guessed_rate or Fraction(25)
    end = (picture.start_time or 0) + picture.duration if picture.duration else None
    waiting = None
    for path in segments:
        with av.open(str(path)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size == 0:
                    continue
                packet.pts = packet.dts = round(packet.pts * packet.time_base / picture.time_base)
                packet.time_base = picture.time_base
                if waiting is not None:
                    waiting.duration = packet.pts - waiting.pts
                    yield waiting
                waiting = packet
    if waiting is not None:
        left = None if end is None else end - waiting.pts
        waiting.duration = left if left and left > 0 else max(1, round(1 / (rate * picture.time_base)))
        yield waiting
