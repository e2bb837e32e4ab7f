"""Put restored faces back into the photo.

The default mask is the face itself, an ellipse laid through the landmarks with a soft edge; what lies outside it keeps
its bytes. All work happens
in the small part of the picture that the face covers, so a 24-megapixel group photo costs no more than its faces.

The masks of the reference implementation (facexlib's eroded square and its parsing mask, SGPN's rectangle) are here
under their names
to reproduce published results.
"""

from __future__ import annotations

import cv2
import numpy as np

from ppgan_fr.face.types import AlignedFace

FEATHER = 0.24
"""Width of the soft edge of the face mask, as a part of the ellipse's radius: it grows with the face."""

PARSING_FACE_CLASSES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15)
"""Classes of facexlib's parsing network that are pasted: all but background, neck (14), cloth (16), hair (17), hat
(18)."""


def face_mask(landmarks: np.ndarray, size: int = 512, feather: float = FEATHER) -> np.ndarray:
    """The face in an aligned crop: forehead to chin, ear to ear, without hair, neck and background.

    The ellipse stands on the line from between the eyes to the mouth, leans with the head, moves away from the nose
    when the head
    turns (the far cheek is short), and falls off smoothly (a cubic from 1 to 0) over `feather` of its radius.

    Args:
        landmarks: (5, 2) in pixels of the crop.
        size: side of the crop.
        feather: part of the radius over which the mask falls from 1 to 0.

    Returns:
        (size, size) float32 in [0, 1].
    """
    points = np.asarray(landmarks, np.float64)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    length = float(np.hypot(*down))
    eye_distance = float(np.hypot(*(points[1] - points[0])))
    if not (np.isfinite(points).all() and length > 1):
        raise ValueError("the landmarks are degenerate")
    down = down / length
    across = np.array([down[1], -down[0]])
    # 126 and 131 pixels in the FFHQ template: the face there is about 300 wide and 390 high, its middle just above the
    # nose tip.
    unit = max(length, 0.75 * eye_distance)
    turn = float(np.clip(((points[2] - (eyes + mouth) / 2) @ across) / unit, -0.35, 0.35))
    centre = (eyes + mouth) / 2 - 0.13 * unit * down - 0.35 * turn * unit * across
    radius_across = 1.24 * max(min(eye_distance * 1.04, 1.2 * unit), 0.8 * unit)
    radius_down = 1.52 * unit
    x, y = np.meshgrid(np.arange(size) - centre[0], np.arange(size) - centre[1])
    distance = np.hypot((x * across[0] + y * across[1]) / radius_across, (x * down[0] + y * down[1]) / radius_down)
    inside = np.clip((1 - distance) / feather, 0, 1)
    # An ellipse that leaves the crop still ends softly: the crop's own rim is never copied.
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]) / (0.06 * size)
    inside = np.minimum(inside, np.clip(np.minimum(edge[:, None], edge[None, :]), 0, 1))
    return (inside * inside * (3 - 2 * inside)).astype(np.float32)


def parsing_mask(labels: np.ndarray) -> np.ndarray:
    """Facexlib's mask from a face parsing: the face classes, blurred twice, with a ten-pixel rim of zeros.

    Args:
        labels: (512, 512) integer class of each pixel of the crop (19 classes of CelebAMask-HQ in facexlib's order).

    Returns:
        (512, 512) float64 in [0, 1].
    """
    mask = np.isin(labels, PARSING_FACE_CLASSES).astype(np.float64) * 255.0
    for _ in range(2):
        mask = cv2.GaussianBlur(mask, (101, 101), 11)
    rim = 10
    mask[:rim, :] = mask[-rim:, :] = 0
    mask[:, :rim] = mask[:, -rim:] = 0
    return mask / 255.0


def enlarge(image: np.ndarray, scale: float) -> np.ndarray:
    """The background of a larger (or smaller) result: (round(H * scale), round(W * scale), ...), always a new array."""
    if scale == 1:
        return image.copy()
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4 if scale > 1 else cv2.INTER_AREA)


