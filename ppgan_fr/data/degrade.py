"""Degradations: one function per operation, and the published chains built from them.

Conventions
    image: (H, W, 3), BGR as OpenCV reads it, float32 in [0, 1] or uint8. The result has the same dtype; functions never
    change their input. Functions marked *eight bit* compute on uint8 like the programs they reproduce (a float image is
    rounded to 255 levels first).
    rng: a `numpy.random.Generator`, or a `ReferenceDraws`, which replays the draws of Python's `random` and of
    `numpy.random` in the order of the original programs. Functions without `rng` draw nothing.

Sources: GFP-GAN (`FFHQDegradationDataset`, TencentARC/GFPGAN) with the kernels and noises of BasicSR; HiFaceGAN
(`degrade.py`, Lotayou/Face-Renovation, written on imgaug 0.4) and the Face-Renovation-Project (SaintWatson), whose
behaviour is described in the comments beside each number; the old-photo operations are our own.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from pydantic import Field

from ppgan_fr.config import Frozen

Array = np.ndarray
Range = tuple[float, float]


# ---------------------------------------------------------------- random numbers


class Draws:
    """The random draws a degradation may make, taken from one `numpy.random.Generator`."""

    def __init__(self, generator: np.random.Generator):
        self._numpy: Any = generator

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        """Uniform numbers of [low, high)."""
        return self._numpy.uniform(low, high, size)

    def standard_normal(self, shape: Sequence[int]) -> Array:
        """Normal numbers, mean 0, deviation 1, float64."""
        return self._numpy.standard_normal(tuple(shape))

    def normal(self, scale: float, size: int) -> Array:
        """Normal numbers, mean 0, as the flat array of length `size`."""
        return self._numpy.normal(0, scale, size)

    def laplace(self, scale: float, size: int) -> Array:
        """Laplace numbers, mean 0, as the flat array of length `size`."""
        return self._numpy.laplace(0, scale, size)

    def poisson(self, rate: Array | float, size: Any = None) -> Array:
        """Poisson counts."""
        return self._numpy.poisson(rate, size)

    def permutation(self, n: int) -> Array:
        """The numbers 0..n-1 in random order."""
        return self._numpy.permutation(n)

    def unit(self) -> float:
        """One number of [0, 1): mirror decisions (`random.random()` in the originals)."""
        return float(self._numpy.uniform())

    def integer(self, low: int, high: int) -> int:
        """One integer of low..high, both included (`random.randint` in the originals)."""
        return int(self._numpy.integers(low, high + 1))

    def choice(self, items: Sequence, weights: Sequence[float]) -> Any:
        """One of the items, with probabilities proportional to the weights (`random.choices` in the originals)."""
        edges = np.cumsum(weights)
        return items[int(np.searchsorted(edges, self._numpy.uniform() * edges[-1], side="right"))]


class ReferenceDraws(Draws):
    """Replays programs that mix `random` and `numpy.random`, after `random.seed(s); numpy.random.seed(s)`.

    Two independent streams, both started at `seed`: decisions (`unit`, `integer`, `choice`) come from Python's
    generator, numbers from numpy's legacy one, exactly as in the originals.
    """

    def __init__(self, seed: int):
        self._python = random.Random(seed)
        self._numpy = np.random.RandomState(seed)

    def unit(self) -> float:
        """`random.random()`."""
        return self._python.random()

    def integer(self, low: int, high: int) -> int:
        """`random.randint(low, high)`."""
        return self._python.randint(low, high)

    def choice(self, items: Sequence, weights: Sequence[float]) -> Any:
        """`random.choices(items, weights)[0]`."""
        return self._python.choices(list(items), list(weights))[0]


Rng = np.random.Generator | Draws


def draws(rng: Rng) -> Draws:
    """The given `Draws`, or one around the given `numpy.random.Generator`."""
    return rng if isinstance(rng, Draws) else Draws(rng)


# ---------------------------------------------------------------- pixel formats


def to_uint8(image: Array) -> Array:
    """The image as uint8: a float image of [0, 1] is clipped and rounded to 255 levels, a uint8 image is returned."""
    if image.dtype == np.uint8:
        return image
    return np.clip(np.rint(image * 255.0), 0, 255).astype(np.uint8)


def to_float(image: Array) -> Array:
    """The image as float32 of [0, 1]."""
    return (
        image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32, copy=False)
    )


def _eight_bit(function: Callable[..., Array]) -> Callable[..., Array]:
    """Makes a function of uint8 images accept float images too; the result has the dtype of the argument."""

    @functools.wraps(function)
    def wrapped(image: Array, *args: Any, **kwargs: Any) -> Array:
        out = function(to_uint8(image), *args, **kwargs)
        return out if image.dtype == np.uint8 else to_float(out)

    return wrapped


def _in_float(function: Callable[..., Array]) -> Callable[..., Array]:
    """Makes a function of float32 images accept uint8 too; the result is clipped to [0, 1], in the argument's dtype."""

    @functools.wraps(function)
    def wrapped(image: Array, *args: Any, **kwargs: Any) -> Array:
        out = np.clip(function(to_float(image), *args, **kwargs), 0, 1).astype(np.float32, copy=False)
        return to_uint8(out) if image.dtype == np.uint8 else out

    return wrapped


