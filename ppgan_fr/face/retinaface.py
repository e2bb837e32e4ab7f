"""RetinaFace around its network: anchors, decoding, suppression, and a `Detect` function.

Source: facexlib `detection/retinaface.py` (MIT), read for its numbers.
"""

from __future__ import annotations

import cv2
import numpy as np

from ppgan_fr.face.align import to_8_bit
from ppgan_fr.face.types import Detect, Face, Run

STRIDES = (8, 16, 32)
ANCHOR_SIZES = ((16, 32), (64, 128), (256, 512))
VARIANCES = (0.1, 0.2)
MEAN_BGR = (104.0, 117.0, 123.0)


def priors(height: int, width: int) -> np.ndarray:
    """Anchors of an image: (A, 4) float32 centre x, centre y, width, height as parts of the image."""
    levels = []
    for stride, sizes in zip(STRIDES, ANCHOR_SIZES):
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = np.meshgrid(
            (np.arange(rows) + 0.5) * stride / height, (np.arange(columns) + 0.5) * stride / width, indexing="ij"
        )
        anchors = [np.stack([x, y, np.full_like(x, s / width), np.full_like(x, s / height)], axis=-1) for s in sizes]
        levels.append(np.stack(anchors, axis=2).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def decode_boxes(offsets: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(A, 4) offsets -> (A, 4) x0, y0, x1, y1 as parts of the image."""
    centre = anchors[:, :2] + offsets[:, :2] * VARIANCES[0] * anchors[:, 2:]
    size = anchors[:, 2:] * np.exp(offsets[:, 2:] * VARIANCES[1])
    low = centre - size / 2
    return np.concatenate([low, size + low], axis=1)


def decode_landmarks(offsets: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(A, 10) offsets -> (A, 10) x, y of five points as parts of the image."""
    points = anchors[:, None, :2] + offsets.reshape(-1, 5, 2) * VARIANCES[0] * anchors[:, None, 2:]
    return points.reshape(-1, 10)


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
    """Non-maximum suppression.

    Args:
        boxes: (n, 4) x0, y0, x1, y1.
        scores: (n,).
        overlap: a box goes when its intersection over union with a better one is above this.

    Returns:
        Indices of the boxes that stay, best first.
    """
    boxes = np.asarray(boxes, np.float32)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.argsort(-np.asarray(scores), kind="stable")
    keep = []
    while left.size:
        best, left = left[0], left[1:]
        keep.append(best)
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        both = np.prod(np.maximum(high - low, 0), axis=1)
        left = left[both <= overlap * (area[best] + area[left] - both)]
    return np.array(keep, np.int64)


def preprocess(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 BGR -> the network's input (1, 3, H, W) float32."""
    shifted = image.astype(np.float32) - np.array(MEAN_BGR, np.float32)
    return np.ascontiguousarray(shifted.transpose(2, 0, 1))[None]


def detector(
    run: Run, *, score: float = 0.97, overlap: float = 0.4, size: int | None = None, minimum_eye_distance: float = 5.0
) -> Detect:
    """Makes the function that finds faces in a picture, as GFP-GAN's helper does.

    Args:
        run: RetinaFace; takes `{"image": ...}` of `preprocess` and returns offsets, scores, landmarks.
        score: smallest confidence.
        overlap: of non-maximum suppression.
        size: shorter side in pixels of what the network sees; None: the picture as it is (the reference uses 640).
        minimum_eye_distance: faces with eyes nearer than this many pixels are left out.

    Returns:
        A function from (H, W, 3) uint8 or uint16 BGR to faces, the most confident first.
    """

    def detect(image: np.ndarray) -> list[Face]:
        image = to_8_bit(image)
        factor = 1.0
        if size is not None:
            factor = min(image.shape[:2]) / size
            small = (max(1, int(image.shape[1] / factor)), max(1, int(image.shape[0] / factor)))
            image = cv2.resize(image, small, interpolation=cv2.INTER_LANCZOS4)
        height, width = image.shape[:2]
        offsets, confidence, landmarks = (np.asarray(part)[0] for part in run({"image": preprocess(image)}))
        scores = confidence[:, 1]
        chosen = np.flatnonzero(scores > score)
        anchors = priors(height, width)[chosen]
        pixels = np.array([width, height], np.float32)
        boxes = decode_boxes(offsets[chosen], anchors) * np.tile(pixels, 2)
        points = decode_landmarks(landmarks[chosen], anchors).reshape(-1, 5, 2) * pixels
        faces = []
        for i in suppress(boxes, scores[chosen], overlap):
            box = boxes[i] * factor
            face = Face(
                box=np.concatenate([box[:2], box[2:] - box[:2]]).astype(np.float32),
                landmarks=(points[i] * factor).astype(np.float32),
                score=float(scores[chosen[i]]),
            )
            if np.hypot(*(face.landmarks[1] - face.landmarks[0])) >= minimum_eye_distance:
                faces.append(face)
        return faces

    return detect
