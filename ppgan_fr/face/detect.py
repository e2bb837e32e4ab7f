"""Find faces: boxes by YuNet, then five exact points in each box by ONet.

Both networks come as `Run` functions; everything here is numpy and OpenCV. Measured on portraits with hand-placed
landmarks, this pair errs by 2.3 to 2.6 % of the eye distance (YuNet's own points: 5.9 %). Half a pixel of slip in the
square that ONet sees costs 3 %, so the square is cut on whole pixels and never resampled before it is shrunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ppgan_fr.face.align import to_8_bit
from ppgan_fr.face.types import Detect, Face, Run

STRIDES = (8, 16, 32)
POINTS_SIDE = 48
DOUBTFUL = 0.8
"""Below this confidence of YuNet, ONet has to see a face too (probability of one half): a stone and a door knob are no
faces."""
MIRRORED = [1, 0, 2, 4, 3]
"""Order of the five points in a mirrored face."""


def detector(
    run_boxes: Run,
    run_points: Run | None = None,
    *,
    score: float = 0.6,
    overlap: float = 0.3,
    sizes: Sequence[int] = (640, 1920),
    far_score: float = 0.7,
) -> Detect:
    """Makes the function that finds faces in a picture.

    Args:
        run_boxes: YuNet; takes `{"image": (1, 3, h, w)}` BGR in [0, 255].
        run_points: ONet; takes `{"image": (n, 3, 48, 48)}`. Without it the points are YuNet's.
        score: smallest confidence of a face.
        overlap: two boxes that overlap by more than this (intersection over union) are one face.
        sizes: longest side in pixels of the picture that YuNet sees. The first finds everybody who stands close; large
            pictures are looked at again at each further size for the people in the back rows.
        far_score: smallest confidence of a face that only a further look finds; higher, since there is more to mistake
        for a small face.

    Returns:
        A function from (H, W, 3) uint8 or uint16 BGR to faces, the most confident first.
    """

    def detect(image: np.ndarray) -> list[Face]:
        image = to_8_bit(image)
        faces: list[Face] = []
        longest = max(image.shape[:2])
        seen = 0
        for size in sizes:
            size = min(size, longest)
            if size < 1.25 * seen:
                break
            threshold = score if not seen else max(score, far_score)
            found = find_boxes(image, run_boxes, size, threshold, overlap)
            if seen:
                found = [face for face in found if _is_new(face, faces, overlap)]
            faces += found
            seen = size
        if run_points is not None and faces:
            faces = refine_points(image, faces, run_points)
        return faces

    return detect


def find_boxes(image: np.ndarray, run: Run, size: int, score: float = 0.6, overlap: float = 0.3) -> list[Face]:
    """Runs YuNet on the picture scaled so that its longest side is at most `size`.

    Args:
        image: (H, W, 3) uint8 BGR.
        run: YuNet.
        size: longest side in pixels that the network sees.
        score: smallest confidence.
        overlap: of non-maximum suppression.

    Returns:
        Faces in pixels of `image`, the most confident first.
    """
    height, width = image.shape[:2]
    scale = min(1.0, size / max(height, width))
    small_width, small_height = max(1, round(width * scale)), max(1, round(height * scale))
    if scale < 1:
        image = cv2.resize(image, (small_width, small_height), interpolation=cv2.INTER_AREA)
    padded = np.zeros((-(-small_height // 32) * 32, -(-small_width // 32) * 32, 3), np.float32)
    padded[:small_height, :small_width] = image
    outputs = run({"image": np.ascontiguousarray(padded.transpose(2, 0, 1))[None]})
    boxes, points, scores = decode(outputs, padded.shape[:2])
    keep = suppress(boxes, scores, score, overlap)
    factor = np.array([width / small_width, height / small_height], np.float32)
    return [
        Face(
            box=(boxes[i] * np.tile(factor, 2)).astype(np.float32),
            landmarks=((points[i] + 0.5) * factor - 0.5).astype(np.float32),
            score=float(scores[i]),
        )
        for i in keep
    ]


def decode(outputs: Sequence[np.ndarray], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turns YuNet's twelve answers into candidates, one per cell of the three grids.

    Args:
        outputs: `cls`, `obj`, `bbox`, `kps`, each at strides 8, 16, 32, with a leading batch axis of one.
        shape: (H, W) of what the network saw.

    Returns:
        boxes (n, 4) x, y, width, height; points (n, 5, 2); scores (n,): the root of class times objectness.
    """
    boxes, points, scores = [], [], []
    for level, stride in enumerate(STRIDES):
        kind, there, box, point = (np.asarray(outputs[level + 3 * i])[0] for i in range(4))
        rows, columns = shape[0] // stride, shape[1] // stride
        cell = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2).astype(np.float32)
        scores.append(np.sqrt(np.clip(kind, 0, 1) * np.clip(there, 0, 1))[:, 0])
        centre = (cell + box[:, :2]) * stride
        side = np.exp(np.minimum(box[:, 2:], 10)) * stride
        boxes.append(np.concatenate([centre - side / 2, side], 1))
        points.append((point.reshape(-1, 5, 2) + cell[:, None]) * stride)
    return np.concatenate(boxes), np.concatenate(points), np.concatenate(scores)


