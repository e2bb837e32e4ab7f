"""Pairs of a degraded face and its original: one stacked file (HiFaceGAN) or two folders (Face-Renovation-Project).

Arrays that leave this module are float32 RGB (3, S, S), in [0, 1] unless said otherwise. How the originals' loaders
behave was learned from descriptions (`docs/hifacegan.md`); no code of theirs is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from ppgan_fr.config import Data, find_file
from ppgan_fr.data import degrade
from ppgan_fr.data.loader import DataError, Sample

Array = np.ndarray
Mirror = Literal["fixed", "as_published"]

STACKED_SUFFIXES = (".jpg", ".png", ".jpeg")
TEST_SIZE = 512
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Pair(NamedTuple):
    """A degraded face and its original."""

    lq: Array
    gt: Array


# ---------------------------------------------------------------- one file, [LQ over HQ]


def list_stacked(folder: str | Path) -> list[Path]:
    """The pair files of one folder (jpg, png, jpeg), sorted.

    Raises:
        DataError: no such folder, or no pair in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in STACKED_SUFFIXES)
    if not found:
        raise DataError(f"{folder}: there is no picture in this folder")
    return found


def stack(lq: Array, gt: Array) -> Array:
    """Writes a pair as one picture, the degraded face on top.

    Raises:
        DataError: the two differ in size.
    """
    if lq.shape != gt.shape:
        raise DataError(f"a pair must have one size, got {lq.shape} and {gt.shape}")
    return np.concatenate((lq, gt), axis=0)


def unstack(image: Array) -> tuple[Array, Array]:
    """Splits along the longer side into squares of the shorter side and returns the first two.

    Raises:
        DataError: the picture holds fewer than two squares (the original loops for ever on a square one).
    """
    height, width = image.shape[:2]
    side = min(height, width)
    if max(height, width) < 2 * side:
        raise DataError(f"not a pair: {width} x {height} pixels are not two squares")
    if height >= width:
        return image[:side], image[side : 2 * side]
    return image[:, :side], image[:, side : 2 * side]


def load_stacked_pair(path: str | Path, size: int, flip: bool = False, mirror: Mirror = "fixed") -> Pair:
    """Reads a pair for training.

    Args:
        path: the pair, two squares of any size above or beside one another.
        size: side of the result; the degraded face is resized by area, the original with a cubic.
        flip: mirror left and right.
        mirror: `as_published` mirrors the whole file before it is split, which swaps the two faces of a pair that lie
            side by side; `fixed` mirrors each face.

    Raises:
        DataError: unreadable, or not a pair.
    """
    image = _read_rgb(path)
    if flip and mirror == "as_published":
        image = image[:, ::-1]
    try:
        lq, gt = unstack(image)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if flip and mirror == "fixed":
        lq, gt = lq[:, ::-1], gt[:, ::-1]
    return Pair(_planes(_resized(lq, size, cv2.INTER_AREA)), _planes(_resized(gt, size, cv2.INTER_CUBIC)))


def load_stacked_test_pair(path: str | Path, size: int = TEST_SIZE) -> Pair:
    """Reads a pair for testing: the upper `size` rows are the degraded face, those below the original; no resizing.

    Raises:
        DataError: unreadable, or not `size` wide and twice as high.
    """
    image = _read_rgb(path)
    if image.shape[:2] != (2 * size, size):
        height, width = image.shape[:2]
        raise DataError(f"{path}: expected {size} x {2 * size} pixels, got {width} x {height}")
    return Pair(_planes(image[:size]), _planes(image[size:]))


def load_without_original(path: str | Path, size: int = TEST_SIZE) -> Array:
    """Reads a degraded picture of any shape: centred on a black square, resized bilinearly.

    Raises:
        DataError: unreadable.
    """
    image = _read_rgb(path)
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return _planes(_resized(square, size, cv2.INTER_LINEAR))


