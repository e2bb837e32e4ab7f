"""What a TIPC driver cannot see from an exit code: did the weights change, are the pictures there, do they differ.

    python test_tipc/checks.py training --log LOG --dir DIR --checkpoint latest/generator.pdparams --arch gfpgan
    python test_tipc/checks.py evaluation --log LOG
    python test_tipc/checks.py export --dir DIR --arch gfpgan
    python test_tipc/checks.py results --dir DIR --inputs DIR       prints `picture/<name>/<metric>: <value>`
    python test_tipc/checks.py losses --first LOG --second LOG      equal step by step

Exit code 1 and one line when a check fails.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

TRAIN_LINE = re.compile(r"\[TRAIN\].*?iter: (\d+)/(\d+)")
LOSS = re.compile(r"\bloss: ([^,\s]+),")
METRIC = re.compile(r"^\s*([\w@-]+)[:=]\s*(-?\d*\.\d+(?:[eE][-+]?\d+)?|nan|-?inf)(?=\s|$)", re.I | re.M)
NOT_A_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:nan|inf(?:inity)?)(?![\w.])", re.I)
NOT_TRAINED = re.compile(r"(?:_mean|_variance|weight_u|weight_v|noise.*|mean_latent|num_batches_tracked)$")
CELLS = 8  # a picture is described by the mean gray of 8 x 8 cells, besides its colours, contrast and detail
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


class CheckError(ValueError):
    """A check that did not pass, in one line."""


def logged_losses(log: Path) -> list[float]:
    """The loss of every training line; all finite, one a line."""
    losses = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        found = TRAIN_LINE.search(line)
        if found is None:
            continue
        if NOT_A_NUMBER.search(line):
            raise CheckError(f"{log}: a loss of iter {found[1]} is NaN or infinite")
        tokens = LOSS.findall(line)
        if len(tokens) != 1:
            raise CheckError(f"{log}: iter {found[1]} has {len(tokens)} 'loss: <number>,' instead of one")
        losses.append(float(tokens[0]))
    if not losses:
        raise CheckError(f"{log}: no [TRAIN] line")
    return losses


def training(args: argparse.Namespace) -> None:
    """Finite losses up to the last step, a checkpoint of the right network, weights that changed on the way."""
    import yaml

    from ppgan_fr import weights

    losses = logged_losses(args.log)
    last = TRAIN_LINE.findall(args.log.read_text(encoding="utf-8", errors="replace"))[-1]
    if last[0] != last[1]:
        raise CheckError(f"{args.log}: ended at iter {last[0]} of {last[1]}")
    checkpoint = args.dir / args.checkpoint
    if not checkpoint.is_file():
        raise CheckError(f"{checkpoint}: no such checkpoint")
    config = checkpoint.parent / "config.yaml"
    arch = yaml.safe_load(config.read_text(encoding="utf-8"))["generator"]["arch"] if config.is_file() else None
    if arch != args.arch:
        raise CheckError(f"{config}: the network that was trained is {arch}, not {args.arch}")
    # averaged weights move by rounding alone when nothing is trained: those that the optimizer moves have to change
    moved = checkpoint.with_name("generator.pdparams")
    moved = moved if moved.is_file() else checkpoint
    earlier = sorted(args.dir.glob(f"step_*/{moved.name}"))
    if not earlier or earlier[0].parent.name == f"step_{int(last[0]):08d}":
        raise CheckError(f"{args.dir}: no earlier checkpoint step_*/{moved.name} to compare the weights with")
    before, after = _trained(weights.load(earlier[0])), _trained(weights.load(moved))
    if sorted(before) != sorted(after):
        raise CheckError(f"{moved}: has other names than {earlier[0]}")
    broken = [name for name, value in after.items() if not np.isfinite(value).all()]
    broken += [name for name, value in _trained(weights.load(checkpoint)).items() if not np.isfinite(value).all()]
    if broken:
        raise CheckError(f"{moved}: {broken[0]} is not finite")
    changed = [name for name in after if not np.array_equal(before[name], after[name])]
    if not changed:
        raise CheckError(f"{moved}: the weights did not change since {earlier[0]}")
    print(f"checked: {len(losses)} finite losses, {len(changed)} of {len(after)} arrays of weights changed")


def _trained(state: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in state.items() if not NOT_TRAINED.search(name)}


def evaluation(args: argparse.Namespace) -> None:
    """At least one metric was printed, and none is NaN."""
    found = METRIC.findall(args.log.read_text(encoding="utf-8", errors="replace"))
    if not found:
        raise CheckError(f"{args.log}: no 'metric: value' line")
    bad = [name for name, value in found if not math.isfinite(float(value))]
    if bad:
        raise CheckError(f"{args.log}: {bad[0]} is not finite")


def export(args: argparse.Namespace) -> None:
    """The folder is complete and holds the network it should."""
    from ppgan_fr.face.spec import read_spec

    try:
        spec = read_spec(args.dir)
    except ValueError as error:
        raise CheckError(str(error)) from None
    for name in (spec.model_file, spec.params_file):
        path = args.dir / name
        if not path.is_file() or not path.stat().st_size:
            raise CheckError(f"{path}: missing or empty")
    if spec.arch != args.arch:
        raise CheckError(f"{args.dir}: holds {spec.arch}, not {args.arch}: another model's folder")


def results(args: argparse.Namespace) -> None:
    """One picture per input, none of them blank; prints numbers that describe them."""
    wanted = _pictures(args.inputs) if args.inputs.is_dir() else [args.inputs]
    folder = args.dir / "restored" if (args.dir / "restored").is_dir() else args.dir
    found = _pictures(folder) if folder.is_dir() else []
    if not found:
        raise CheckError(f"{args.dir}: no picture was written")
    if len(found) != len(wanted):
        raise CheckError(f"{args.dir}: {len(found)} pictures for {len(wanted)} inputs")
    faces = _check_journal(args.dir / "results.jsonl")
    for path in found:
        for name, value in describe(path).items():
            print(f"picture/{path.stem}/{name}: {value:.6f}")
        if path.stem in faces:
            print(f"picture/{path.stem}/faces: {faces[path.stem]}")


def _check_journal(journal: Path) -> dict[str, int]:
    """The number of faces of each picture."""
    if not journal.is_file():
        return {}
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines() if line]
    for entry in entries:
        if entry["status"] != "ok":
            raise CheckError(f"{journal}: {entry['input']}: {entry['status']} ({entry.get('error')})")
        if not entry["faces"]:
            raise CheckError(f"{journal}: {entry['input']}: no face was restored")
    return {Path(entry["input"]).stem: len(entry["faces"]) for entry in entries}


def describe(path: Path) -> dict[str, float]:
    """Numbers in [0, 1] that a changed, shifted, mirrored or recoloured picture does not share."""
    import cv2

    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise CheckError(f"{path}: not a picture")
    image = image.astype(np.float32) / 255
    if image.std() < 1e-3:
        raise CheckError(f"{path}: a blank picture")
    numbers = {f"mean_{name}": float(image[..., index].mean()) for index, name in enumerate("bgr")}
    gray = image.mean(axis=2)
    numbers["std"] = float(image.std())
    numbers["detail"] = float(np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean())
    for row, band in enumerate(np.array_split(gray, CELLS, axis=0)):
        for column, cell in enumerate(np.array_split(band, CELLS, axis=1)):
            numbers[f"cell_{row}_{column}"] = float(cell.mean())
    return numbers


def losses(args: argparse.Namespace) -> None:
    """Two training logs with the same losses."""
    first, second = logged_losses(args.first), logged_losses(args.second)
    if len(first) != len(second):
        raise CheckError(f"{args.first} has {len(first)} steps, {args.second} has {len(second)}")
    for step, (one, other) in enumerate(zip(first, second, strict=True), start=1):
        if not math.isclose(one, other, rel_tol=args.rtol, abs_tol=args.atol):
            raise CheckError(f"loss of step {step}: {one} in {args.first}, {other} in {args.second}")
    largest = max(abs(one - other) / max(abs(one), 1e-12) for one, other in zip(first, second, strict=True))
    print(f"checked: {len(first)} losses agree, largest relative difference {largest:.2e}")


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    wanted = {
        training: {"log": Path, "dir": Path, "checkpoint": str, "arch": str},
        evaluation: {"log": Path},
        export: {"dir": Path, "arch": str},
        results: {"dir": Path, "inputs": Path},
        losses: {"first": Path, "second": Path},
    }
    for function, options in wanted.items():
        command = commands.add_parser(function.__name__, help=(function.__doc__ or "").splitlines()[0])
        command.set_defaults(function=function)
        for name, kind in options.items():
            command.add_argument(f"--{name}", type=kind, required=True)
    commands.choices["losses"].add_argument("--rtol", type=float, default=1e-3)
    commands.choices["losses"].add_argument("--atol", type=float, default=1e-5)
    args = parser.parse_args()
    try:
        args.function(args)
    except (CheckError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