def suppress(boxes: np.ndarray, scores: np.ndarray, score: float, overlap: float) -> list[int]:
    """Non-maximum suppression: indices of the boxes to keep, the most confident first."""
    order = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] >= score]
    kept: list[int] = []
    for i in order:
        if not kept or intersection_over_union(boxes[i], boxes[kept]).max() <= overlap:
            kept.append(i)
    return kept


def intersection_over_union(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of one box (4,) with each of (n, 4); x, y, width, height."""
    corner = np.maximum(box[:2], others[:, :2])
    far = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared = np.clip(far - corner, 0, None).prod(1)
    return shared / np.maximum(box[2:].prod() + others[:, 2:].prod(1) - shared, 1e-9)


def _is_new(face: Face, known: list[Face], overlap: float) -> bool:
    """Whether a face of a closer look is somebody else, and not a part (an eye, a mouth) of one already found."""
    if not known:
        return True
    boxes = np.stack([other.box for other in known])
    if intersection_over_union(face.box, boxes).max() > overlap:
        return False
    middle = face.box[:2] + face.box[2:] / 2
    return not ((middle >= boxes[:, :2]) & (middle <= boxes[:, :2] + boxes[:, 2:])).all(1).any()


def refine_points(image: np.ndarray, faces: Sequence[Face], run: Run, batch: int = 32) -> list[Face]:
    """Replaces the rough points of each face by ONet's, averaged over the face and its mirror image.

    ONet also judges: a find that YuNet is not sure of and ONet takes for something else is dropped. A face whose
    refined points are
    not those of a face (not finite, outside the square, eyes on top of each other) keeps the rough ones.

    Args:
        image: (H, W, 3) uint8 BGR.
        faces: with boxes in pixels of `image`.
        run: ONet.
        batch: how many squares go through the network at once.

    Returns:
        The faces that remain, in the same order.
    """
    refined: list[Face] = []
    for start in range(0, len(faces), batch):
        some = faces[start : start + batch]
        squares = [_square(image, face.box) for face in some]
        crops = np.stack([square[0] for square in squares])
        tensor = (crops[..., ::-1].astype(np.float32) - 127.5) / 128
        tensor = np.concatenate([tensor, tensor[:, :, ::-1]]).transpose(0, 3, 1, 2)
        outputs = run({"image": np.ascontiguousarray(tensor)})
        points = np.asarray(outputs[0]).reshape(-1, 2, 5).transpose(0, 2, 1)
        judged = np.asarray(outputs[2])[:, 1].reshape(2, -1).mean(0)
        straight, mirrored = points[: len(some)], points[len(some) :][:, MIRRORED].copy()
        mirrored[..., 0] = 1 - mirrored[..., 0]
        for face, (_, corner, side), relative, sure in zip(some, squares, (straight + mirrored) / 2, judged):
            if face.score < DOUBTFUL and sure < 0.5:
                continue
            # ONet counts from the outer edge of the square; everything else here from the centre of the first pixel.
            landmarks = (corner + relative * side - 0.5).astype(np.float32)
            refined.append(Face(face.box, landmarks if _plausible(relative) else face.landmarks, face.score))
    return refined


def _square(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The square around a box, on whole pixels, zeros outside the picture: (48, 48, 3) crop, its corner, its side."""
    centre, longest = box[:2] + box[2:] / 2, float(box[2:].max())
    corner = np.floor(centre - longest / 2).astype(int)
    side = int(np.ceil(longest)) + 1
    height, width = image.shape[:2]
    x0, y0 = np.clip(corner, 0, [width, height])
    x1, y1 = np.clip(corner + side, 0, [width, height])
    square = np.zeros((side, side, 3), np.uint8)
    square[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]] = image[y0:y1, x0:x1]
    method = cv2.INTER_AREA if side > POINTS_SIDE else cv2.INTER_LINEAR
    return cv2.resize(square, (POINTS_SIDE, POINTS_SIDE), interpolation=method), corner, side


def _plausible(relative: np.ndarray) -> bool:
    eyes = float(np.hypot(*(relative[1] - relative[0])))
    return bool(np.isfinite(relative).all() and relative.min() > -0.3 and relative.max() < 1.3 and eyes > 0.04)
