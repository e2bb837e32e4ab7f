"""Makes the 3D face model that SGPN draws with.

  --synthetic       our own model, drawn by formulas; needs nothing. With --colours FOLDER its colours are learned from
                    aligned faces
  --mat FILE        SGPN's BFM09_model_info.mat or Deep3DFaceRecon's BFM_model_front.mat
  --bfm FOLDER      the registered download of the Basel Face Model 2009 with Deep3DFaceRecon's index files
  (docs/sgpn.md)

The Basel model is bound to a licence that each user accepts with its authors: neither it nor a file made from it
may be passed on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ppgan_fr.face.align import named_template
from ppgan_fr.face.face_model import (
    EXPRESSION,
    HOW_TO_GET,
    IDENTITY,
    TEXTURE,
    FaceModel,
    FaceModelError,
    write_face_model,
)
from ppgan_fr.face.image_io import read_image
from ppgan_fr.face.synthetic_model import coloured_by, synthetic_model

DECIMETRES = 1e-5
"""The 2009 model counts in micrometres."""
MAT_KEYS = ("meanshape", "idBase", "exBase", "meantex", "texBase", "tri", "point_buf", "keypoints")
MAX_MAT_BYTES = 2 << 30
MAX_FACES = 2000
"""More would only cost memory."""
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
BFM_FILES = {
    "01_MorphableModel.mat": "the registered download of the Basel Face Model 2009",
    "Exp_Pca.bin": "the expression basis of Guo et al. (3DDFA / CoarseData)",
    "std_exp.txt": "Deep3DFaceRecon, folder BFM",
    "BFM_front_idx.mat": "Deep3DFaceRecon, folder BFM",
    "BFM_exp_idx.mat": "Deep3DFaceRecon, folder BFM",
    "facemodel_info.mat": "Deep3DFaceRecon, folder BFM",
}
"""What `from_download` needs, and where each file comes from."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--synthetic", action="store_true", help="our own model")
    source.add_argument("--mat", type=Path, help="a prepared MATLAB file")
    source.add_argument("--bfm", type=Path, help="folder of the original download")
    parser.add_argument("--output", type=Path, required=True, help="file to write, .npz")
    parser.add_argument("--side", type=int, default=101, help="--synthetic: the mesh has side * side vertices")
    parser.add_argument("--seed", type=int, default=0, help="--synthetic: of its random modes")
    parser.add_argument("--colours", type=Path, help="--synthetic: folder of aligned faces to learn the colours from")
    parser.add_argument("--template", default="ffhq_512", help="--colours: how they are aligned")


def run(args: argparse.Namespace) -> int:
    """Writes the model and says what it is."""
    if args.output.suffix != ".npz":
        raise FaceModelError(f"{args.output}: the name must end in .npz")
    if args.synthetic:
        model = synthetic_model(args.side, args.seed)
        if args.colours:
            model = coloured_by(model, _read_faces(args.colours), named_template(args.template))
    elif args.mat:
        model = read_mat(args.mat)
    else:
        model = from_download(args.bfm)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_face_model(model, args.output)
    print(  # noqa: T201
        f"{args.output}: {model.name}, {len(model.mean_shape)} vertices, {len(model.triangles)} triangles"
    )
    return 0


def _read_faces(folder: Path) -> Iterator[np.ndarray]:
    """Up to `MAX_FACES` pictures of a folder, by name."""
    if not folder.is_dir():
        raise FaceModelError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    return map(read_image, paths[:MAX_FACES])


def read_mat(path: str | Path) -> FaceModel:
    """Reads SGPN's or Deep3DFaceRecon's prepared model; row or column vectors, whole or floating indices.

    Raises:
        FaceModelError: the file is missing, damaged, lacks a key, or its parts do not fit together.
    """
    path = Path(path)
    raw = _load_mat(path, MAT_KEYS)
    try:
        return _from_arrays(raw, path.stem)
    except FaceModelError as error:
        raise FaceModelError(f"{path}: {error}") from None


def from_download(folder: str | Path) -> FaceModel:
    """Builds the face part of the 2009 model from the original files, as Deep3DFaceRecon's `transferBFM09` (MIT) does.

    Raises:
        FaceModelError: a file is missing (all are listed, with their source) or has another layout.
    """
    folder = Path(folder)
    missing = [f"{name} ({source})" for name, source in BFM_FILES.items() if not (folder / name).is_file()]
    if missing:
        raise FaceModelError(f"{folder}: missing " + "; ".join(missing))
    original = _load_mat(folder / "01_MorphableModel.mat", ("shapeMU", "shapePC", "shapeEV", "texMU", "texPC", "texEV"))
    topology = _load_mat(folder / "facemodel_info.mat", ("tri", "point_buf", "keypoints"))
    front = _load_mat(folder / "BFM_front_idx.mat", ("idx",))["idx"].ravel().astype(np.int64) - 1
    to_original = _load_mat(folder / "BFM_exp_idx.mat", ("trimIndex",))["trimIndex"].ravel().astype(np.int64) - 1
    expression = _read_expression_basis(folder / "Exp_Pca.bin")
    deviations = np.loadtxt(folder / "std_exp.txt").ravel()
    if expression.shape[1] != deviations.size:
        raise FaceModelError(f"{folder}: Exp_Pca.bin has {expression.shape[1]} modes, std_exp.txt {deviations.size}")
    try:
        picked = to_original[front]
        expression = (expression * deviations)[:, :EXPRESSION] * DECIMETRES
        arrays = {
            "meanshape": original["shapeMU"].reshape(-1, 3)[picked] * DECIMETRES,
            "idBase": _pick(original["shapePC"] * original["shapeEV"].ravel(), picked, IDENTITY) * DECIMETRES,
            "exBase": _pick(expression, front, EXPRESSION),
            "meantex": original["texMU"].reshape(-1, 3)[picked],
            "texBase": _pick(original["texPC"] * original["texEV"].ravel(), picked, TEXTURE),
            **topology,
        }
    except (IndexError, ValueError) as error:
        raise FaceModelError(f"{folder}: the files do not belong together ({error})") from None
    try:
        return _from_arrays(arrays, "BFM 2009")
    except FaceModelError as error:
        raise FaceModelError(f"{folder}: {error}") from None


