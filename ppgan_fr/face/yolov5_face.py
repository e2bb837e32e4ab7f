"""YOLOv5-face around its network: the picture it sees, the boxes it means, and a `Detect` function.

Written from a description of the behaviour of SGPN's demo; the network is `ppgan_fr/archs/yolov5_face.py`.
"""

from __future__ import annotations

import cv2
import numpy as np

from ppgan_fr.face.align import to_8_bit
from ppgan_fr.face.detect import suppress
from ppgan_fr.face.types import Detect, Face, Run

SHORT_SIDE = 416
"""Pixels of the shorter side of what the network sees."""
MULTIPLE = 32


def detector(run: Run, *, score: float = 0.5, overlap: float = 0.45, size: int = SHORT_SIDE) -> Detect:
    """Makes the function that finds faces in a picture.

    Args:
        run: the network; `{"image": (1, 3, h, w) RGB in [0, 1]}` -> decoded predictions (1, M, 16).
        score: smallest objectness, and smallest product of objectness and face score.
        overlap: a box goes when its intersection over union with a better one is above this.
        size: pixels of the shorter side that the network sees; a multiple of 32.

    Returns:
        A function from (H, W, 3) uint8 or uint16 BGR to faces, the most confident first; boxes may leave the picture.
    """

    def detect(image: np.ndarray) -> list[Face]:
        image = to_8_bit(image)
        tensor = network_input(image, size)
        predictions = np.asarray(run({"image": tensor})[0])[0]
        return found_faces(predictions, tensor.shape[2:], image.shape[:2], score, overlap)

    return detect


def network_size(height: int, width: int, short_side: int = SHORT_SIDE) -> tuple[int, int]:
    """(height, width) that the network sees: the shorter side fixed, the longer rounded up to a multiple of 32."""
    shorter, longer = sorted((height, width))
    rounded = -(-longer * short_side // (shorter * MULTIPLE)) * MULTIPLE
    return (short_side, rounded) if height <= width else (rounded, short_side)


def network_input(image: np.ndarray, short_side: int = SHORT_SIDE) -> np.ndarray:
    """(H, W, 3) uint8 BGR -> (1, 3, h, w) float32 RGB in [0, 1]; each axis has its own scale, as in the original."""
    height, width = network_size(*image.shape[:2], short_side)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(small[:, :, ::-1].transpose(2, 0, 1))[None].astype(np.float32) / 255


def found_faces(
    predictions: np.ndarray,
    seen: tuple[int, int],
    shape: tuple[int, int],
    score: float = 0.5,
    overlap: float = 0.45,
) -> list[Face]:
    """Turns decoded predictions into faces.

    Args:
        predictions: (M, 16): box centre and size, objectness, five points, face score; pixels of what the network saw.
        seen: (h, w) of what the network saw.
        shape: (H, W) of the picture.
        score: smallest objectness, and smallest product of objectness and face score.
        overlap: of non-maximum suppression.

    Returns:
        Faces in pixels of the picture, the most confident first.
    """
    rows = predictions[(predictions[:, 4] > score) & (predictions[:, 4] * predictions[:, 15] > score)]
    scores = rows[:, 4] * rows[:, 15]
    boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]], axis=1)
    factor = np.array([shape[1] / seen[1], shape[0] / seen[0]])
    return [
        Face(
            box=(boxes[i] * np.tile(factor, 2)).astype(np.float32),
            landmarks=(rows[i, 5:15].reshape(5, 2) * factor).astype(np.float32),
            score=float(scores[i]),
        )
        for i in suppress(boxes, scores, score, overlap)
    ]
