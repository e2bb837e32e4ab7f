"""Training pictures: good faces degraded on the fly, folders of pairs, synthetic faces with their latent codes.

Every class here is a `loader.Source`. `sample` gives a dictionary of
    lq, gt    (3, S, S) float32 RGB in [-1, 1]
    boxes     (3, 4) float32 x0, y0, x1, y1 in pixels: left eye, right eye (as seen), mouth; with `component_boxes`
    latent    (D,) or (L, D) float32; `LatentPairs` only
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ppgan_fr.config import Data, Degradation, find_file
from ppgan_fr.data import degrade
from ppgan_fr.data.loader import DataError, Sample, Source
from ppgan_fr.data.pairs import OriDgdFolders, StackedPairs

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
PARTS = ("left_eye", "right_eye", "mouth")


def dataset(data: Data) -> Source:
    """The data set that the section `data` describes.

    Raises:
        DataError: it is not there, is empty, or does not fit together.
    """
    kinds: dict[str, Callable[[Data], Source]] = {
        "degraded_faces": DegradedFaces,
        "paired_folder": PairedFolder,
        "latent_pairs": LatentPairs,
        "stacked_pairs": StackedPairs,
        "ori_dgd": OriDgdFolders,
    }
    return kinds[data.kind](data)


# ---------------------------------------------------------------- where the bytes are


class Folder:
    """The pictures below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
        found = (p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        self.names = sorted(str(p.relative_to(root)) for p in found)
        if not self.names:
            raise DataError(f"{root}: there are no pictures in this folder ({', '.join(SUFFIXES)})")

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.root / name).read_bytes()


class Lmdb:
    """An LMDB data base as BasicSR writes it: `x.lmdb/` with `meta_info.txt`, keys without suffix."""

    def __init__(self, root: Path) -> None:
        try:
            import lmdb
        except ImportError:
            raise DataError(f"{root}: reading LMDB needs the package: pip install lmdb==3.0.0") from None
        self.root = root
        meta = root / "meta_info.txt"
        if not meta.is_file():
            raise DataError(f"{root}: not a data base of pictures (meta_info.txt is missing)")
        self.names = [line.split(" ")[0] for line in meta.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not self.names:
            raise DataError(f"{meta}: names no picture")
        try:
            self.environment = lmdb.open(str(root), readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise DataError(f"{root}: {error}") from None

    def read(self, name: str) -> bytes:
        """The bytes stored for a name."""
        with self.environment.begin() as transaction:
            value = transaction.get(os.path.splitext(name)[0].encode())  # noqa: PTH122 - a key, not a path
        if value is None:
            raise DataError(f"{self.root}: {name} stands in meta_info.txt but not in the data base")
        return bytes(value)


def store(root: str | Path) -> Folder | Lmdb:
    """Pictures in a folder, or in an `.lmdb` data base."""
    path = find_file(root)
    return Lmdb(path) if path.suffix == ".lmdb" else Folder(path)


def write_lmdb(source: Path, target: Path) -> int:
    """Copies a folder of pictures into an `.lmdb` data base that `Lmdb` and BasicSR read; returns how many."""
    import lmdb

    folder = Folder(source)
    size = sum((source / name).stat().st_size for name in folder.names)
    lines = []
    environment = lmdb.open(str(target), map_size=size * 2 + (1 << 24))
    with environment.begin(write=True) as transaction:
        for name in folder.names:
            data = folder.read(name)
            height, width, channels = decode(data, name).shape
            transaction.put(os.path.splitext(name)[0].encode(), data)  # noqa: PTH122
            lines.append(f"{name} ({height},{width},{channels}) 1")
    environment.close()
    (target / "meta_info.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def decode(data: bytes, name: str) -> np.ndarray:
    """A picture file as (H, W, 3) uint8 BGR.

    Raises:
        DataError: it is not a picture, or ends too early.
    """
    if _truncated(data):
        raise DataError(f"{name}: the file ends too early")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise DataError(f"{name}: not a picture")
    return image


def _truncated(data: bytes) -> bool:
    """Whether a PNG or JPEG lacks its end; OpenCV would fill in gray without a word."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    return data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-4096:]


def to_network(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 BGR of [0, 1] -> (3, H, W) float32 RGB of [-1, 1]."""
    return np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)) * np.float32(2) - np.float32(1)


def fit(image: np.ndarray, size: int, name: str) -> np.ndarray:
    """A square picture at the side `size`; aligned faces may be scaled, anything else is no aligned face.

    Raises:
        DataError: not square.
    """
    height, width = image.shape[:2]
    if height != width:
        raise DataError(f"{name}: {width}x{height} is not square; training needs aligned faces")
    if height == size:
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if height > size else cv2.INTER_CUBIC)


# ---------------------------------------------------------------- where eyes and mouth are