def paste(
    image: np.ndarray,
    restored: np.ndarray,
    to_template: np.ndarray,
    mask: np.ndarray,
    scale: float = 1.0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Lays a restored crop over a picture through a mask given in the crop.

    Pixel centres are kept exactly: with a larger result, pixel (x, y) of it looks at ((x + 0.5) / scale - 0.5, ...) of
    the photo the matrix
    belongs to. Crops larger than the face in the picture are averaged down before sampling, smaller ones enlarged by
    cubic interpolation.

    Args:
        image: (H, W, 3) or (H, W), uint8 or uint16: the picture to paste into, already enlarged by `scale`.
        restored: (size, size, 3) uint8 BGR crop (or (size, size) for a gray picture).
        to_template: (2, 3), maps pixels of the *unscaled* photo to pixels of the crop.
        mask: (size, size) in [0, 1].
        scale: how much larger `image` is than the photo that `to_template` belongs to.
        out: where to write; `image` itself to paste in place. A copy when absent.

    Returns:
        The picture with the face, dtype of `image`. Where the mask is 0 every byte is as before.
    """
    result = image.copy() if out is None else out
    if out is not None and out is not image:
        np.copyto(out, image)
    matrix = _from_scaled(to_template, scale)
    x0, y0, x1, y1 = _region(mask, matrix, image.shape)
    if x1 <= x0 or y1 <= y0:
        return result
    matrix[:, 2] += matrix[:, :2] @ (x0, y0)
    crop, soft = restored.astype(np.float32), mask.astype(np.float32)
    crop_per_pixel = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if crop_per_pixel > 1:
        side = len(mask)
        smaller = max(8, round(side / crop_per_pixel))
        crop = cv2.resize(crop, (smaller, smaller), interpolation=cv2.INTER_AREA)
        soft = cv2.resize(soft, (smaller, smaller), interpolation=cv2.INTER_AREA)
        factor = smaller / side
        matrix = matrix * factor
        matrix[:, 2] += (factor - 1) / 2
    size = (x1 - x0, y1 - y0)
    inverse = cv2.WARP_INVERSE_MAP
    face = cv2.warpAffine(crop, matrix, size, flags=cv2.INTER_CUBIC | inverse, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(soft, matrix, size, flags=cv2.INTER_LINEAR | inverse, borderMode=cv2.BORDER_CONSTANT)
    weight[weight < 1 / 512] = 0
    part = result[y0:y1, x0:x1]
    limit = np.iinfo(image.dtype).max
    if image.dtype == np.uint16:
        face *= 257
    if image.ndim == 3:
        weight = weight[:, :, None]
    before = part.astype(np.float32)
    face -= before
    face *= weight
    face += before
    np.rint(face, out=face)
    np.clip(face, 0, limit, out=face)
    np.copyto(part, face.astype(image.dtype), where=weight > 0)
    return result


def _from_scaled(to_template: np.ndarray, scale: float) -> np.ndarray:
    """Matrix from pixels of the enlarged picture to pixels of the crop."""
    matrix = np.array(to_template, np.float64)
    matrix[:, 2] += matrix[:, :2] @ np.full(2, 0.5 / scale - 0.5)
    matrix[:, :2] /= scale
    return matrix


def _region(mask: np.ndarray, to_template: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part of the picture that the mask touches: x0, y0, x1, y1 (empty when it touches nothing)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, 0, 0
    left, right, top, bottom = columns[0] - 1, columns[-1] + 1, rows[0] - 1, rows[-1] + 1
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]], np.float64)
    inverse = cv2.invertAffineTransform(to_template)
    corners = corners @ inverse[:, :2].T + inverse[:, 2]
    low, high = np.floor(corners.min(0)) - 1, np.ceil(corners.max(0)) + 2
    height, width = shape[:2]
    x0, x1 = (int(np.clip(value, 0, width)) for value in (low[0], high[0]))
    y0, y1 = (int(np.clip(value, 0, height)) for value in (low[1], high[1]))
    return x0, y0, x1, y1


def reference_inverse(to_template: np.ndarray, scale: int = 1) -> np.ndarray:
    """Facexlib's matrix from crop to enlarged picture, *before* its half-pixel offset."""
    return cv2.invertAffineTransform(np.asarray(to_template, np.float64)) * scale


def paste_reference(
    image: np.ndarray,
    restored: np.ndarray,
    to_template: np.ndarray,
    labels: np.ndarray | None = None,
    scale: int = 1,
) -> np.ndarray:
    """Facexlib's own paste, kept to the letter: the crop's whole square, eroded and blurred, or its parsing mask.

    Source: facexlib `FaceRestoreHelper.paste_faces_to_input_image`. Works on the whole picture and truncates to uint8.

    Args:
        image: (H, W, 3) uint8 BGR, already enlarged by `scale` (facexlib: Lanczos).
        restored: (size, size, 3) uint8 BGR.
        to_template: (2, 3), maps pixels of the unscaled photo to pixels of the crop.
        labels: (512, 512) parsing classes of the restored crop; None pastes the square.
        scale: a whole number.

    Returns:
        (H, W, 3) float64, not yet rounded: the next face is pasted onto it, and `astype(uint8)` at the end truncates.
    """
    inverse = reference_inverse(to_template, scale)
    if scale > 1:
        inverse[:, 2] += 0.5 * scale
    size = image.shape[1], image.shape[0]
    face = cv2.warpAffine(restored, inverse, size)
    if labels is not None:
        mask = cv2.resize(parsing_mask(labels), restored.shape[:2])
        soft = cv2.warpAffine(mask, inverse, size, flags=cv2.INTER_AREA)[:, :, None]
    else:
        whole = cv2.warpAffine(np.ones(restored.shape[:2], np.float32), inverse, size)
        eroded = cv2.erode(whole, np.ones((2 * scale, 2 * scale), np.uint8))
        face = eroded[:, :, None] * face
        edge = int(np.sum(eroded) ** 0.5) // 20
        centre = cv2.erode(eroded, np.ones((edge * 2, edge * 2), np.uint8))
        soft = cv2.GaussianBlur(centre, (edge * 2 + 1, edge * 2 + 1), 0)[:, :, None]
    return soft * face + (1 - soft) * image


def paste_sgpn(image: np.ndarray, restored: np.ndarray, aligned: AlignedFace) -> np.ndarray:
    """SGPN's paste: result and input are blended inside the crop with a soft rectangle, then the whole square is laid
    back.

    Source: SGPN `demo_face_restoration.py`. The outer ring of the square is the resampled input.

    Args:
        image: (H, W, 3) uint8 BGR.
        restored: (S, S, 3) uint8 or float BGR; the rectangle's 26 pixels and its blur belong to 512 and scale with S.
        aligned: the crop that was restored.

    Returns:
        A new (H, W, 3) uint8 picture.
    """
    side = len(restored)
    mask = np.zeros((side, side), np.float32)
    rim = round(26 * side / 512)
    mask[rim : side - rim + 1, rim : side - rim + 1] = 1  # cv2.rectangle counts its last row and column in
    for _ in range(2):
        mask = cv2.GaussianBlur(mask, (101, 101), 4 * side / 512)
    mask = mask[:, :, None]
    blended = (restored * mask + aligned.image * (1 - mask)).astype(np.uint8)
    return cv2.warpAffine(
        blended,
        aligned.to_template,
        (image.shape[1], image.shape[0]),
        dst=image.copy(),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
