"""Linear 3D face models (morphable models): the data, its file, checks that keep a broken file from drawing noise.

Blanz and Vetter, "A Morphable Model for the Synthesis of 3D Faces", SIGGRAPH 1999. A face is
mean + identity basis @ coefficients + expression basis @ coefficients; its colours likewise.

The file is `.npz` of plain arrays (never pickled objects). `tools/make_face_model.py` makes one: from the MATLAB
file of SGPN or Deep3DFaceRecon, from the registered download of the Basel Face Model, or a synthetic one of our own
that needs no licence.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

IDENTITY, EXPRESSION, TEXTURE = 80, 64, 80
"""Number of coefficients of each kind."""
LANDMARKS = 68
HOW_TO_GET = (
    "make one with tools/make_face_model.py: --synthetic for a model without a licence, --mat for BFM09_model_info.mat "
    "or BFM_model_front.mat, --bfm for the registered Basel Face Model 2009 download (see docs/sgpn.md)"
)


class FaceModelError(ValueError):
    """A face model file is missing, damaged or inconsistent; the message says which and how to get a good one."""


@dataclass(frozen=True)
class FaceModel:
    """N vertices, F triangles; lengths in decimetres, colours RGB in [0, 255]."""

    mean_shape: np.ndarray
    """(N, 3) float32."""
    identity_basis: np.ndarray
    """(3 N, 80) float32, rows x y z of the first vertex, then of the second, ..."""
    expression_basis: np.ndarray
    """(3 N, 64) float32."""
    mean_texture: np.ndarray
    """(N, 3) float32."""
    texture_basis: np.ndarray
    """(3 N, 80) float32."""
    triangles: np.ndarray
    """(F, 3) int32 vertex indices from 0."""
    triangles_around: np.ndarray
    """(N, K) int32 indices of the triangles at each vertex, padded with F."""
    landmarks: np.ndarray
    """(68,) int32 vertex indices of the iBUG landmarks."""
    name: str = "unnamed"

    def __post_init__(self) -> None:
        """Checks that everything fits together.

        Raises:
            FaceModelError: naming the first part that does not.
        """
        vertices = len(self.mean_shape)
        expected = {
            "mean_shape": (vertices, 3),
            "identity_basis": (3 * vertices, IDENTITY),
            "expression_basis": (3 * vertices, EXPRESSION),
            "mean_texture": (vertices, 3),
            "texture_basis": (3 * vertices, TEXTURE),
            "triangles": (len(self.triangles), 3),
            "triangles_around": (vertices, *self.triangles_around.shape[1:2]),
            "landmarks": (LANDMARKS,),
        }
        for field, shape in expected.items():
            value = getattr(self, field)
            if value.shape != shape:
                raise FaceModelError(f"{field} has shape {value.shape}, expected {shape}")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise FaceModelError(f"{field} holds values that are not finite")
        limits = {"triangles": vertices, "landmarks": vertices, "triangles_around": len(self.triangles) + 1}
        for field, limit in limits.items():
            value = getattr(self, field)
            if value.size == 0:
                raise FaceModelError(f"{field} is empty")
            if value.min() < 0 or value.max() >= limit:
                raise FaceModelError(f"{field} has an index outside 0..{limit - 1}: {value.min()} to {value.max()}")
        isolated = np.flatnonzero((self.triangles_around == len(self.triangles)).all(axis=1))
        if isolated.size:
            raise FaceModelError(
                f"{isolated.size} vertices belong to no triangle, the first is {isolated[0]}: they have no normal"
            )

    @property
    def centre(self) -> np.ndarray:
        """(3,) float32, mean over the vertices of the mean shape; fitted shapes are centred with it."""
        return self.mean_shape.mean(axis=0)


def read_face_model(path: str | Path) -> FaceModel:
    """Reads a model that `write_face_model` wrote.

    Raises:
        FaceModelError: the file is missing, not ours, or inconsistent.
    """
    path = Path(path)
    if not path.is_file():
        raise FaceModelError(f"{path}: no such file; {HOW_TO_GET}")
    if path.suffix.lower() == ".mat":
        raise FaceModelError(
            f"{path}: a MATLAB file; convert it once: tools/make_face_model.py --mat {path} --output face_model.npz"
        )
    fields = [field for field in FaceModel.__dataclass_fields__ if field != "name"]
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [field for field in fields if field not in file.files]
            if missing:
                raise FaceModelError(f"{path}: not a face model: {', '.join(missing)} missing; {HOW_TO_GET}")
            arrays = {field: file[field] for field in fields}
            name = str(file["name"]) if "name" in file.files else path.stem
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, TypeError) as error:
        raise FaceModelError(f"{path}: damaged or not a face model ({error}); {HOW_TO_GET}") from error
    except FaceModelError:
        raise
    except ValueError as error:  # numpy's word for "holds pickled objects" and for a damaged header
        raise FaceModelError(f"{path}: damaged or not a face model ({error}); {HOW_TO_GET}") from error
    try:
        return FaceModel(**{field: _as_stored(value) for field, value in arrays.items()}, name=name)
    except FaceModelError as error:
        raise FaceModelError(f"{path}: {error}") from None


def write_face_model(model: FaceModel, path: str | Path) -> Path:
    """Writes a model; never leaves a half file."""
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp.npz")
    arrays = {field: getattr(model, field) for field in FaceModel.__dataclass_fields__}
    try:
        np.savez(beside, **arrays)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def triangles_around(triangles: np.ndarray, vertices: int) -> np.ndarray:
    """(N, K) int32: the triangles at each vertex, ascending, padded with F; K is the largest number at one vertex."""
    owner = triangles.reshape(-1)
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=vertices)
    place = np.arange(owner.size) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((vertices, counts.max()), len(triangles), np.int32)
    table[owner[order], place] = order // 3
    return table


def _as_stored(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32 if value.dtype.kind == "f" else np.int32, copy=False)