def to_image(planes: Array) -> Array:
    """(3, H, W) RGB of [0, 1] -> (H, W, 3) uint8 RGB as HiFaceGAN saves it: clipped, cut to integers, not rounded."""
    return np.clip(255.0 * np.transpose(planes, (1, 2, 0)), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- two folders, ori/ and dgd/


def list_folders(root: str | Path) -> list[tuple[Path, Path]]:
    """The pairs below `root`: (degraded, original) files with the same name in `dgd/` and `ori/`, sorted.

    Raises:
        DataError: a folder is missing or empty, or an original has no degraded partner.
    """
    ori, dgd = Path(root) / "ori", Path(root) / "dgd"
    for folder in (ori, dgd):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    originals = sorted(path for path in ori.iterdir() if path.is_file() and not path.name.startswith("."))
    if not originals:
        raise DataError(f"{ori}: there is no picture in this folder")
    partners = {path.stem: path for path in sorted(dgd.iterdir()) if path.is_file()}
    missing = [path.name for path in originals if path.stem not in partners]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{dgd}: {missing[0]}{more} of {ori} has no partner here")
    return [(partners[path.stem], path) for path in originals]


def load_folder_pair(
    lq_path: str | Path,
    gt_path: str | Path,
    crop: int = 768,
    size: int = 512,
    top: int = 0,
    left: int = 0,
    flip: bool = False,
) -> Pair:
    """Reads a pair with the same crop, mirror and resize for both, as the Face-Renovation-Project's data set does.

    Args:
        lq_path: the degraded picture.
        gt_path: the original.
        crop: side of the window, pixels.
        size: side of the result; bilinear with antialiasing, the arithmetic of Pillow.
        top: first row of the window.
        left: first column of the window.
        flip: mirror left and right.

    Returns:
        (lq, gt) in [0, 1]; `imagenet_normalised` gives what the original feeds to its network (in the order gt, lq).

    Raises:
        DataError: unreadable, the two differ in size, or the window does not fit.
    """
    return _folder_pair(_read_rgb(lq_path), _read_rgb(gt_path), str(lq_path), crop, size, top, left, flip)


def _folder_pair(lq: Array, gt: Array, name: str, crop: int, size: int, top: int, left: int, flip: bool) -> Pair:
    if lq.shape != gt.shape:
        raise DataError(f"{name}: the degraded picture and its original differ in size")
    height, width = gt.shape[:2]
    if not (0 <= top <= height - crop and 0 <= left <= width - crop):
        raise DataError(f"{name}: a window of {crop} at ({left}, {top}) does not fit into {width} x {height}")
    windows = [image[top : top + crop, left : left + crop] for image in (lq, gt)]
    return Pair(*(_planes(resize_antialiased(w[:, ::-1] if flip else w, size)) for w in windows))


def imagenet_normalised(planes: Array) -> Array:
    """(3, H, W) RGB of [0, 1], minus the mean and over the deviation of ImageNet."""
    mean, std = (np.float32(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (planes - mean) / std


def resize_antialiased(image: Array, size: int) -> Array:
    """Bilinear resize of (H, W, 3) uint8 to a square; the triangle filter widens when shrinking.

    Pillow's `BILINEAR` (bit for bit for a square image): a pass per axis, width first, fixed-point weights of 22 bits.
    """
    out = _pass(image, size, axis=1)
    return _pass(out, size, axis=0)


def _pass(image: Array, size: int, axis: int) -> Array:
    length = image.shape[axis]
    if length == size:
        return image
    scale = length / size
    reach = max(scale, 1.0)
    weights = np.zeros((size, length), np.int64)
    for index in range(size):
        centre = (index + 0.5) * scale
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), length)
        # Reciprocals, and a sum from left to right, because the last bit counts.
        taps = np.clip(1 - np.abs((np.arange(first, last) - centre + 0.5) * (1 / reach)), 0, None)
        weights[index, first:last] = np.floor(taps * (1 / sum(taps.tolist())) * 2**22 + 0.5)
    # float64 holds these sums exactly (below 2**53) and multiplies matrices faster than integers do.
    total = np.tensordot(weights.astype(np.float64), image.astype(np.float64), axes=(1, axis))
    levels = np.clip((total.astype(np.int64) + 2**21) >> 22, 0, 255).astype(np.uint8)
    return np.moveaxis(levels, 0, axis)


# ---------------------------------------------------------------- for training


class StackedPairs:
    """A folder of [LQ over HQ] files as a `loader.Source` (`data.kind: stacked_pairs`)."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.paths = list_stacked(find_file(data.root))

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """File name of pair `index`."""
        return self.paths[index].name

    def sample(self, index: int, rng: degrade.Rng) -> Sample:
        """`lq` and `gt`, (3, S, S) RGB in [-1, 1], mirrored in half of the cases."""
        flip = self.data.mirror and degrade.draws(rng).unit() < 0.5
        return _for_training(load_stacked_pair(self.paths[index], self.data.size, flip))


class OriDgdFolders:
    """A folder with `ori/` and `dgd/` as a `loader.Source` (`data.kind: ori_dgd`).

    A random window of three quarters of the side (768 of 1024 pixels in the Face-Renovation-Project) is brought to
    `data.size`.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self.paths = list_folders(find_file(data.root))

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """File name of the original of pair `index`."""
        return self.paths[index][1].name

    def sample(self, index: int, rng: degrade.Rng) -> Sample:
        """`lq` and `gt`, (3, S, S) RGB in [-1, 1]."""
        source = degrade.draws(rng)
        lq, gt = (_read_rgb(path) for path in self.paths[index])
        height, width = gt.shape[:2]
        crop = 3 * min(height, width) // 4
        top, left = source.integer(0, height - crop), source.integer(0, width - crop)
        flip = self.data.mirror and source.unit() > 0.5
        return _for_training(_folder_pair(lq, gt, self.name(index), crop, self.data.size, top, left, flip))


def _for_training(pair: Pair) -> Sample:
    return {"lq": pair.lq * np.float32(2) - np.float32(1), "gt": pair.gt * np.float32(2) - np.float32(1)}


# ---------------------------------------------------------------- shared


def read_bgr(path: str | Path) -> Array:
    """Reads a picture as (H, W, 3) uint8 BGR.

    Raises:
        DataError: there is no such file, or it is not a picture.
    """
    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise DataError(f"{path}: not a picture that can be read")
    return image


def _read_rgb(path: str | Path) -> Array:
    return np.ascontiguousarray(read_bgr(path)[:, :, ::-1])


def _resized(image: Array, size: int, interpolation: int) -> Array:
    if image.shape[:2] == (size, size):
        return image
    return cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=interpolation)


def _planes(image: Array) -> Array:
    """(H, W, 3) uint8 -> (3, H, W) float32 of [0, 1]."""
    return np.ascontiguousarray(np.transpose(image, (2, 0, 1)), dtype=np.float32) / np.float32(255)
