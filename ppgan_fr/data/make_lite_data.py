"""A tiny data set of faces: drawn ones that need no download, or a few of a folder.

    OUTPUT/train/*.png, OUTPUT/val/*.png     aligned faces, SIZE x SIZE
    OUTPUT/val_input/*.png                   degraded partners of val, GFP-GAN degradation
    OUTPUT/components.npz                    eye and mouth boxes of all of them, by file name

A drawn face is skin, hair, eyes, brows, nose and mouth as ellipses on the FFHQ template: enough for every term of every
recipe to have something to do, and for a smoke run to be the same everywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from ppgan_fr.data import degrade
from ppgan_fr.data.datasets import Folder, decode, fit
from ppgan_fr.data.loader import DataError
from ppgan_fr.data.make_components import boxes_from_landmarks, write_components
from ppgan_fr.face.align import FFHQ_512

SUPERSAMPLE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tools/make_lite_data.py`."""
    parser.add_argument("--output", type=Path, required=True, help="where the data set goes")
    parser.add_argument("--source", type=Path, help="a folder of aligned faces to take from instead of drawing")
    parser.add_argument("--size", type=int, default=512, help="side of the pictures in pixels")
    parser.add_argument("--train", type=int, default=12, help="training pictures")
    parser.add_argument("--val", type=int, default=4, help="validation pictures")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")


def run(arguments: argparse.Namespace) -> int:
    """Writes the data set."""
    if arguments.size < 32 or min(arguments.train, arguments.val) < 1:
        raise DataError("--size is at least 32, --train and --val at least 1")
    count = arguments.train + arguments.val
    pictures = _from_folder(arguments.source, count, arguments.size) if arguments.source else None
    boxes: dict[str, np.ndarray] = {}
    for number in range(count):
        rng = np.random.default_rng([arguments.seed, number])
        if pictures is None:
            face, landmarks = draw_face(arguments.size, rng)
        else:
            face, landmarks = pictures[number], FFHQ_512.array() * (arguments.size / 512)
        split = "train" if number < arguments.train else "val"
        name = f"{number:04d}.png"
        boxes[name] = boxes_from_landmarks(landmarks, arguments.size)
        _write(arguments.output / split / name, face)
        if split == "val":
            partner = degrade.degrade(face, "gfpgan", np.random.default_rng([arguments.seed, number, 1]))
            _write(arguments.output / "val_input" / name, partner)
    write_components(arguments.output / "components.npz", boxes, arguments.size)
    print(f"{arguments.output}: {arguments.train} + {arguments.val} faces of {arguments.size} pixels")  # noqa: T201
    return 0


def draw_face(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A cartoon of a face on the FFHQ template.

    Args:
        size: side in pixels.
        rng: decides colours, proportions and grain.

    Returns:
        (size, size, 3) uint8 BGR, and (5, 2) landmarks in its pixels.
    """
    side = size * SUPERSAMPLE
    points = FFHQ_512.array() + rng.normal(0, 4, (5, 2))
    canvas = _background(side, rng)
    unit = side / 512

    def ellipse(centre: tuple[float, float], axes: tuple[float, float], colour: np.ndarray, angle: float = 0.0) -> None:
        middle = (round(centre[0] * unit), round(centre[1] * unit))
        lengths = (max(round(axes[0] * unit), 1), max(round(axes[1] * unit), 1))
        cv2.ellipse(canvas, middle, lengths, angle, 0, 360, colour.tolist(), -1, cv2.LINE_AA)

    skin = np.array([90, 130, 185]) * rng.uniform(0.5, 1.25) + rng.normal(0, 8, 3)
    hair = np.array([30, 40, 60]) * rng.uniform(0.4, 3.0)
    lips = skin * [0.7, 0.6, 0.95]
    iris = rng.uniform(30, 150, 3)
    ellipse((256, 235), (190, 230), hair)
    ellipse((256, 500), (150, 120), skin * 0.85)
    ellipse((256, 290), (150 + rng.normal(0, 6), 200), skin)
    ellipse((256, 150), (150, 60 + rng.normal(0, 8)), skin * 1.05)
    for x, y in points[:2]:
        ellipse((x, y - 34), (38, 7 + rng.uniform(0, 4)), hair, rng.normal(0, 4))
        ellipse((x, y), (31, 15 + rng.uniform(0, 3)), np.array([225.0, 230, 235]))
        ellipse((x, y), (13, 13), iris)
        ellipse((x, y), (6, 6), np.array([10.0, 10, 10]))
        ellipse((x - 4, y - 4), (3, 3), np.array([250.0, 250, 250]))
    nose = points[2]
    ellipse((nose[0], nose[1] + 4), (24, 13), skin * 0.8)
    ellipse((nose[0] - 4, nose[1] - 40), (8, 44), skin * 1.12)
    left, right = points[3:]
    middle, half = (left + right) / 2, np.linalg.norm(right - left) / 2
    ellipse((middle[0], middle[1]), (half, 17 + rng.uniform(0, 5)), lips)
    ellipse((middle[0], middle[1]), (half * 0.85, 4 + rng.uniform(0, 5)), np.array([200.0, 205, 210]))
    canvas = cv2.GaussianBlur(np.clip(canvas, 0, 255), (0, 0), 1.2 * unit)
    face = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) + rng.normal(0, 3, (size, size, 3))
    return np.clip(np.rint(face), 0, 255).astype(np.uint8), (points * size / 512).astype(np.float32)


def _background(side: int, rng: np.random.Generator) -> np.ndarray:
    corners = rng.uniform(20, 220, (2, 2, 3)).astype(np.float32)
    return cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR).astype(np.float64)


def _from_folder(source: Path, count: int, size: int) -> list[np.ndarray]:
    folder = Folder(source)
    if len(folder.names) < count:
        raise DataError(f"{source}: {count} pictures are needed, there are {len(folder.names)}")
    return [fit(decode(folder.read(name), name), size, name) for name in folder.names[:count]]


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
