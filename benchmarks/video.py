"""Makes a clip, restores it with `tools/predict_video.py`, and measures what a video must keep and what must not shake.

  python benchmarks/video.py --output output/video_benchmark
  python benchmarks/video.py --output output/video_benchmark --only-measure    # once more, of what is there

The clip: 20 s of 1280 x 720 with a talking head from assets/demo (pan, zoom, roll, a moving mouth, camera noise), a
tone as AAC, and one cut to another face. Measured: memory while it is restored, sound packet by packet, the time of
every frame, and the trembling of landmarks found in every frame anew, in the source and in the result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TICKS = 12_800
SOUND_RATE = 44_100


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/video_benchmark"))
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=25, help="frames per second")
    parser.add_argument("--only-measure", action="store_true", help="clip and result are there already")
    parser.add_argument("--keep-clip", action="store_true", help="go on with the clip that is there")
    parser.add_argument("predict", nargs="*", help="more arguments for predict_video.py, after --")
    return parser.parse_args(given)


# --- the clip --------------------------------------------------------------------------------------------------------


def make_clip(
    path: Path,
    seconds: float = 20,
    size: tuple[int, int] = (1280, 720),
    *,
    rate: float = 25,
    seed: int = 0,
    times: list[int] | None = None,
    rotation: int = 0,
    sound: bool = True,
    crf: int = 26,
) -> list[np.ndarray]:
    """Writes a clip with two shots.

    Args:
        path: .mp4, .mov or .mkv.
        seconds: length.
        size: width and height.
        rate: frames per second.
        seed: of the noise.
        times: of the frames, in 1/12800 s, instead of a steady rate.
        rotation: degrees counter-clockwise that players turn the picture by.
        sound: with an AAC track.
        crf: of libx264.

    Returns:
        (2, 3) per frame: where the portrait's pixels went.
    """
    import av

    step = round(TICKS / rate)
    times = list(range(0, round(seconds * TICKS), step)) if times is None else times
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, 4, (8, size[1], size[0], 1)).astype(np.float32)
    portraits = [_portrait(0), _portrait(1)]
    matrices = []
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(TICKS, step), options={"crf": str(crf), "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS)
        if rotation:
            stream.set_display_rotation(rotation)
        tone = out.add_stream("aac", rate=SOUND_RATE) if sound else None
        out.metadata["title"] = "a clip"
        if tone is not None:
            out.mux(_sound_packets(tone, (times[-1] + step) / TICKS))
        for i, pts in enumerate(times):
            shot = int(i >= len(times) * 0.6)
            picture, matrix = _frame(portraits[shot], pts / TICKS, size, shot)
            matrices.append(matrix)
            moved = np.roll(grain[i % 8], tuple(rng.integers(0, 99, 2)), (0, 1))
            picture = np.clip(picture + moved, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = pts, Fraction(1, TICKS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return matrices


def _portrait(number: int) -> np.ndarray:
    """(512, 512, 3): one face with something around it, soft as in old film."""
    picture = cv2.imread(str(ROOT / "assets" / "demo" / "originals" / ("astronaut.jpg", "album.jpg")[number]))
    face = max(_detect()(picture), key=lambda one: one.score)
    side = int(2.0 * max(face.box[2:]))
    corner = np.maximum(face.box[:2] + face.box[2:] / 2 - side / 2, 0).astype(int)
    part = picture[corner[1] : corner[1] + side, corner[0] : corner[0] + side]
    small = cv2.resize(part, (192, 192), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (512, 512), interpolation=cv2.INTER_CUBIC)


def _detect():
    from ppgan_fr.face.detect import detector
    from ppgan_fr.restorer import shipped

    return detector(shipped("yunet"), shipped("onet"))


def _frame(portrait: np.ndarray, time: float, size: tuple[int, int], shot: int) -> tuple[np.ndarray, np.ndarray]:
    width, height = size
    zoom = height / 512 * (1.0 + 0.12 * np.sin(0.7 * time + shot))
    angle = 0.06 * np.sin(0.9 * time)
    shift = np.array([width / 2 + 0.10 * width * np.sin(0.5 * time), height / 2 + 0.03 * height * np.sin(1.3 * time)])
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * zoom
    matrix = np.column_stack([matrix, shift - matrix @ (256, 256)])
    y, x = np.mgrid[0:512, 0:512].astype(np.float32)
    # a mouth that opens and closes: the lower half of the picture breathes
    bump = np.exp(-(((x - 256) / 90) ** 2) - ((y - 300) / 60) ** 2)
    talking = cv2.remap(portrait, x, y + 5 * np.float32(np.sin(3 * time)) * bump, cv2.INTER_LINEAR)
    flags = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    return cv2.warpAffine(talking, matrix, size, **flags).astype(np.float32), matrix


def _sound_packets(stream, seconds: float) -> list:
    import av

    packets = []
    stream.codec_context.layout = "mono"
    for start in range(0, round(seconds * SOUND_RATE), 1024):
        t = (start + np.arange(1024)) / SOUND_RATE
        samples = (0.2 * np.sin(2 * np.pi * (220 + 20 * t) * t)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


# --- measuring -------------------------------------------------------------------------------------------------------


def restore(source: Path, target: Path, more: list[str], record: Path) -> None:
    """Runs the command, and adds a line `seconds megabytes` each half second to `record`; resumes."""
    program = str(ROOT / "tools" / "predict_video.py")
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, program, "--input", str(source), "--output", str(target), "--resume", *more]
    )
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
            except (OSError, StopIteration):
                return
            with record.open("a", encoding="ascii") as lines:
                lines.write(f"{time.perf_counter() - began:.1f} {int(kilobytes) / 1024:.1f}\n")

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    stop.set()
    thread.join()
    if code:
        raise SystemExit(f"predict_video.py ended with {code}")


def memory(record: Path) -> dict[str, object]:
    """What the samples of `restore` say; the first 30 s of each run, in which networks are loaded, count as loading."""
    runs: list[list[tuple[float, float]]] = []
    for line in record.read_text(encoding="ascii").splitlines():
        seconds, megabytes = map(float, line.split())
        if not runs or seconds < runs[-1][-1][0]:
            runs.append([])
        runs[-1].append((seconds, megabytes))
    steady = [[mb for t, mb in run if t > 30] or [mb for _, mb in run] for run in runs]
    thirds = [[round(float(np.median(part))) for part in np.array_split(run, 3) if len(part)] for run in steady]
    return {
        "seconds_of_each_run": [run[-1][0] for run in runs],
        "memory_mb_of_the_thirds_of_each_run": thirds,
        "peak_memory_mb": round(max(mb for run in runs for _, mb in run)),
    }


def packets(path: Path, kind: str) -> list[tuple[int, bytes]]:
    """(time stamp, content) of every packet of the first stream of a kind."""
    import av

    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        return [(packet.pts, bytes(packet)) for packet in container.demux(streams[0]) if packet.size] if streams else []


def frame_times(path: Path) -> list[Fraction]:
    """When each frame is shown, exactly, and when the last one ends."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(frame.pts, frame.duration) for frame in container.decode(stream)]
        return [pts * stream.time_base for pts, _ in frames] + [sum(frames[-1]) * stream.time_base]