def _from_arrays(raw: Mapping[str, np.ndarray], name: str) -> FaceModel:
    """Checks shapes before anything is reshaped, so that a transposed array is named and not scrambled."""
    mean = np.asarray(raw["meanshape"], np.float32).reshape(-1)
    if mean.size % 3:
        raise FaceModelError(f"meanshape has {mean.size} numbers, which is not three per vertex")
    vertices = mean.size // 3
    colours = np.asarray(raw["meantex"], np.float32).reshape(-1)
    if colours.size != mean.size:
        raise FaceModelError(f"meantex has {colours.size} numbers, meanshape {mean.size}")
    point_buf = _indices(raw, "point_buf")
    if point_buf.ndim != 2 or point_buf.shape[0] != vertices:
        raise FaceModelError(f"point_buf has shape {point_buf.shape}, expected ({vertices}, 8)")
    return FaceModel(
        mean_shape=mean.reshape(-1, 3),
        identity_basis=_basis(raw, "idBase"),
        expression_basis=_basis(raw, "exBase"),
        mean_texture=colours.reshape(-1, 3),
        texture_basis=_basis(raw, "texBase"),
        triangles=_indices(raw, "tri"),
        triangles_around=point_buf,
        landmarks=_indices(raw, "keypoints").reshape(-1),
        name=name,
    )


def _basis(raw: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    return np.ascontiguousarray(raw[key], np.float32)


def _indices(raw: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    """MATLAB's indices from 1, whole or floating, as int32 from 0."""
    values = np.asarray(raw[key])
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise FaceModelError(f"{key} holds values that are no indices")
    if values.size and (values.min() < 1 or values.max() > 2**31):
        raise FaceModelError(f"{key} has indices from {values.min():.0f} to {values.max():.0f}; they start at 1")
    return np.ascontiguousarray(values.astype(np.int64) - 1, np.int32)


def _pick(basis: np.ndarray, vertices: np.ndarray, modes: int) -> np.ndarray:
    """Rows of some vertices of a basis (3 N, M), first `modes` columns."""
    return basis[:, :modes].reshape(-1, 3, modes)[vertices].reshape(-1, modes)


def _read_expression_basis(path: Path) -> np.ndarray:
    """(3 N, M) float32 of `Exp_Pca.bin`: int32 M, then the mean (3 N) and M modes (3 N each), float32."""
    data = path.read_bytes()
    if len(data) < 8:
        raise FaceModelError(f"{path}: damaged ({len(data)} bytes)")
    modes = int(np.frombuffer(data, "<i4", 1)[0])
    numbers = (len(data) - 4) // 4
    if not 0 < modes <= 1000 or numbers % (modes + 1) or (numbers // (modes + 1)) % 3:
        raise FaceModelError(f"{path}: damaged: {len(data)} bytes do not hold {modes} modes and a mean")
    rows = np.frombuffer(data, "<f4", numbers, offset=4).reshape(modes + 1, -1)
    return rows[1:].T


def _load_mat(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Numeric arrays of a MATLAB 5 file.

    Raises:
        FaceModelError: missing, too large, not MATLAB 5, damaged, or without one of the keys.
    """
    if not path.is_file():
        raise FaceModelError(f"{path}: no such file; {HOW_TO_GET}")
    if path.stat().st_size > MAX_MAT_BYTES:
        raise FaceModelError(f"{path}: {path.stat().st_size >> 20} MB is too large for a face model")
    from scipy.io import loadmat  # optional: requirements-sgpn.txt

    try:
        raw = loadmat(path, variable_names=list(keys))
    except NotImplementedError:
        raise FaceModelError(f"{path}: MATLAB 7.3 (HDF5); save it with -v7") from None
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise FaceModelError(f"{path}: damaged or not a MATLAB file ({error})") from error
    missing = [key for key in keys if key not in raw]
    if missing:
        raise FaceModelError(f"{path}: {', '.join(missing)} missing")
    for key in keys:
        if raw[key].dtype.kind not in "fiu":
            raise FaceModelError(f"{path}: {key} does not hold numbers")
    return {key: raw[key] for key in keys}
