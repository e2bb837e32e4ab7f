"""Cut faces out so that their five landmarks match a named template.

Convention everywhere in `face/`: (x, y) in pixels, the *centre* of the first pixel is (0, 0); a matrix is named by
where it maps to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ppgan_fr.face.types import AlignedFace, Face


class AlignError(ValueError):
    """The landmarks do not determine a face (all equal, not finite, ...)."""


@dataclass(frozen=True)
class Template:
    """Where the landmarks go, and how the crop is cut."""

    name: str
    points: tuple[tuple[float, float], ...]
    """Five (x, y) in pixels of a crop of `size`: left eye as seen in the picture, right eye, nose, left and right mouth
    corner."""
    size: int = 512
    solver: str = "lmeds"
    """How the similarity is found: "lmeds" (least median of squares, as facexlib) or "umeyama" (least squares over all
    five)."""
    interpolation: int = cv2.INTER_LINEAR
    border: tuple[int, int, int] = (135, 133, 132)
    """BGR of what lies outside the picture; facexlib's gray."""

    def array(self) -> np.ndarray:
        """The points, (5, 2) float64."""
        return np.array(self.points, np.float64)

    def at_size(self, size: int | None) -> Template:
        """The same template for a crop of another side in pixels; None: as it is."""
        if size is None or size == self.size:
            return self
        points = (self.array() + 0.5) * (size / self.size) - 0.5
        return replace(self, points=tuple(map(tuple, points.tolist())), size=size)


FFHQ_512 = Template(
    "ffhq_512",
    (
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ),
)
"""Mean landmarks of FFHQ at 512 pixels, as used by GFP-GAN (facexlib)."""

_ARCFACE_96X112 = (
    (30.29459953, 51.69630051),
    (65.53179932, 51.50139999),
    (48.02519989, 71.73660278),
    (33.54930115, 92.3655014),
    (62.72990036, 92.20410156),
)

SGPN_512 = Template(
    "sgpn_512",
    # ArcFace's points, made square (+8 in x), with a quarter of 112 as margin on each side (+28), scaled from 168 to
    # 512.
    tuple(((x + 36.0) * 512.0 / 168.0, (y + 28.0) * 512.0 / 168.0) for x, y in _ARCFACE_96X112),
    solver="umeyama",
    interpolation=cv2.INTER_CUBIC,
    border=(0, 0, 0),
)
"""The template of SGPN's demo."""

TEMPLATES = {template.name: template for template in (FFHQ_512, SGPN_512)}