@dataclass
class ComponentBoxes:
    """Centre and half side of the eyes and the mouth of every picture, in pixels of a picture of side `size`."""

    by_name: dict[str, dict[str, np.ndarray]]
    """Picture -> part -> (3,) x, y of the centre and half the side."""
    size: int
    enlarge: float = 1.4
    """Eye boxes are this much larger than the eye (GFP-GAN)."""
    by_index: bool = False
    """The file numbers the pictures instead of naming them."""
    source: str = ""
    _checked: bool = field(default=False, repr=False)

    @staticmethod
    def read(path: str | Path, size: int, enlarge: float = 1.4) -> ComponentBoxes:
        """Reads `.npz` or `.json` (`tools/make_components.py`), or the original's index-keyed `.pth`.

        Args:
            path: the file.
            size: side of the training pictures; what an original `.pth` refers to.
            enlarge: see the field.

        Raises:
            DataError: missing, broken, or not a file of component boxes.
        """
        path = find_file(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file (component boxes; tools/make_components.py makes it)")
        readers: dict[str, Callable[[Path], tuple[dict, int | None]]] = {
            ".npz": _read_npz,
            ".json": _read_json,
            ".pth": _read_pth,
        }
        if path.suffix not in readers:
            raise DataError(f"{path}: component boxes are .npz, .json or .pth files")
        try:
            entries, own_size = readers[path.suffix](path)
            by_name = {
                name: {part: np.asarray(parts[part], np.float64) for part in PARTS} for name, parts in entries.items()
            }
            if any(
                box.shape != (3,) or not np.isfinite(box).all() for parts in by_name.values() for box in parts.values()
            ):
                raise ValueError("a box is not three numbers: x, y, half side")
        except (KeyError, ValueError, TypeError, OSError, AttributeError) as error:
            raise DataError(f"{path}: not a file of component boxes ({error})") from None
        return ComponentBoxes(by_name, own_size or size, enlarge, by_index=path.suffix == ".pth", source=str(path))

    def check(self, names: Sequence[str]) -> list[str]:
        """Which pictures have no boxes.

        Raises:
            DataError: none has; the file belongs to other pictures.
        """
        missing = [name for index, name in enumerate(names) if self._key(index, name) not in self.by_name]
        if len(missing) == len(names):
            raise DataError(
                f"{self.source}: has boxes for none of the {len(names)} pictures "
                f"(it knows {next(iter(self.by_name), 'nothing')!r}, not {names[0]!r}); for another set?"
            )
        if self.by_index and len(self.by_name) != len(names):
            raise DataError(
                f"{self.source}: numbers {len(self.by_name)} pictures, the data set has {len(names)}; boxes found "
                "by number would be wrong. Use boxes by file name (tools/make_components.py)"
            )
        return missing

    def boxes(self, index: int, name: str, size: int, mirrored: bool, in_place: bool = False) -> np.ndarray:
        """The boxes of one picture.

        Args:
            index: number of the picture, for files that number them.
            name: its file name.
            size: side of the picture in pixels.
            mirrored: whether it was flipped left to right: the eyes change places, x becomes size - x.
            in_place: flip the stored boxes themselves. The original does, so that a picture flipped twice has the boxes
                of its mirror image; only for replaying its numbers.

        Returns:
            (3, 4) float32: left eye, right eye, mouth; x0, y0, x1, y1.

        Raises:
            DataError: there are none for this picture.
        """
        key = self._key(index, name)
        if key not in self.by_name:
            raise DataError(f"{name}: no component boxes in {self.source}")
        parts = self.by_name[key]
        if mirrored:
            flipped = {"left_eye": parts["right_eye"], "right_eye": parts["left_eye"], "mouth": parts["mouth"]}
            parts = {part: np.array([self.size - box[0], *box[1:]]) for part, box in flipped.items()}
            if in_place:
                self.by_name[key] = parts
        rows = []
        for part in PARTS:
            x, y, half = parts[part] * (size / self.size)
            half = half * self.enlarge if "eye" in part else half
            rows.append([x - half + 1, y - half + 1, x + half, y + half])
        return np.array(rows, np.float32)

    def _key(self, index: int, name: str) -> str:
        if self.by_index:
            return f"{index:08d}"
        return name if name in self.by_name else Path(name).name if Path(name).name in self.by_name else Path(name).stem


def _read_npz(path: Path) -> tuple[dict, int | None]:
    with np.load(path, allow_pickle=False) as archive:
        names, boxes = archive["names"], archive["boxes"]
        size = int(archive["size"]) if "size" in archive.files else None
    return {str(name): dict(zip(PARTS, rows, strict=True)) for name, rows in zip(names, boxes, strict=True)}, size


def _read_json(path: Path) -> tuple[dict, int | None]:
    tree = json.loads(path.read_text(encoding="utf-8"))
    size = tree.pop("size", None)
    return tree, size


def _read_pth(path: Path) -> tuple[dict, int | None]:
    from ppgan_fr.weights import load_torch

    return dict(load_torch(path)), None


# ---------------------------------------------------------------- the data sets


class DegradedFaces:
    """Good aligned faces; the low-quality partner is made when it is needed.

    With a `degrade.ReferenceDraws` in place of the Generator, `sample` replays the original's random numbers (and its
    habit of flipping stored boxes for good), which is how the port is compared with it.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self.store = store(data.root)
        self.degrade = degradation(data.degradation)
        self.components: ComponentBoxes | None = None
        if data.component_boxes is not None:
            self.components = ComponentBoxes.read(data.component_boxes, data.size, data.eye_enlarge)
            missing = self.components.check(self.store.names)
            if len(missing) > data.max_bad_fraction * len(self.store.names):
                raise DataError(
                    f"{self.components.source}: {len(missing)} of {len(self.store.names)} pictures have no boxes "
                    f"(first: {missing[0]})"
                )

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.store.names)

    def name(self, index: int) -> str:
        """Path of picture `index` below the root."""
        return self.store.names[index]

    def sample(self, index: int, rng: degrade.Rng) -> Sample:
        """See the module's docstring."""
        name = self.name(index)
        image = degrade.to_float(fit(_read(self.store, name), self.data.size, name))
        image, mirrored = degrade.mirror(image, rng, self.data.mirror)
        pair = self.degrade(image, rng)
        found = {"lq": to_network(pair.lq), "gt": to_network(pair.gt)}
        if self.components is not None:
            replay = isinstance(rng, degrade.ReferenceDraws)
            found["boxes"] = self.components.boxes(index, name, self.data.size, mirrored, in_place=replay)
        return found


class PairedFolder:
    """Low-quality pictures in one folder, originals of the same names (any suffix) in another."""

    def __init__(self, data: Data) -> None:
        if data.input_root is None:
            raise DataError("data.input_root: a paired folder needs the folder of low-quality pictures")
        self.data = data
        self.store, self.inputs = store(data.root), store(data.input_root)
        partners = {os.path.splitext(name)[0]: name for name in self.inputs.names}  # noqa: PTH122
        self.pairs = [
            (name, partners[stem])
            for name in self.store.names
            if (stem := os.path.splitext(name)[0]) in partners  # noqa: PTH122
        ]
        if not self.pairs:
            raise DataError(f"{data.input_root}: no picture has the name of one in {data.root}")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Path of the original below its root."""
        return self.pairs[index][0]

    def sample(self, index: int, rng: degrade.Rng) -> Sample:
        """See the module's docstring."""
        name, partner = self.pairs[index]
        gt = degrade.to_float(fit(_read(self.store, name), self.data.size, name))
        lq = degrade.to_float(fit(_read(self.inputs, partner), self.data.size, partner))
        mirrored = self.data.mirror and degrade.draws(rng).unit() < 0.5
        return {key: to_network(image[:, ::-1] if mirrored else image) for key, image in (("lq", lq), ("gt", gt))}


class LatentPairs:
    """Synthetic faces with the latent codes they were made from (`tools/make_faces.py`), degraded on the fly.

    Faces are never mirrored: the latent belongs to the picture as it is.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self.store = store(data.root)
        self.degrade = degradation(data.degradation)
        path = find_file(data.latents or Path(data.root) / "latents.npz")
        try:
            with np.load(path, allow_pickle=False) as archive:
                names, latents = [str(name) for name in archive["names"]], archive["latents"].astype(np.float32)
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{path}: not the latent codes of tools/make_faces.py ({error})") from None
        self.latents = dict(zip(names, latents, strict=True))
        self.names = [name for name in self.store.names if self._key(name) in self.latents]
        if not self.names:
            raise DataError(f"{path}: has no latent code for any picture in {data.root}")

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.names)

    def name(self, index: int) -> str:
        """Path of face `index` below the root."""
        return self.names[index]

    def sample(self, index: int, rng: degrade.Rng) -> Sample:
        """See the module's docstring."""
        name = self.names[index]
        image = degrade.to_float(fit(_read(self.store, name), self.data.size, name))
        pair = self.degrade(image, rng)
        return {"lq": to_network(pair.lq), "gt": to_network(pair.gt), "latent": self.latents[self._key(name)]}

    def _key(self, name: str) -> str:
        return next((key for key in (name, Path(name).name, Path(name).stem) if key in self.latents), name)


def degradation(section: Degradation) -> Callable[[np.ndarray, degrade.Rng], degrade.Pair]:
    """The function (image float32 BGR of [0, 1], rng) -> `Pair` that a section `degradation` describes."""
    if section.preset == "gfpgan":
        return lambda image, rng: degrade.gfpgan_pair(image, section.gfpgan, rng)
    if section.preset == "old_photo":
        return lambda image, rng: degrade.Pair(degrade.old_photo(image, section.old_photo, rng), image)
    if section.preset not in degrade.PRESETS:
        raise DataError(f"degradation.preset: there is no {section.preset!r}; available: {', '.join(degrade.PRESETS)}")
    return lambda image, rng: degrade.Pair(degrade.degrade(image, section.preset, rng), image)


def _read(source: Folder | Lmdb, name: str) -> np.ndarray:
    try:
        return decode(source.read(name), name)
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from None
