"""Draws a training and a validation set from a folder of faces.

The sampler of the Face-Renovation-Project (SaintWatson), finished: the same faces for the same seed (one permutation of
all pictures, the first TRAIN for training, the last VALID for validation), but with the seed as an argument, sets that
cannot overlap, nothing deleted unless asked, and a record of where every picture came from.

    python tools/sample_faces.py 100 10 --source ffhq/images1024x1024 --output data/faces --seed 0

writes `data/faces/{train_set,valid_set}/ori/00000.png, ...` and `data/faces/sample.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ppgan_fr.data.loader import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
SETS = ("train_set", "valid_set")
RECORD = "sample.json"


def sample_indices(count: int, train: int, valid: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the pictures of both sets, in the order they were drawn.

    Numpy's legacy generator, as `numpy.random.seed(seed)` starts it, so the original's draws are reproduced.

    Args:
        count: pictures there are.
        train: pictures to train on, the first of the permutation.
        valid: pictures to validate on, the last of the permutation.
        seed: 0 to 2**32 - 1.

    Raises:
        DataError: a size is negative, or the sets would overlap.
    """
    if train < 0 or valid < 0:
        raise DataError(f"the sizes must not be negative, got {train} and {valid}")
    if train + valid > count:
        raise DataError(f"{train} + {valid} faces are wanted but there are {count}; the sets would overlap")
    if not 0 <= seed < 2**32:
        raise DataError(f"seed must be 0 to {2**32 - 1}, got {seed}")
    order = np.random.RandomState(seed).permutation(count)
    return order[:train], order[count - valid :]


def list_faces(source: str | Path) -> list[Path]:
    """All pictures below a folder, sorted by their path (FFHQ's `DD000/IIIII.png` come in order of their ids).

    Raises:
        DataError: no such folder, or no picture in it.
    """
    source = Path(source)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"{source}: there is no picture in this folder")
    return found


def sample_faces(
    train: int,
    valid: int,
    source: str | Path,
    output: str | Path,
    seed: int = 0,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, list[str]]:
    """Copies the drawn pictures to `output/{train_set,valid_set}/ori`, numbered in the order they were drawn.

    Args:
        train: pictures to train on.
        valid: pictures to validate on; 0 makes no validation set.
        source: folder of faces, searched with its sub-folders.
        output: where the sets go.
        seed: of the permutation.
        overwrite: replace sets that exist; without it they are refused.
        progress: show a bar per set.

    Returns:
        per set, the paths of the sources relative to `source`; also written to `output/sample.json`.

    Raises:
        DataError: see `sample_indices`, `list_faces`; or a set exists already.
    """
    source, output = Path(source), Path(output)
    faces = list_faces(source)
    chosen = dict(zip(SETS, sample_indices(len(faces), train, valid, seed), strict=True))
    folders = {name: output / name for name, indices in chosen.items() if len(indices)}
    if not folders:
        raise DataError("both sets are empty")
    for folder in folders.values():
        if folder.exists() and not overwrite:
            raise DataError(f"{folder} exists; choose another folder or ask for --overwrite")
        if source.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{folder} holds the pictures to be drawn from; choose another output folder")

    sources = {}
    for name, folder in folders.items():
        paths = [faces[index] for index in chosen[name]]
        _copy_numbered(paths, folder, name, progress)
        sources[name] = [path.relative_to(source).as_posix() for path in paths]
    record = {"seed": seed, "source": source.as_posix(), "count": len(faces), "sets": sources}
    beside = output / f"{RECORD}.tmp"
    beside.write_text(json.dumps(record, indent=1), encoding="utf-8")
    beside.replace(output / RECORD)
    return sources


def _copy_numbered(paths: list[Path], folder: Path, label: str, progress: bool) -> None:
    """Copies beside the final place and moves the whole set there at the end."""
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        (beside / "ori").mkdir(parents=True)
        for number, path in enumerate(tqdm(paths, desc=label, unit="face", disable=not progress)):
            shutil.copyfile(path, beside / "ori" / f"{number:05d}{path.suffix.lower()}")
        if folder.exists():
            shutil.rmtree(folder)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ppgan-fr sample`."""
    parser.add_argument("train", type=int, metavar="TRAIN", help="number of faces to train on")
    parser.add_argument("valid", type=int, metavar="VALID", help="number of faces to validate on")
    parser.add_argument("--source", required=True, help="folder of faces, searched with its sub-folders")
    parser.add_argument("--output", required=True, help="folder for train_set/ori, valid_set/ori and sample.json")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same faces")
    parser.add_argument("--overwrite", action="store_true", help="replace sets that exist already")


def run(args: argparse.Namespace) -> int:
    """Runs `ppgan-fr sample`."""
    sets = sample_faces(args.train, args.valid, args.source, args.output, args.seed, overwrite=args.overwrite)
    for name, paths in sets.items():
        print(f"{len(paths)} faces in {Path(args.output) / name / 'ori'}")  # noqa: T201
    return 0