def named_template(name: str) -> Template:
    """Looks a template up by name.

    Raises:
        AlignError: there is none of that name.
    """
    if name not in TEMPLATES:
        raise AlignError(f"there is no template {name!r}; available: {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def similarity(source: np.ndarray, target: np.ndarray, solver: str = "lmeds") -> np.ndarray:
    """Rotation, uniform scale and shift that take `source` to `target`, as well as possible.

    Args:
        source: (n, 2) points.
        target: (n, 2) points.
        solver: "lmeds" or "umeyama" (Umeyama 1991, "Least-squares estimation of transformation parameters", without
        reflection).

    Returns:
        (2, 3) float64.

    Raises:
        AlignError: no finite similarity with a scale above zero fits.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if not (np.isfinite(source).all() and np.ptp(source, axis=0).max() > 0):
        raise AlignError("the landmarks are degenerate")
    if solver == "lmeds":
        matrix = cv2.estimateAffinePartial2D(source, target, method=cv2.LMEDS)[0]
    else:
        matrix = _umeyama(source, target)
    if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-12:
        raise AlignError("the landmarks are degenerate")
    return matrix


def _umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    source_mean, target_mean = source.mean(0), target.mean(0)
    centred = source - source_mean
    covariance = (target - target_mean).T @ centred / len(source)
    left, stretch, right = np.linalg.svd(covariance)
    sign = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])
    rotation = left @ np.diag(sign) @ right
    scale = (stretch * sign).sum() / centred.var(0).sum()
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])


def align(image: np.ndarray, face: Face | np.ndarray, template: Template = FFHQ_512) -> AlignedFace:
    """Warps a face so that its five landmarks match a template.

    Faces more than twice as large as the template are averaged down first; a plain warp would skip pixels.

    Args:
        image: the whole picture, (H, W, 3) uint8 or uint16 BGR.
        face: a detection, or its (5, 2) landmarks, in pixels of `image`.
        template: where the landmarks go.

    Returns:
        The uint8 crop, the landmarks in it, and the matrix that maps `image` pixels to crop pixels.

    Raises:
        AlignError: the landmarks are degenerate (for example all equal).
    """
    landmarks = np.asarray(face.landmarks if isinstance(face, Face) else face, np.float64)
    to_template = similarity(landmarks, template.array(), template.solver)
    crop = _warp(image, to_template, template)
    moved = landmarks @ to_template[:, :2].T + to_template[:, 2]
    return AlignedFace(crop, moved.astype(np.float32), to_template)


def already_aligned(image: np.ndarray, template: Template = FFHQ_512) -> AlignedFace:
    """Takes a picture that is a face crop already, of any size, as a face of the template."""
    height, width = image.shape[:2]
    horizontal, vertical = template.size / width, template.size / height
    to_template = np.array([[horizontal, 0, (horizontal - 1) / 2], [0, vertical, (vertical - 1) / 2]])
    crop = to_8_bit(image)
    if (height, width) != (template.size, template.size):
        smaller = height * width > template.size**2
        crop = cv2.resize(
            crop, (template.size, template.size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        )
    return AlignedFace(crop, template.array().astype(np.float32), to_template)


def to_8_bit(image: np.ndarray) -> np.ndarray:
    """(…) uint8 or uint16 -> uint8, rounded; uint8 comes back as it is."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _warp(image: np.ndarray, to_template: np.ndarray, template: Template) -> np.ndarray:
    side = template.size
    x0, y0, x1, y1 = _footprint(to_template, side, image.shape)
    if x1 <= x0 or y1 <= y0:
        return np.full((side, side, 3), template.border, np.uint8)
    scale = np.sqrt(abs(np.linalg.det(to_template[:, :2])))
    if scale > 0.5 and image.dtype == np.uint8:
        part, matrix = image, to_template
    else:
        part = to_8_bit(image[y0:y1, x0:x1])
        matrix = to_template.copy()
        matrix[:, 2] += matrix[:, :2] @ (x0, y0)
        if scale <= 0.5:
            height, width = part.shape[:2]
            smaller = max(1, round(width * scale)), max(1, round(height * scale))
            part = cv2.resize(part, smaller, interpolation=cv2.INTER_AREA)
            to_part = np.array([width / smaller[0], height / smaller[1]])
            matrix[:, 2] += matrix[:, :2] @ ((to_part - 1) / 2)
            matrix[:, :2] *= to_part
    return cv2.warpAffine(
        part,
        matrix,
        (side, side),
        flags=template.interpolation,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=template.border,
    )


def _footprint(to_template: np.ndarray, side: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part of the picture that a crop looks at, with two pixels to spare: x0, y0, x1, y1."""
    corners = np.array([[-1, -1], [side, -1], [-1, side], [side, side]], np.float64)
    inverse = cv2.invertAffineTransform(to_template)
    corners = corners @ inverse[:, :2].T + inverse[:, 2]
    low, high = np.floor(corners.min(0)) - 2, np.ceil(corners.max(0)) + 3
    height, width = shape[:2]
    x0, x1 = (int(np.clip(value, 0, width)) for value in (low[0], high[0]))
    y0, y1 = (int(np.clip(value, 0, height)) for value in (low[1], high[1]))
    return x0, y0, x1, y1