def landmarks(path: Path) -> np.ndarray:
    """(frames, 5, 2) of the largest face, each frame by itself; NaN where there is none."""
    import av

    detect, found = _detect(), []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            faces = detect(frame.to_ndarray(format="bgr24"))
            best = max(faces, key=lambda face: float(face.box[2] * face.box[3]), default=None)
            found.append(np.full((5, 2), np.nan) if best is None else best.landmarks)
    return np.array(found, np.float64)


def jitter(points: np.ndarray, matrices: Sequence[np.ndarray]) -> float:
    """Trembling of landmarks: root mean square of their second difference in time, in percent of the eye distance.

    They are taken back to the portrait first, by the motion that the clip is known to have, so that only the talking
    and the error of the detector remain. Cuts are left out.
    """
    still = np.stack([(p - m[:, 2]) @ np.linalg.inv(m[:, :2]).T for p, m in zip(points, matrices)])
    eyes = np.nanmedian(np.hypot(*(still[:, 1] - still[:, 0]).T))
    second = still[2:] - 2 * still[1:-1] + still[:-2]
    size = np.hypot(second[..., 0], second[..., 1])
    usable = np.isfinite(size).all(1) & (size.max(1) < eyes / 2)
    return float(100 * np.sqrt((size[usable] ** 2).mean()) / eyes)


def flicker(path: Path, matrices: Sequence[np.ndarray]) -> float:
    """Change of the face from frame to frame that its known motion does not explain: mean grey levels."""
    import av

    before, values = None, []
    with av.open(str(path)) as container:
        for frame, matrix in zip(container.decode(container.streams.video[0]), matrices):
            back = cv2.warpAffine(
                frame.to_ndarray(format="gray"), matrix, (512, 512), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            )
            face = cv2.GaussianBlur(back.astype(np.float32), (0, 0), 1.5)[100:330, 150:360]
            if before is not None:
                values.append(float(np.abs(face - before).mean()))
            before = face
    return float(np.median(values))


def main(given: list[str] | None = None) -> int:
    """Returns the exit code: 0 when everything is as it should be."""
    args = arguments(given)
    args.output.mkdir(parents=True, exist_ok=True)
    source, target, record = (args.output / name for name in ("clip.mp4", "restored.mp4", "video.json"))
    samples = args.output / "memory.txt"
    if not (args.only_measure or args.keep_clip):
        np.save(args.output / "matrices.npy", np.array(make_clip(source, args.seconds, rate=args.rate)))
        samples.unlink(missing_ok=True)
    if not args.only_measure:
        restore(source, target, args.predict, samples)
    result = memory(samples)
    matrices = list(np.load(args.output / "matrices.npy"))
    result["frames"] = len(matrices)
    sound = packets(source, "audio"), packets(target, "audio")
    times = frame_times(source), frame_times(target)
    result |= {
        "sound_packets": len(sound[0]),
        "sound_is_equal": sound[0] == sound[1],
        "frame_times_are_equal": times[0] == times[1],
        "duration_s": [float(one[-1] - one[0]) for one in times],
        "landmark_jitter_percent": [round(jitter(landmarks(path), matrices), 3) for path in (source, target)],
        "flicker_levels": [round(flicker(path, matrices), 3) for path in (source, target)],
        "size_mb": [round(path.stat().st_size / 1e6, 2) for path in (source, target)],
    }
    record.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    steady = result["landmark_jitter_percent"][1] <= result["landmark_jitter_percent"][0]
    return 0 if result["sound_is_equal"] and result["frame_times_are_equal"] and steady else 1


if __name__ == "__main__":
    sys.exit(main())
