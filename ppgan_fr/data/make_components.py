"""Eye and mouth boxes of a folder of aligned faces, from our own landmarks, keyed by file name.

The boxes feed GFP-GAN's component losses. They are what the original stores for FFHQ: the centre of an eye or of the
mouth and half the side of a square around it, in pixels, where the side is that of the part itself (training enlarges
the eyes by 1.4). From five landmarks: an eye is 0.48 of the distance between the eyes wide, the mouth as wide as its
corners; half sides are at least 16 pixels of 512, as in the original.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from ppgan_fr.data.loader import DataError

EYE_HALF = 0.24
"""Half the width of an eye as a part of the distance between the eyes (about 30 of 63 mm)."""
SMALLEST_HALF = 16 / 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tools/make_components.py`."""
    parser.add_argument("--input", type=Path, required=True, help="a folder of aligned faces, all of one size")
    parser.add_argument("--output", type=Path, required=True, help="the .npz file")
    parser.add_argument("--size", type=int, default=512, help="side that the boxes refer to")


def run(arguments: argparse.Namespace) -> int:
    """Writes the file; 1 when some pictures have no face or cannot be read."""
    import cv2
    from tqdm import tqdm

    from ppgan_fr.data.datasets import Folder, decode, fit

    folder = Folder(arguments.input)
    detect = _detector()
    boxes, failures = {}, []
    for name in tqdm(folder.names, unit="face", disable=None):
        try:
            image = fit(decode(folder.read(name), name), arguments.size, name)
        except DataError as error:
            failures.append(str(error))
            continue
        landmarks = find_landmarks(detect, image, cv2)
        if landmarks is None:
            failures.append(f"{name}: no face found")
        else:
            boxes[name] = boxes_from_landmarks(landmarks, arguments.size)
    for line in failures:
        print(line)  # noqa: T201
    if not boxes:
        raise DataError(f"{arguments.input}: no face was found in any of {len(folder.names)} pictures")
    write_components(arguments.output, boxes, arguments.size)
    print(f"{arguments.output}: {len(boxes)} of {len(folder.names)} pictures")  # noqa: T201
    return 1 if failures else 0


def find_landmarks(detect, image: np.ndarray, cv2) -> np.ndarray | None:  # noqa: ANN001 - a Detect, a module
    """Five landmarks of the largest face; a face that fills the picture is looked for with a margin around it."""
    side = image.shape[0]
    for margin in (0, side // 4):
        padded = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REFLECT_101) if margin else image
        faces = detect(padded)
        if faces:
            largest = max(faces, key=lambda face: face.box[2] * face.box[3])
            return np.asarray(largest.landmarks, np.float64) - margin
    return None


def boxes_from_landmarks(landmarks: np.ndarray, size: int) -> np.ndarray:
    """The three boxes of one face.

    Args:
        landmarks: (5, 2) x, y in pixels: left eye (as seen), right eye, nose, left and right corner of the mouth.
        size: side of the picture.

    Returns:
        (3, 3) float64: left eye, right eye, mouth; x, y of the centre and half the side, in pixels.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = np.asarray(landmarks, np.float64)
    smallest = SMALLEST_HALF * size
    eye = max(EYE_HALF * float(np.linalg.norm(right_eye - left_eye)), smallest)
    mouth = max(float(np.linalg.norm(right_mouth - left_mouth)) / 2, smallest)
    return np.array([[*left_eye, eye], [*right_eye, eye], [*(left_mouth + right_mouth) / 2, mouth]])


def write_components(path: Path, boxes: dict[str, np.ndarray], size: int) -> None:
    """Writes the file that `datasets.ComponentBoxes` reads; beside it first, then moved over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    names = sorted(boxes)
    with beside.open("wb") as file:
        np.savez(file, names=np.array(names), boxes=np.stack([boxes[name] for name in names]), size=np.array(size))
    os.replace(beside, path)  # noqa: PTH105


def _detector():  # noqa: ANN202 - a Detect
    from ppgan_fr.config import Detector
    from ppgan_fr.restorer import face_detector

    return face_detector(Detector())
