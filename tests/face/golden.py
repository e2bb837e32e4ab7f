"""Golden vectors of the geometry that Python and C++ share: `tests/golden/face/geometry.json`.

Each entry is a function's name, its arguments as the C++ program `golden_test` takes them, where in the flat answer to
look, and what is there. `python -m tests.face.golden` writes the file anew from the Python functions.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from ppgan_fr.face.align import FFHQ_512, align, similarity
from ppgan_fr.face.detect import POINTS_SIDE, suppress
from ppgan_fr.face.paste import face_mask, paste

FILE = Path(__file__).resolve().parents[1] / "golden" / "face" / "geometry.json"
SAMPLES = 150
CROP = 64
TOLERANCE = {"similarity": 2e-3, "mask": 1e-5, "warp": 8, "paste": 2, "suppress": 0, "enlarge": 0}
"""Between languages: OpenCV looks at 32nds of a pixel, so that one step of the harsh test pattern may be 8 levels. What
is whole numbers throughout is equal."""


def made_up(width: int, height: int, seed: int) -> np.ndarray:
    """The picture of golden_test.cc: (H, W, 3) uint8."""
    y, x, c = np.meshgrid(*(np.arange(n, dtype=np.uint32) for n in (height, width, 3)), indexing="ij")
    mixed = ((x // 4) * np.uint32(73856093)) ^ ((y // 4) * np.uint32(19349663)) ^ (c * np.uint32(83492791))
    return ((mixed ^ np.uint32(seed)) * np.uint32(2654435761) >> np.uint32(24)).astype(np.uint8)


def answer(name: str, arguments: list[float]) -> np.ndarray:
    """What Python makes of an entry, flat."""
    if name == "suppress":
        count, score, overlap = int(arguments[0]), arguments[1], arguments[2]
        numbers = np.array(arguments[3:], np.float32).reshape(count, 5)
        return np.array(suppress(numbers[:, :4], numbers[:, 4], score, overlap), float)
    if name == "enlarge":
        larger = cv2.resize(made_up(*map(int, arguments)), (POINTS_SIDE, POINTS_SIDE), interpolation=cv2.INTER_LINEAR)
        return larger.ravel().astype(float)
    points = np.array(arguments[-10:], float).reshape(5, 2)
    if name == "similarity":
        return similarity(points, FFHQ_512.array()).ravel()
    if name == "mask":
        return face_mask(points, int(arguments[0])).ravel()
    image = made_up(*map(int, arguments[:3]))
    cut = align(image, points, FFHQ_512.at_size(CROP))
    if name == "warp":
        return cut.image.ravel().astype(float)
    bright = (128 + cut.image // 2).astype(np.uint8)
    return paste(image, bright, cut.to_template, face_mask(cut.landmarks, CROP)).ravel().astype(float)


def entries() -> list[tuple[str, list[float]]]:
    """Faces of many sizes and turns, the same on every machine."""
    rng = np.random.default_rng(7)
    faces = []
    for _ in range(12):
        scale, angle = rng.uniform(0.08, 1.2), rng.uniform(-0.5, 0.5)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (FFHQ_512.array() + rng.normal(0, 5, (5, 2))) @ turn.T + rng.uniform(0, 60, 2)
        faces.append([round(float(value), 3) for value in points.ravel()])
    upright = align(np.zeros((600, 600, 3), np.uint8), np.array(faces[0]).reshape(5, 2), FFHQ_512).landmarks
    boxes = np.concatenate([rng.uniform(0, 60, (40, 2)), rng.uniform(10, 40, (40, 2)), rng.uniform(0, 1, (40, 1))], 1)
    return [
        *(("similarity", face) for face in faces),
        ("mask", [512, *(round(float(value), 3) for value in upright.ravel())]),
        *(("warp", [400, 360, 7, *face]) for face in faces[:6]),
        *(("paste", [400, 360, 9, *face]) for face in faces[6:]),
        ("suppress", [40, 0.4, 0.3, *(round(float(value), 4) for value in boxes.ravel())]),
        *(("enlarge", [side, side, 11]) for side in (21, 33, 47)),
    ]


def write() -> None:
    """Writes the file."""
    rng = np.random.default_rng(8)
    lines = []
    for name, arguments in entries():
        value = answer(name, arguments)
        if name == "enlarge":  # the first and the last row, where OpenCV rounds differently
            at = [*range(3 * POINTS_SIDE), *range(value.size - 3 * POINTS_SIDE, value.size)]
        elif value.size <= SAMPLES:
            at = list(range(value.size))
        else:
            at = sorted(rng.choice(value.size, SAMPLES, replace=False).tolist())
        expected = [round(float(value[i]), 5) for i in at]
        lines.append(json.dumps({"function": name, "arguments": arguments, "at": at, "expected": expected}))
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write()
