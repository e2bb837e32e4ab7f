"""Makes the degraded partners of a folder of faces.

    python tools/degrade_faces.py --preset face_renovation --input data/faces/train_set/ori \
        --output data/faces/train_set/dgd --seed 0

writes a PNG of the same name for every picture (`--layout partner`), or pair files with the degraded face above the
original, which HiFaceGAN's loader reads (`--layout stacked`). What happens to a picture depends on the seed and on its
name only, not on the other pictures of the folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ppgan_fr.data.contact_sheet import contact_sheet
from ppgan_fr.data.degrade import PRESETS, degrade
from ppgan_fr.data.loader import DataError
from ppgan_fr.data.pairs import read_bgr, stack
from ppgan_fr.data.sample_faces import SUFFIXES

LAYOUTS = ("partner", "stacked")
SHEET_ROWS = 24
SHEET_TILE = 160


@dataclass
class Degraded:
    """What became of a folder."""

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    """Picture -> why it could not be degraded."""


def degrade_faces(
    source: str | Path,
    output: str | Path,
    preset: str,
    seed: int = 0,
    *,
    layout: str = "partner",
    size: int | None = None,
    overwrite: bool = False,
    sheet: str | Path | None = None,
    progress: bool = True,
) -> Degraded:
    """Degrades every picture of a folder.

    Args:
        source: folder of faces (its sub-folders are not searched).
        output: where `<name>.png` goes.
        preset: one of `ppgan_fr.data.degrade.PRESETS`.
        seed: the same seed and file name give the same result.
        layout: `partner`: the degraded picture; `stacked`: degraded above original in one file.
        size: bring the original to this many pixels square first, by area; `None`: as it is.
        overwrite: replace results that exist; without it they are refused before anything is written.
        sheet: file for a picture that shows the first pairs side by side; `None`: none.
        progress: show a bar.

    Returns:
        the files written, and the pictures that could not be read.

    Raises:
        DataError: unknown preset or layout, no picture, two pictures with one name, or results that exist already.
    """
    if preset not in PRESETS:
        raise DataError(f"there is no preset {preset!r}; available: {', '.join(PRESETS)}")
    if layout not in LAYOUTS:
        raise DataError(f"there is no layout {layout!r}; available: {', '.join(LAYOUTS)}")
    if seed < 0:
        raise DataError(f"seed must not be negative, got {seed}")
    output = Path(output)
    targets = _targets(Path(source), output)
    existing = [path for path in targets.values() if path.exists()]
    if existing and not overwrite:
        raise DataError(f"{existing[0]} exists; choose another folder or ask for --overwrite")
    if any(path.resolve() == picture.resolve() for picture, path in targets.items()):
        raise DataError(f"{output} is the folder of the originals, which would be lost")
    output.mkdir(parents=True, exist_ok=True)

    result, rows = Degraded(), []
    for picture, target in tqdm(targets.items(), desc=preset, unit="face", disable=not progress):
        try:
            original = _prepared(read_bgr(picture), size)
        except DataError as error:
            result.failed[picture] = str(error)
            continue
        worse = degrade(original, preset, np.random.default_rng([seed, zlib.crc32(picture.stem.encode())]))
        _write_picture(target, worse if layout == "partner" else stack(worse, original))
        result.written.append(target)
        if sheet is not None and len(rows) < SHEET_ROWS:
            rows.append((_thumbnail(worse), _thumbnail(original)))
    if sheet is not None and rows:
        table = contact_sheet(rows, ("degraded", "original"), SHEET_TILE, rows_per_column=-(-len(rows) // 4))
        _write_picture(Path(sheet), table)
    return result


def _targets(source: Path, output: Path) -> dict[Path, Path]:
    """Picture -> the PNG that it becomes."""
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    pictures = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not pictures:
        raise DataError(f"{source}: there is no picture in this folder")
    by_name: dict[str, Path] = {}
    for picture in pictures:
        other = by_name.setdefault(picture.stem, picture)
        if other is not picture:
            raise DataError(f"{source}: {other.name} and {picture.name} would both become {picture.stem}.png")
    return {picture: output / f"{picture.stem}.png" for picture in pictures}


def _prepared(image: np.ndarray, size: int | None) -> np.ndarray:
    if size is None or image.shape[:2] == (size, size):
        return image
    shrinks = size < min(image.shape[:2])
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (SHEET_TILE, SHEET_TILE), interpolation=cv2.INTER_AREA)


def _write_picture(path: Path, image: np.ndarray) -> None:
    """Writes beside and moves; the format follows the suffix."""
    try:
        done, data = cv2.imencode(path.suffix, image)
    except cv2.error:
        done = False
    if not done:
        raise DataError(f"{path}: pictures cannot be written in this format")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(data.tobytes())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ppgan-fr degrade`."""
    parser.add_argument("--preset", required=True, choices=list(PRESETS), metavar="NAME", help=", ".join(PRESETS))
    parser.add_argument("--input", required=True, help="folder of faces")
    parser.add_argument("--output", required=True, help="folder for the results, <name>.png")
    parser.add_argument("--seed", type=int, default=0, help="the same seed and file name give the same result")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="partner", help="the degraded face alone, or above its original"
    )
    parser.add_argument("--size", type=int, default=None, help="bring the originals to this side first")
    parser.add_argument("--contact-sheet", default=None, metavar="FILE", help="show the first pairs in one picture")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist already")


def run(args: argparse.Namespace) -> int:
    """Runs `ppgan-fr degrade`: 0 all done, 1 some pictures could not be read, 2 wrong usage."""
    result = degrade_faces(
        args.input,
        args.output,
        args.preset,
        args.seed,
        layout=args.layout,
        size=args.size,
        overwrite=args.overwrite,
        sheet=args.contact_sheet,
    )
    for reason in result.failed.values():
        print(reason, file=sys.stderr)  # noqa: T201
    print(f"{len(result.written)} faces in {args.output}")  # noqa: T201
    return 1 if result.failed else 0