# ---------------------------------------------------------------- blur kernels (BasicSR)


def _squared_distance(size: int, sigma_x: float, sigma_y: float, theta: float, isotropic: bool) -> Array:
    """x^T S^-1 x on the grid of a size x size kernel, S the covariance with axes sigma_x, sigma_y turned by theta."""
    if isotropic:
        covariance = np.array([[sigma_x**2, 0], [0, sigma_x**2]])
    else:
        turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
        covariance = turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T
    axis = np.arange(-size // 2 + 1.0, size // 2 + 1.0)
    points = np.stack(np.meshgrid(axis, axis), axis=-1)
    return np.sum((points @ np.linalg.inv(covariance)) * points, axis=2)


def gaussian_kernel(
    size: int, sigma_x: float, sigma_y: float | None = None, theta: float = 0.0, isotropic: bool = True
) -> Array:
    """Gaussian kernel exp(-d2 / 2), float64 (size, size), sum 1. Isotropic uses sigma_x only; theta in radians."""
    kernel = np.exp(-0.5 * _squared_distance(size, sigma_x, sigma_x if sigma_y is None else sigma_y, theta, isotropic))
    return kernel / np.sum(kernel)


def generalized_gaussian_kernel(
    size: int, sigma_x: float, sigma_y: float, theta: float, beta: float, isotropic: bool = True
) -> Array:
    """Generalised Gaussian kernel exp(-d2^beta / 2), float64, sum 1; beta = 1 is the Gaussian, larger is boxier."""
    kernel = np.exp(-0.5 * np.power(_squared_distance(size, sigma_x, sigma_y, theta, isotropic), beta))
    return kernel / np.sum(kernel)


def plateau_kernel(
    size: int, sigma_x: float, sigma_y: float, theta: float, beta: float, isotropic: bool = True
) -> Array:
    """Plateau kernel 1 / (1 + d2^beta), float64, sum 1."""
    kernel = 1.0 / (np.power(_squared_distance(size, sigma_x, sigma_y, theta, isotropic), beta) + 1)
    return kernel / np.sum(kernel)


def _bessel_j1(x: Array) -> Array:
    """Bessel function J1 by its integral (1/pi) int_0^pi cos(t - x sin t) dt.

    The integrand is periodic, so the trapezoid rule is exact to rounding once the number of points exceeds |x| clearly.
    """
    points = 64 + 2 * int(np.ceil(np.max(np.abs(x), initial=0.0)))
    t = (np.arange(2 * points) + 0.5) * (math.pi / points)
    return np.mean(np.cos(t - np.asarray(x)[..., None] * np.sin(t)), axis=-1)


def sinc_kernel(cutoff: float, size: int, pad_to: int = 0) -> Array:
    """Circular low-pass ("sinc") kernel, float64, sum 1.

    Args:
        cutoff: cut-off frequency in radians per pixel, at most pi.
        size: odd size of the kernel.
        pad_to: when larger than size, the kernel is surrounded by zeros up to this odd size.
    """
    if size % 2 == 0:
        raise ValueError(f"a sinc kernel has an odd size, got {size}")
    centre = (size - 1) / 2
    axis = np.arange(size) - centre
    radius = np.hypot(axis[:, None], axis[None, :])
    radius[size // 2, size // 2] = 1.0
    kernel = cutoff * _bessel_j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    kernel = kernel / np.sum(kernel)
    margin = (pad_to - size) // 2
    return np.pad(kernel, margin) if margin > 0 else kernel


def random_kernel(
    kind: str,
    size: int,
    sigma: Range,
    rng: Rng,
    rotation: Range = (-math.pi, math.pi),
    beta: Range = (0.5, 8.0),
    noise: Range | None = None,
) -> Array:
    """One random blur kernel of a kind, float64 (size, size), sum 1.

    Args:
        kind: iso, aniso, generalized_iso, generalized_aniso, plateau_iso or plateau_aniso.
        size: odd size.
        sigma: range of the standard deviations, pixels.
        rng: source of the draws: sigma_x, [sigma_y, rotation], [coin, beta], [noise].
        rotation: range of the angle, radians.
        beta: range of the shape; below and above 1 are equally likely.
        noise: range of a multiplicative noise on the kernel; the plateau kernels take it too.
    """
    rng = draws(rng)
    family, _, symmetry = kind.rpartition("_")
    if family not in ("", "generalized", "plateau") or symmetry not in ("iso", "aniso"):
        raise ValueError(f"unknown blur kernel '{kind}'")
    isotropic = symmetry == "iso"
    sigma_x = rng.uniform(*sigma)
    sigma_y, theta = (sigma_x, 0.0) if isotropic else (rng.uniform(*sigma), rng.uniform(*rotation))
    if family == "":
        kernel = gaussian_kernel(size, sigma_x, sigma_y, theta, isotropic)
    else:
        shape = rng.uniform(beta[0], 1) if rng.uniform() < 0.5 else rng.uniform(1, beta[1])
        make = generalized_gaussian_kernel if family == "generalized" else plateau_kernel
        kernel = make(size, sigma_x, sigma_y, theta, shape, isotropic)
    if noise is not None:
        kernel = kernel * rng.uniform(noise[0], noise[1], kernel.shape)
    return kernel / np.sum(kernel)


def random_mixed_kernel(
    kinds: Sequence[str],
    probabilities: Sequence[float],
    size: int,
    sigma: Range,
    rng: Rng,
    noise: Range | None = None,
) -> Array:
    """A `random_kernel` of a kind drawn with the given probabilities (plateau kernels never get the noise)."""
    rng = draws(rng)
    kind = rng.choice(kinds, probabilities)
    return random_kernel(kind, size, sigma, rng, noise=None if kind.startswith("plateau") else noise)


def blur(image: Array, kernel: Array) -> Array:
    """Correlates each channel with a kernel (H, W of the kernel odd), border mirrored without repeating the edge."""
    return cv2.filter2D(image, -1, kernel)


# ---------------------------------------------------------------- noise


def _gray_or_color(make: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...], gray: bool) -> Array:
    if gray:
        return np.repeat(make(shape[:2])[:, :, None], 3, axis=2)
    return make(shape)


def _bounded(image: Array, clip: bool, rounds: bool) -> Array:
    if rounds:
        levels = (image * 255.0).round()
        return (np.clip(levels, 0, 255) if clip else levels) / 255.0
    return np.clip(image, 0, 1) if clip else image


def gaussian_noise(
    image: Array, sigma: float, rng: Rng, gray: bool = False, clip: bool = True, rounds: bool = False
) -> Array:
    """Adds normal noise to a float32 image.

    Args:
        image: (H, W, 3) float32 of [0, 1].
        sigma: standard deviation in grey levels of 255.
        rng: source of the noise.
        gray: one value per pixel instead of one per pixel and channel.
        clip: clip the result to [0, 1].
        rounds: round the result to 255 levels.
    """
    rng = draws(rng)
    noise = _gray_or_color(lambda shape: np.float32(rng.standard_normal(shape)) * sigma / 255.0, image.shape, gray)
    return _bounded(image + noise, clip, rounds)


def random_gaussian_noise(
    image: Array,
    sigma: Range,
    rng: Rng,
    gray_probability: float = 0.0,
    clip: bool = True,
    rounds: bool = False,
) -> Array:
    """`gaussian_noise` with a deviation drawn from a range, gray with a probability."""
    rng = draws(rng)
    level = rng.uniform(*sigma)
    gray = bool(rng.uniform() < gray_probability)
    return gaussian_noise(image, level, rng, gray, clip, rounds)


def poisson_noise(
    image: Array, scale: float, rng: Rng, gray: bool = False, clip: bool = True, rounds: bool = False
) -> Array:
    """Adds photon ("shot") noise to a float32 image: Poisson counts of image * levels, levels a power of two.

    `levels` is the number of distinct values in the 8-bit image, rounded up to a power of two, as in scikit-image.
    """
    rng = draws(rng)
    clean = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if gray else image
    clean = np.clip((clean * 255.0).round(), 0, 255) / 255.0
    levels = float(2 ** np.ceil(np.log2(len(np.unique(clean)))))
    noise = (np.float32(rng.poisson(clean * levels) / levels) - clean) * scale
    if gray:
        noise = np.repeat(noise[:, :, None], 3, axis=2)
    return _bounded(image + noise, clip, rounds)


# ---------------------------------------------------------------- JPEG, resize


def jpeg(image: Array, quality: float) -> Array:
    """Compresses and decompresses as JPEG with OpenCV (4:2:0); fractions of quality are cut off, as the codec does."""
    levels = image if image.dtype == np.uint8 else to_uint8(np.clip(image, 0, 1))
    done, data = cv2.imencode(".jpg", levels, [int(cv2.IMWRITE_JPEG_QUALITY), int(quality)])
    if not done:
        raise ValueError("JPEG compression failed")
    out = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return out if image.dtype == np.uint8 else np.float32(out) / np.float32(255)


def random_jpeg(image: Array, quality: Range, rng: Rng) -> Array:
    """`jpeg` with a quality drawn uniformly from a range."""
    return jpeg(image, draws(rng).uniform(*quality))


def downsample(image: Array, scale: float, interpolation: int = cv2.INTER_LINEAR) -> Array:
    """Shrinks by a factor above or below 1: size = int(size // scale), at least 1 pixel."""
    height, width = image.shape[:2]
    return resize(image, max(int(width // scale), 1), max(int(height // scale), 1), interpolation)


def resize(image: Array, width: int, height: int, interpolation: int = cv2.INTER_LINEAR) -> Array:
    """OpenCV's resize (no antialiasing for linear and cubic)."""
    return cv2.resize(image, (width, height), interpolation=interpolation)


# ---------------------------------------------------------------- colour

_LUMA_RGB = np.array([0.2989, 0.587, 0.114], np.float32)  # weights of torchvision's rgb_to_grayscale


def _luma(image: Array) -> Array:
    """Luminance (H, W, 1) of a BGR float32 image, with torchvision's weights and order of summation."""
    blue, green, red = image[..., 0:1], image[..., 1:2], image[..., 2:3]
    return _LUMA_RGB[0] * red + _LUMA_RGB[1] * green + _LUMA_RGB[2] * blue


def _blend(image: Array, other: Array | float, factor: float) -> Array:
    mixed = np.float32(factor) * image + np.float32(1.0 - factor) * other
    return np.clip(mixed, 0, 1).astype(np.float32, copy=False)


def adjust_brightness(image: Array, factor: float) -> Array:
    """Scales a float32 image: 0 is black, 1 the image (torchvision's adjust_brightness)."""
    return _blend(image, np.float32(0), factor)


def adjust_contrast(image: Array, factor: float) -> Array:
    """Moves a float32 BGR image from (0) or away (above 1) from its mean luminance (torchvision's adjust_contrast)."""
    return _blend(image, np.float32(np.mean(_luma(image), dtype=np.float64)), factor)


def adjust_saturation(image: Array, factor: float) -> Array:
    """Moves a float32 BGR image from (0) or away (above 1) from its gray version (torchvision's adjust_saturation)."""
    return _blend(image, _luma(image), factor)


def adjust_hue(image: Array, shift: float) -> Array:
    """Turns the hue of a float32 BGR image by `shift` of a full turn, -0.5 to 0.5 (torchvision's adjust_hue)."""
    blue, green, red = image[..., 0], image[..., 1], image[..., 2]
    highest, lowest = image.max(axis=2), image.min(axis=2)
    flat = highest == lowest
    spread = highest - lowest
    saturation = spread / np.where(flat, np.float32(1), highest)
    divisor = np.where(flat, np.float32(1), spread)
    from_red, from_green, from_blue = ((highest - c) / divisor for c in (red, green, blue))
    hue = np.where(
        highest == red,
        from_blue - from_green,
        np.where(highest == green, np.float32(2) + from_red - from_blue, np.float32(4) + from_green - from_red),
    )
    hue = np.fmod(hue / np.float32(6) + np.float32(1), np.float32(1))
    hue = np.mod(hue + np.float32(shift), np.float32(1))

    sextant = np.floor(hue * np.float32(6))
    part = hue * np.float32(6) - sextant
    value = highest
    p = np.clip(value * (1 - saturation), 0, 1)
    q = np.clip(value * (1 - saturation * part), 0, 1)
    t = np.clip(value * (1 - saturation * (1 - part)), 0, 1)
    which = sextant.astype(np.int32) % 6
    out_red = np.choose(which, (value, q, p, p, t, value))
    out_green = np.choose(which, (t, value, value, q, p, p))
    out_blue = np.choose(which, (p, p, t, value, value, q))
    return np.stack((out_blue, out_green, out_red), axis=2).astype(np.float32, copy=False)


def color_shift(image: Array, shift: float, rng: Rng) -> Array:
    """Adds one random number of (-shift, shift) to each channel of a float32 image, clips to [0, 1]."""
    offset = np.asarray(draws(rng).uniform(-shift, shift, 3)).astype(np.float32)
    return np.clip(image + offset, 0, 1)


def color_jitter(
    image: Array,
    rng: Rng,
    brightness: Range | None = (0.5, 1.5),
    contrast: Range | None = (0.5, 1.5),
    saturation: Range | None = (0.0, 1.5),
    hue: Range | None = (-0.1, 0.1),
) -> Array:
    """Brightness, contrast, saturation and hue of a float32 BGR image, each drawn from its range, in random order.

    The original draws these from torch's generator, which is not replayed.
    """
    rng = draws(rng)
    steps = (
        (adjust_brightness, brightness),
        (adjust_contrast, contrast),
        (adjust_saturation, saturation),
        (adjust_hue, hue),
    )
    for index in rng.permutation(4):
        adjust, interval = steps[index]
        if interval is not None:
            image = adjust(image, rng.uniform(*interval))
    return image


def gray(image: Array) -> Array:
    """The luminance (OpenCV's weights) in all three channels."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None], 3, axis=2)


# ---------------------------------------------------------------- GFP-GAN


class GfpganOptions(Frozen):
    """The degradation of GFP-GAN, named as in its option files; the defaults are those of `train_gfpgan_v1.yml`."""

    blur_kernel_size: int = Field(41, gt=0)
    kernel_list: tuple[str, ...] = ("iso", "aniso")
    kernel_prob: tuple[float, ...] = (0.5, 0.5)
    blur_sigma: Range = (0.1, 10.0)
    downsample_range: Range = (0.8, 8.0)
    noise_range: Range | None = (0.0, 20.0)
    jpeg_range: Range | None = (60.0, 100.0)
    color_jitter_prob: float | None = 0.3
    color_jitter_shift: float = 20.0
    color_jitter_pt_prob: float | None = 0.3
    gray_prob: float | None = 0.01
    gt_gray: bool = False
    brightness: Range = (0.5, 1.5)
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.0, 1.5)
    hue: Range = (-0.1, 0.1)


class Pair(NamedTuple):
    """A degraded image and its target, both (H, W, 3) float32 of [0, 1]."""

    lq: Array
    gt: Array


def gfpgan_options(options: GfpganOptions | Mapping[str, Any] | None) -> GfpganOptions:
    """Options from a mapping (other keys of an original option file are left out), or the defaults."""
    if isinstance(options, GfpganOptions):
        return options
    known = {key: value for key, value in (options or {}).items() if key in GfpganOptions.model_fields}
    if options is not None:  # an option file without these keys means "never"
        known = {"color_jitter_prob": None, "color_jitter_pt_prob": None, "gray_prob": None, **known}
    return GfpganOptions(**known)


def gfpgan_pair(image: Array, options: GfpganOptions | Mapping[str, Any] | None, rng: Rng) -> Pair:
    """GFP-GAN's degradation and its target (which is the image, in gray when `gt_gray` and the gray draw hit).

    y = jpeg((x * k) downsampled + n) upsampled, then colour shift, gray, colour jitter (paper, equation 8), in the
    order and with the draws of `FFHQDegradationDataset.__getitem__` after the mirror.

    Args:
        image: (H, W, 3) float32 BGR of [0, 1].
        options: see `GfpganOptions`.
        rng: a Generator, or `ReferenceDraws` for the original's numbers.
    """
    rng, options = draws(rng), gfpgan_options(options)
    height, width = image.shape[:2]
    target = image
    kernel = random_mixed_kernel(
        options.kernel_list, options.kernel_prob, options.blur_kernel_size, options.blur_sigma, rng
    )
    lq = blur(image, kernel)
    lq = downsample(lq, rng.uniform(*options.downsample_range))
    if options.noise_range is not None:
        lq = random_gaussian_noise(lq, options.noise_range, rng)
    if options.jpeg_range is not None:
        lq = random_jpeg(lq, options.jpeg_range, rng)
    lq = resize(lq, width, height)
    if options.color_jitter_prob is not None and rng.uniform() < options.color_jitter_prob:
        lq = color_shift(lq, options.color_jitter_shift / 255.0, rng)
    if options.gray_prob and rng.uniform() < options.gray_prob:
        lq = gray(lq)
        if options.gt_gray:
            target = gray(target)
    if options.color_jitter_pt_prob is not None and rng.uniform() < options.color_jitter_pt_prob:
        lq = color_jitter(lq, rng, options.brightness, options.contrast, options.saturation, options.hue)
    lq = np.clip((lq * np.float32(255)).round(), 0, 255) / np.float32(255)
    return Pair(lq, target)


def gfpgan_degrade(image: Array, options: GfpganOptions | Mapping[str, Any] | None, rng: Rng) -> Array:
    """The degraded image of `gfpgan_pair`, (H, W, 3) float32 of [0, 1] on 255 levels."""
    return gfpgan_pair(image, options, rng).lq


def mirror(image: Array, rng: Rng, enabled: bool = True) -> tuple[Array, bool]:
    """Mirrors left-right with probability 1/2; draws nothing when not enabled. Returns the image and whether it was."""
    mirrored = enabled and draws(rng).unit() < 0.5
    return (np.ascontiguousarray(image[:, ::-1]) if mirrored else image), mirrored


# ---------------------------------------------------------------- HiFaceGAN


@_eight_bit
def add_values(image: Array, values: Array) -> Array:
    """Adds noise values in grey levels, rounded to integers, and clips (eight bit)."""
    return np.clip(image.astype(np.int64) + np.rint(values).astype(np.int64), 0, 255).astype(np.uint8)


@_eight_bit
def down_up(image: Array, factor: float, down: int = cv2.INTER_CUBIC, up: int = cv2.INTER_CUBIC) -> Array:
    """Shrinks to round(factor * size) and back to the original size (eight bit, cubic has no antialiasing)."""
    height, width = image.shape[:2]
    small = resize(image, max(round(factor * width), 1), max(round(factor * height), 1), down)
    return resize(small, width, height, up)


@_eight_bit
def mosaic(image: Array, block: int = 16) -> Array:
    """Replaces blocks of block x block pixels by their mean, rounded down (eight bit; "16x" of HiFaceGAN)."""
    height, width = image.shape[:2]
    out = image.copy()
    for top in range(0, height, block):
        for left in range(0, width, block):
            area = out[top : top + block, left : left + block]
            area[...] = area.reshape(-1, 3).mean(axis=0)
    return out


def gaussian_blur_size(sigma: float) -> int:
    """Kernel size of imgaug's Gaussian blur: int(3.3 s), from s = 3 int(2.9 s), from 5 int(2.6 s); odd, at least 5."""
    size = max(int((3.3 if sigma < 3.0 else 2.9 if sigma < 5.0 else 2.6) * sigma), 5)
    return size if size % 2 else size + 1


@_eight_bit
def gaussian_blur(image: Array, sigma: float, size: int | None = None) -> Array:
    """Gaussian blur on uint8, border mirrored (eight bit); the size defaults to imgaug's rule."""
    size = gaussian_blur_size(sigma) if size is None else size
    return cv2.GaussianBlur(image, (size, size), sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_REFLECT_101)


def motion_kernel(size: int, angle: float, direction: float) -> Array:
    """Kernel of a motion blur, float32 (k, k), sum 1, k = size or size + 1 when even (imgaug 0.4's MotionBlur).

    A vertical line with weights from d to 1 - d, d = (direction + 1) / 2, cut to 255 levels, turned clockwise.

    Args:
        size: length of the line, pixels.
        angle: clockwise angle, degrees; 0 is vertical.
        direction: -1 (weight ahead) to 1 (weight behind), 0 is uniform.
    """
    size = size + 1 if size % 2 == 0 else size
    weight = float((np.clip(np.float32(direction), -1, 1) + np.float32(1)) / np.float32(2))
    line = np.zeros((size, size), np.float32)
    line[:, size // 2] = np.linspace(weight, 1.0 - weight, num=size)
    centre = (size - 1) / 2
    turn = cv2.getRotationMatrix2D((centre, centre), -angle, 1.0)
    levels = cv2.warpAffine((line * 255).astype(np.uint8), turn, (size, size), flags=cv2.INTER_LINEAR)
    return (levels / levels.sum(dtype=np.float64)).astype(np.float32)


@_eight_bit
def motion_blur(image: Array, size: int, angle: float, direction: float) -> Array:
    """Motion blur with `motion_kernel` (eight bit)."""
    return cv2.filter2D(image, -1, motion_kernel(size, angle, direction))


def pil_quality(compression: float) -> int:
    """JPEG quality that imgaug's compression 0..100 stands for: 50..85 become 51..17."""
    return int(np.clip(round(1 + 99 * (1 - compression / 101)), 1, 100))


@_eight_bit
def jpeg_swapped(image: Array, quality: int) -> Array:
    """JPEG of a BGR image handed to the codec as if it were RGB, which is what HiFaceGAN's script did (eight bit)."""
    swapped = np.ascontiguousarray(image[:, :, ::-1])
    return np.ascontiguousarray(jpeg(swapped, quality)[:, :, ::-1])


def hifacegan_down(image: Array, rng: Rng, factor: Range = (0.125, 0.25)) -> Array:
    """Random resolution loss: factor of U(1/8, 1/4), cubic down and up."""
    return down_up(image, draws(rng).uniform(*factor))


def hifacegan_noise(image: Array, rng: Rng) -> Array:
    """One of Gaussian or Laplace noise of scale U(20, 40), or Poisson noise of rate U(15, 30) with a random sign."""
    rng = draws(rng)
    kind = rng.choice(("gaussian", "laplace", "poisson"), (1, 1, 1))
    if kind == "poisson":
        counts = rng.poisson(rng.uniform(15, 30), image.shape)
        return add_values(image, counts * np.where(rng.uniform(size=image.shape) < 0.5, -1, 1))
    draw = rng.normal if kind == "gaussian" else rng.laplace
    return add_values(image, draw(rng.uniform(20, 40), image.size).reshape(image.shape))


def hifacegan_blur(image: Array, rng: Rng) -> Array:
    """One of motion blur (length 10..20, any angle and direction) or Gaussian blur (sigma of U(3, 8))."""
    rng = draws(rng)
    if rng.choice(("motion", "gaussian"), (1, 1)) == "motion":
        return motion_blur(image, rng.integer(10, 20), rng.uniform(0, 360), rng.uniform(-1, 1))
    return gaussian_blur(image, rng.uniform(3, 8))


def hifacegan_jpeg(image: Array, rng: Rng) -> Array:
    """JPEG with imgaug's compression of U(50, 85), that is quality 51 to 17."""
    return jpeg_swapped(image, pil_quality(draws(rng).uniform(50, 85)))


def hifacegan_renovation(image: Array, rng: Rng) -> Array:
    """All of blur, noise, JPEG and resolution loss, in random order."""
    rng = draws(rng)
    steps = (hifacegan_blur, hifacegan_noise, hifacegan_jpeg, hifacegan_down)
    for index in rng.permutation(4):
        image = steps[index](image, rng)
    return image


def _hifacegan_sr4x(image: Array, rng: Rng) -> Array:
    return down_up(image, draws(rng).uniform(0.25, 0.25001), down=cv2.INTER_AREA)


def _hifacegan_sr16x(image: Array, rng: Rng) -> Array:
    return mosaic(image, 16)


# ---------------------------------------------------------------- Face-Renovation-Project

NoiseMode = Literal["fixed", "as_published"]


def wrapped_uint8(values: Array) -> Array:
    """Float values as the published script casts them: cut to integers, the low 8 bits (so -1.5 becomes 255)."""
    return (np.trunc(values).astype(np.int64) & 255).astype(np.uint8)


@_eight_bit
def face_renovation_noise_values(image: Array, values: Array, noise: NoiseMode = "fixed") -> Array:
    """Adds noise values in grey levels (eight bit).

    'as_published' reproduces the defect of the original: values of -1 and below wrap to 255 and less before a
    saturating addition, which turns about one pixel value in six white. 'fixed' adds signed values and clips.
    """
    if noise == "as_published":
        return cv2.add(image, wrapped_uint8(values))
    return add_values(image, values)


def face_renovation_down(image: Array, rng: Rng) -> Array:
    """Integer ratio 4..8, bilinear down and up (eight bit). Axes are kept, unlike the original (which swaps them)."""
    return down_by(image, draws(rng).integer(4, 8))


@_eight_bit
def down_by(image: Array, ratio: int) -> Array:
    """Bilinear to size // ratio and back (eight bit)."""
    height, width = image.shape[:2]
    return resize(resize(image, max(width // ratio, 1), max(height // ratio, 1)), width, height)


def face_renovation_noise(image: Array, rng: Rng, noise: NoiseMode = "fixed") -> Array:
    """Gaussian or Laplace noise of scale 2 U(0, 1) grey levels, one draw per picture."""
    rng = draws(rng)
    draw = (rng.normal, rng.laplace)[rng.integer(0, 1)]
    return face_renovation_noise_values(image, draw(rng.uniform() * 2, image.size).reshape(image.shape), noise)


def face_renovation_blur(image: Array, rng: Rng) -> Array:
    """Median or Gaussian blur, kernel 7, 9, ... 15, Gaussian sigma of U(0, 10)."""
    rng = draws(rng)
    median = rng.integer(0, 1) == 0
    size = 2 * rng.integer(3, 7) + 1
    return median_blur(image, size) if median else gaussian_blur(image, rng.uniform() * 10, size)


@_eight_bit
def median_blur(image: Array, size: int) -> Array:
    """Median filter of odd size (eight bit)."""
    return cv2.medianBlur(image, size)


def face_renovation_jpeg(image: Array, rng: Rng) -> Array:
    """JPEG with an integer quality of 50..85 (eight bit)."""
    quality = draws(rng).integer(50, 85)
    return _eight_bit(jpeg)(image, quality)


def face_renovation_degrade(image: Array, rng: Rng, noise: NoiseMode = "fixed") -> Array:
    """Resolution loss, noise, blur and JPEG, each once, in random order (eight bit, size kept).

    Args:
        image: (H, W, 3) BGR.
        rng: a Generator, or `ReferenceDraws` for the original's numbers.
        noise: 'as_published' reproduces the impulse noise of the published program, see `face_renovation_noise_values`.
    """
    rng = draws(rng)
    levels = to_uint8(image)
    steps = (
        face_renovation_down,
        functools.partial(face_renovation_noise, noise=noise),
        face_renovation_blur,
        face_renovation_jpeg,
    )
    for index in rng.permutation(4):
        levels = steps[index](levels, rng)
    return levels if image.dtype == np.uint8 else to_float(levels)


# ---------------------------------------------------------------- old photographs


@_in_float
def film_grain(image: Array, strength: float, rng: Rng, size: float = 1.0) -> Array:
    """Adds monochrome grain, strongest in the middle tones.

    Args:
        image: (H, W, 3).
        strength: standard deviation in mid gray, grey levels of 255.
        rng: source of the grain.
        size: standard deviation of a grain, pixels; 0 gives independent pixels.
    """
    noise = np.float32(draws(rng).standard_normal(image.shape[:2]))
    if size > 0:
        noise = cv2.GaussianBlur(noise, (0, 0), size)
        noise /= max(float(noise.std()), 1e-6)
    tone = image.mean(axis=2)
    envelope = 0.35 + 0.65 * 4 * tone * (1 - tone)
    return image + (noise * envelope * (strength / 255.0))[:, :, None]


@_in_float
def scratches(image: Array, count: int, rng: Rng, strength: float = 0.6) -> Array:
    """Draws thin bright or dark scratches (mostly vertical, as film is transported) and dust specks.

    Args:
        image: (H, W, 3).
        count: number of scratches; three times as many specks.
        rng: source of places and shapes.
        strength: opacity, 0 to 1.
    """
    rng = draws(rng)
    height, width = image.shape[:2]
    out = image
    for tone in (0.95, 0.08):
        layer = np.zeros((height, width), np.float32)
        for _ in range(count // 2 + (count % 2 if tone > 0.5 else 0)):
            x, top = rng.uniform(0, width), rng.uniform(-0.2, 0.8) * height
            length, lean = rng.uniform(0.1, 1.0) * height, rng.uniform(-0.15, 0.15)
            along = np.linspace(0, 1, 8)
            wobble = np.cumsum(rng.uniform(-1, 1, 8)) * 0.004 * width
            points = np.stack((x + lean * length * along + wobble, top + length * along), axis=1)
            thickness = max(1, round(rng.uniform(0.5, 2.5) * max(height, width) / 512))
            cv2.polylines(
                layer, [np.rint(points * 8).astype(np.int32)], False, rng.uniform(0.4, 1.0), thickness, cv2.LINE_AA, 3
            )
        for _ in range(3 * count // 2):
            centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
            cv2.circle(
                layer,
                centre,
                round(rng.uniform(0, 2.0) * max(height, width) / 512),
                rng.uniform(0.3, 1.0),
                -1,
                cv2.LINE_AA,
            )
        alpha = (cv2.GaussianBlur(layer, (3, 3), 0.6) * strength)[:, :, None]
        out = out * (1 - alpha) + tone * alpha
    return out


@_in_float
def fade(image: Array, amount: float, black: float = 0.25, white: float = 0.92) -> Array:
    """Loses contrast and saturation as an aged print does: tones move into [black, white].

    Args:
        image: (H, W, 3).
        amount: 0 (nothing) to 1 (all of it).
        black: where black goes.
        white: where white goes.
    """
    paler = adjust_saturation(image, 1 - 0.6 * amount)
    return (1 - amount) * paler + amount * (black + (white - black) * paler)


@_in_float
def sepia(image: Array, amount: float = 1.0) -> Array:
    """Tints toward brown: luminance times a warm tone, mixed in with `amount` of 0 to 1."""
    tone = _luma(image)
    toned = np.concatenate((tone * 0.72, tone * 0.90, tone * 1.07), axis=2)
    return (1 - amount) * image + amount * toned


@_in_float
def vignette(image: Array, amount: float) -> Array:
    """Darkens toward the corners: `amount` of the light is lost in the very corner."""
    height, width = image.shape[:2]
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    return image * (1 - amount * (x * x + y * y) / 2)[:, :, None]


class OldPhotoOptions(Frozen):
    """Probabilities and ranges of `old_photo`; a probability of 0 switches an operation off."""

    gray_prob: float = 0.5
    sepia_prob: float = 0.4
    fade_prob: float = 0.6
    fade_range: Range = (0.2, 0.9)
    motion_blur_prob: float = 0.15
    motion_blur_range: tuple[int, int] = (3, 9)
    grain_prob: float = 0.7
    grain_range: Range = (2.0, 12.0)
    grain_size: Range = (0.5, 1.6)
    scratches_prob: float = 0.4
    scratches_range: tuple[int, int] = (1, 8)
    vignette_prob: float = 0.3
    vignette_range: Range = (0.1, 0.5)


def old_photo(image: Array, options: OldPhotoOptions | None, rng: Rng) -> Array:
    """Ages a picture: motion blur, gray or sepia, fading, vignette, grain, scratches, each with its probability."""
    rng, o = draws(rng), options or OldPhotoOptions()
    if rng.uniform() < o.motion_blur_prob:
        image = motion_blur(image, rng.integer(*o.motion_blur_range), rng.uniform(0, 360), rng.uniform(-1, 1))
    if rng.uniform() < o.gray_prob:
        image = gray(image)
    if rng.uniform() < o.sepia_prob:
        image = sepia(image, rng.uniform(0.4, 1.0))
    if rng.uniform() < o.fade_prob:
        image = fade(image, rng.uniform(*o.fade_range))
    if rng.uniform() < o.vignette_prob:
        image = vignette(image, rng.uniform(*o.vignette_range))
    if rng.uniform() < o.grain_prob:
        image = film_grain(image, rng.uniform(*o.grain_range), rng, rng.uniform(*o.grain_size))
    if rng.uniform() < o.scratches_prob:
        image = scratches(image, rng.integer(*o.scratches_range), rng)
    return image


# ---------------------------------------------------------------- presets

PRESETS: dict[str, Callable[[Array, Rng], Array]] = {
    "gfpgan": lambda image, rng: gfpgan_degrade(to_float(image), None, rng),
    "hifacegan_sr4x": _hifacegan_sr4x,
    "hifacegan_sr4x8x": hifacegan_down,
    "hifacegan_sr16x": _hifacegan_sr16x,
    "hifacegan_denoise": hifacegan_noise,
    "hifacegan_deblur": hifacegan_blur,
    "hifacegan_jpeg": hifacegan_jpeg,
    "hifacegan_renovation": hifacegan_renovation,
    "face_renovation": face_renovation_degrade,
    "face_renovation_as_published": functools.partial(face_renovation_degrade, noise="as_published"),
    "old_photo": lambda image, rng: old_photo(image, None, rng),
}


def degrade(image: Array, preset: str, rng: Rng) -> Array:
    """Applies a named preset; the result has the image's dtype.

    Args:
        image: (H, W, 3) BGR, uint8 or float32 of [0, 1].
        preset: one of `PRESETS`.
        rng: a Generator or `ReferenceDraws`.

    Raises:
        ValueError: the preset is unknown.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown degradation '{preset}'; there are {', '.join(PRESETS)}")
    out = PRESETS[preset](image, rng)
    return to_uint8(out) if image.dtype == np.uint8 else to_float(out)
