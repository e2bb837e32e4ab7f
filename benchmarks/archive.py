"""An archive that is restored in spite of everything: many pictures, some corrupt, a program killed again and again.

python benchmarks/archive.py --output /tmp/archive --count 2000 --kills 5
python benchmarks/archive.py --output /tmp/archive --throughput --count 20

The first form makes COUNT small pictures (JPEG, PNG of 8 and 16 bits, TIFF, WebP; 1 % of them corrupt, 5 % copies of
others under another name, a quarter without a face), runs `tools/predict.py --resume` over them, kills it KILLS times
by SIGKILL at random moments, lets it finish and checks what is there: every good picture done exactly once and never
done again, every bad one listed, no partial file at any time, and the same bytes as without interruption.
The second form compares photos per second with the bare predictor's (`deploy/restore_folder.py`, which
`deploy/inference_python/infer.py` runs: read, detect, restore, paste, write), in turns and with the models loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GLOG_minloglevel", "2")

from ppgan_fr.face.image_io import Metadata, Photo, list_images, read_image, read_photo, write_photo
from ppgan_fr.manifest import file_digest, stamp

FORMATS = (".jpg", ".jpg", ".jpg", ".png", ".tif", ".webp", ".jpg", ".16.png")


class ArchiveError(AssertionError):
    """Something was lost, done twice, or half written."""


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, or raises with what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a folder for the album and the results; emptied")
    parser.add_argument("--count", type=int, default=int(os.environ.get("PPGAN_ARCHIVE_COUNT", "2000")))
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faces", type=Path, default=ROOT / "assets/demo/astronaut.jpg", help="picture or folder")
    parser.add_argument("--again", type=int, default=40, help="so many are restored anew, to compare their bytes")
    parser.add_argument("--throughput", action="store_true", help="measure instead of killing")
    parser.add_argument("--rounds", type=int, default=3, help="of the measurement")
    parser.add_argument("-c", "--config", default="configs/gfpgan_mobile.yaml")
    parser.add_argument("--weights")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    for name in ("results", "again"):
        shutil.rmtree(args.output / name, ignore_errors=True)
    kinds = album(args)
    answer = throughput(args) if args.throughput else survive(args, kinds)
    print("\n".join(f"{name}: {value}" for name, value in answer.items()))
    if args.json:
        args.json.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return 0


def album(args: argparse.Namespace) -> dict[str, str]:
    """The pictures of an earlier call with the same arguments, or new ones."""
    card = args.output / "album.json"
    made_of = [args.count, args.seed, str(args.faces)]
    if card.is_file() and (known := json.loads(card.read_text(encoding="utf-8")))["made of"] == made_of:
        return known["kinds"]
    shutil.rmtree(args.output / "album", ignore_errors=True)
    kinds = make_album(args.output / "album", args.count, args.seed, list_images(args.faces))
    card.write_text(json.dumps({"made of": made_of, "kinds": kinds}), encoding="utf-8")
    return kinds


def make_album(folder: Path, count: int, seed: int, faces: list[Path]) -> dict[str, str]:
    """Makes the pictures.

    Returns:
        "face", "scene", "corrupt" or "copy" for each file name.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    kinds: dict[str, str] = {}
    corrupt = max(1, round(count * 0.01))
    copies = max(1, round(count * 0.05))
    bad = set(rng.choice(np.arange(1, count - copies), corrupt, replace=False).tolist())
    for i in range(count - copies):
        name = f"{i:05d}{FORMATS[i % len(FORMATS)]}"
        picture = _scene(rng) if i % 4 == 3 else _portrait(read_image(faces[i % len(faces)]), rng)
        kinds[name] = "scene" if i % 4 == 3 else "face"
        if name.endswith(".16.png"):
            picture = picture.astype(np.uint16) * 257
        write_photo(folder / name, Photo(picture, metadata=Metadata(lossless=False)))
        if i in bad:
            content = (folder / name).read_bytes()
            broken = (b"", b"no picture at all", content[: len(content) // 2])[len(kinds) % 3]
            (folder / name).write_bytes(broken)
            kinds[name] = "corrupt"
    good = [name for name, kind in kinds.items() if kind != "corrupt"]
    for i, at in enumerate(rng.choice(len(good), copies, replace=False)):
        source = folder / good[at]
        name = f"{source.name.split('.')[0]}_copy{i}{''.join(source.suffixes)}"
        shutil.copy(source, folder / name)
        kinds[name] = "copy"
    return kinds


def _portrait(face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = int(rng.integers(120, 220))
    face = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)
    face = face[:, ::-1] if rng.random() < 0.5 else face
    border = int(rng.integers(20, 50))
    picture = cv2.copyMakeBorder(face, border, border, border, border, cv2.BORDER_REFLECT_101)
    return np.clip(picture * rng.uniform(0.8, 1.1) + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def _scene(rng: np.random.Generator) -> np.ndarray:
    small = rng.integers(60, 200, (6, 8, 3)).astype(np.float32)
    return cv2.resize(small, (240, 180), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def survive(args: argparse.Namespace, kinds: dict[str, str]) -> dict:
    """Runs, kills, goes on, and checks.

    Raises:
        ArchiveError: with what was found.
    """
    chance = random.Random(args.seed)
    album, output = args.output / "album", args.output / "results"
    good = [name for name, kind in kinds.items() if kind != "corrupt"]
    finished: dict[str, tuple] = {}
    seen: dict[str, tuple] = {}
    moments, seconds = [], 0.0
    marks = sorted(chance.uniform(0.02, 0.95) * len(kinds) for _ in range(args.kills))
    for mark in marks:
        start = time.monotonic()
        process = _predict(args, album, output)
        while process.poll() is None and _lines_written(output) < mark:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        seconds += time.monotonic() - start
        before = len(finished)
        _check_whole(output, finished, seen)
        moments.append(f"{before} -> {len(finished)}")
        print(f"killed at {len(finished)} of {len(kinds)}", flush=True)
    start = time.monotonic()
    process = _predict(args, album, output)
    if process.wait() != 1:
        raise ArchiveError(f"exit code {process.returncode}, expected 1 with corrupt pictures")
    seconds += time.monotonic() - start
    _check_whole(output, finished, seen)
    lines = _read(output / "results.jsonl")
    names = [Path(line["input"]).name for line in lines]
    _same("one line for each picture, in order", names, sorted(kinds))
    _same("failed", [n for n, line in zip(names, lines) if line["status"] == "failed"], sorted(set(kinds) - set(good)))
    _same("each with its reason", all(line["error"] for line in lines if line["status"] == "failed"), True)
    _same("restored files", sorted(p.name for p in (output / "restored").iterdir()), sorted(good))
    faces = sum(2 * len(line["faces"]) for line in lines)
    _same("face files", len(list((output / "faces").iterdir())), faces)
    _same("left over", [str(p) for p in output.rglob("*") if p.name.startswith(".")], [])
    again = _again(args, album, output, chance.sample(good, min(args.again, len(good))))
    found = sum(line["status"] == "ok" for line in lines)
    return {
        "pictures": len(kinds),
        "corrupt, all listed": len(kinds) - len(good),
        "copies": sum(kind == "copy" for kind in kinds.values()),
        "with a face": found,
        "done before -> after each kill": moments,
        "done twice, lost or partial": 0,
        "restored anew, byte for byte the same": again,
        "seconds of all runs": round(seconds, 1),
        "photos per second": round(len(kinds) / seconds, 2),
    }


def _predict(args: argparse.Namespace, album: Path, output: Path) -> subprocess.Popen:
    command = [sys.executable, ROOT / "tools/predict.py", "--input", album, "--output", output, "--resume"]
    command += ["-c", args.config, *(["--weights", args.weights] if args.weights else [])]
    log = (args.output / "predict.log").open("ab")
    return subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)


def _lines_written(output: Path) -> int:
    try:
        return (output / "results.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _read(path: Path) -> list[dict]:
    return [json.loads(raw) for raw in path.read_bytes().split(b"\n") if raw]


def _check_whole(output: Path, finished: dict[str, tuple], seen: dict[str, tuple]) -> None:
    """Every visible file is whole, and what was finished at the last look has not been touched since.

    `seen` are the files that have been read and what they were then.
    """
    for folder in ("restored", "faces"):
        for path in (output / folder).iterdir():
            if not path.name.startswith(".") and seen.get(str(path)) != (now := stamp(path)):
                read_photo(path)  # refuses a file that is cut short
                seen[str(path)] = now
    lines = [line for line in _read(output / "results.jsonl") if line["status"] != "failed"]
    now = {line["input"]: stamp(Path(line["output"])) for line in lines}
    for source, before in finished.items():
        if now.get(source) != before:
            raise ArchiveError(f"{source} was finished and has been done again or lost")
    finished.update(now)


def _again(args: argparse.Namespace, album: Path, output: Path, names: list[str]) -> int:
    """Restores some of the pictures without interruption into another folder and compares."""
    listed = args.output / "again.txt"
    listed.write_text("".join(f"{album / name}\n" for name in names))
    if _predict(args, listed, args.output / "again").wait() != 0:
        raise ArchiveError("the pictures could not be restored anew")
    for name in names:
        paths = [folder / "restored" / name for folder in (output, args.output / "again")]
        _same(name, file_digest(paths[0]), file_digest(paths[1]))
    return len(names)


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ArchiveError(f"{what}: {found} instead of {expected}")


def throughput(args: argparse.Namespace) -> dict:
    """Photos per second of `predict` against those of the bare predictor, in turns.

    The bare predictor finds, restores and pastes faces, and writes the photos. `predict` also keeps metadata, a
    manifest and the crops, and looks whether each face is still the same person; "without identity" is `predict` with
    `--identity off`, whose networks do the bare predictor's work and nothing more.
    """
    from deploy.restore_folder import Folder, Job
    from ppgan_fr.config import find_file, load_config
    from ppgan_fr.export import cached_export
    from ppgan_fr.face.spec import read_spec
    from ppgan_fr.predict import Options, plan, prepare_output, process
    from ppgan_fr.restorer import load_restorer

    config = load_config(args.config, (), without=("recipe", "data", "train", "evaluate"))
    checked = load_restorer(config, (), args.weights, identity="warn")
    plain = load_restorer(config, (), args.weights)
    spec = read_spec(cached_export(config, find_file(args.weights or config.weights)))
    paths = [path for path in list_images(args.output / "album") if "_copy" not in path.name]
    output = args.output / "results"
    options = Options(provenance=True, network=spec.arch)
    prepare_output(output)
    (args.output / "again" / "restored").mkdir(parents=True)
    bare = Folder(plain.restore_faces, spec, plain.detect_faces, 1)
    jobs = [Job(path, args.output / "again" / "restored" / path.name) for path in paths]
    ways = {
        "bare": lambda: bare.run(jobs, lambda _: None),
        "predict": lambda: process(plan(paths, output), checked, options, output),
        "without identity": lambda: process(plan(paths, output), plain, options, output),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.rounds + 1):
        for name, way in ways.items():
            start, used = time.perf_counter(), time.process_time()
            way()
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - used)
    answer = {"photos": len(paths), "faces": bare.times.faces}
    for name in ways:
        ratios = [mine / ours for mine, ours in zip(seconds["bare"], seconds[name])]
        answer[name] = {
            "photos per second": round(len(paths) / min(seconds[name]), 3),
            "against bare, median of the turns": round(statistics.median(ratios), 3),
            "turns": [round(value, 3) for value in ratios],
            # on a machine that others use, processor time says more
            "by processor time": round(sum(processor["bare"]) / sum(processor[name]), 3),
        }
    return answer


if __name__ == "__main__":
    sys.exit(main())
