"""A 3D face model of our own, drawn by formulas: no scan of anybody went into it, and it needs no licence.

It stands in where the Basel Face Model may not go: tests, demonstrations and the smoke training. A height field
over an oval carries a nose, sockets, brows, lips and a chin; its bases are smooth displacement fields, named ones
first (wide, long, big nose, smile, open mouth, ...) and then random ones of falling size. The landmarks lie near
those of the average face (`ppgan_fr.face.sgpn.STANDARD_LANDMARKS`), so that the crop of the shape network fits. It
looks like a mask, not like a person.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from ppgan_fr.face.align import Template, similarity
from ppgan_fr.face.face_model import (
    EXPRESSION,
    IDENTITY,
    TEXTURE,
    FaceModel,
    FaceModelError,
    read_face_model,
    triangles_around,
)
from ppgan_fr.face.sgpn import shape_crop_points
from ppgan_fr.face.shape3d import AMBIENT, light_basis, project

SYNTHETIC = "synthetic"
"""In place of a file name: the model below, made when it is asked for."""

HALF_WIDTH, HALF_HEIGHT, DEPTH = 0.8, 1.05, 0.7
"""Decimetres."""
EYE, MOUTH, NOSE = (0.31, 0.29), (0.0, -0.381), (0.0, -0.046)
SHAPE_SPREAD, EXPRESSION_SPREAD, COLOUR_SPREAD = 0.04, 0.03, 14.0
"""Root mean square over all vertices of a random face's displacement (decimetres) and colour difference (of 255)."""
LARGEST_PEAK = 3.0
"""A mode that moves little of the face (a nose) moves it by at most so many times the root mean square it may have."""


def load_face_model(source: str | Path) -> FaceModel:
    """The model of a file, or a small synthetic one for `"synthetic"`.

    Raises:
        FaceModelError: the file is missing or damaged.
    """
    return synthetic_model(63) if str(source) == SYNTHETIC else read_face_model(source)


def synthetic_model(side: int = 101, seed: int = 0) -> FaceModel:
    """Makes the model.

    Args:
        side: the mesh has side * side vertices; 189 is about the size of the Basel model's face.
        seed: of the random modes; the named ones do not depend on it.

    Raises:
        ValueError: a side below 8, too coarse for 68 landmarks.
    """
    if side < 8:
        raise ValueError(f"side must be at least 8, got {side}")
    rng = np.random.default_rng(seed)
    x, y = _oval(side)
    mean = np.stack([x, y, _height(x, y)], axis=1)
    triangles = _grid_triangles(side)
    identity = _basis(_identity_modes(x, y), x, y, IDENTITY, SHAPE_SPREAD, rng)
    near_features = _bump(x, y, MOUTH, 0.3, 0.25) + sum(_bump(x, y, (s * EYE[0], 0.35), 0.2, 0.2) for s in (-1, 1))
    expression = _basis(_expression_modes(x, y), x, y, EXPRESSION, EXPRESSION_SPREAD, rng, window=near_features)
    colours = _basis(_colour_modes(x, y), x, y, TEXTURE, COLOUR_SPREAD, rng)
    landmarks = np.array([np.argmin((x - px) ** 2 + (y - py) ** 2) for px, py in landmark_positions()])
    return FaceModel(
        mean_shape=mean.astype(np.float32),
        identity_basis=identity,
        expression_basis=expression,
        mean_texture=_colours(x, y).astype(np.float32),
        texture_basis=colours,
        triangles=triangles,
        triangles_around=triangles_around(triangles, side * side),
        landmarks=landmarks.astype(np.int32),
        name=f"synthetic-{side}-{seed}",
    )


def coloured_by(model: FaceModel, faces: Iterable[np.ndarray], template: Template) -> FaceModel:
    """The model with the colours of pictures: their mean, and their principal components as texture basis.

    Each picture is looked at where the mean face lies in a crop aligned with the template; turned heads blur it.

    Args:
        model: any model whose landmarks lie near the average face's.
        faces: at least two (S, S, 3) uint8 BGR crops, all aligned with `template`; S may differ from the template's.
        template: how they are aligned.

    Raises:
        FaceModelError: fewer than two pictures, or one that is not square.
    """
    seen = project(model.mean_shape - model.centre) - 0.5
    samples = []
    for face in faces:
        side = face.shape[0]
        if face.shape != (side, side, 3):
            raise FaceModelError(f"aligned faces are square; got {face.shape[1]} x {face.shape[0]}")
        landmarks = (template.array() + 0.5) * (side / template.size) - 0.5
        to_crop = similarity(shape_crop_points(landmarks, side), landmarks, "umeyama")
        at = (seen @ to_crop[:, :2].T + to_crop[:, 2]).astype(np.float32)
        # In pieces: OpenCV's tables are short.
        pieces = [
            cv2.remap(face, piece, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for piece in np.array_split(at[:, None], -(-len(at) // 30_000))
        ]
        samples.append(np.concatenate(pieces)[:, 0, ::-1].reshape(-1))
    if len(samples) < 2:
        raise FaceModelError(f"colours are learned from at least two pictures, got {len(samples)}")
    # The light that the coefficients 0 mean is the same from everywhere, and not 1.
    samples = np.stack(samples).astype(np.float32) / (AMBIENT * light_basis(np.zeros((1, 3), np.float32))[0, 0])
    mean = samples.mean(axis=0)
    samples -= mean
    # Turk and Pentland's way to few components of many numbers: those of the small matrix of pictures by pictures.
    _, vectors = np.linalg.eigh((samples @ samples.T).astype(np.float64))
    count = min(TEXTURE, len(samples) - 1)
    basis = np.zeros((mean.size, TEXTURE), np.float32)
    basis[:, :count] = samples.T @ vectors[:, : -count - 1 : -1].astype(np.float32) / np.sqrt(len(samples) - 1)
    return dataclasses.replace(
        model, mean_texture=mean.reshape(-1, 3), texture_basis=basis, name=f"{model.name}-coloured"
    )


def landmark_positions() -> np.ndarray:
    """(68, 2) decimetres: where the iBUG landmarks lie on the mean face, seen from the front."""
    angle = np.linspace(np.pi * 0.93, np.pi * 2.07, 17)
    jaw = np.stack([0.74 * np.cos(angle), 0.95 * np.sin(angle)], axis=1)
    along = np.linspace(0, 1, 5)
    brow = np.stack([0.12 + 0.44 * along, 0.44 + 0.06 * np.sin(np.pi * along)], axis=1)
    bridge = np.stack([np.zeros(4), np.linspace(0.27, NOSE[1], 4)], axis=1)
    nostrils = np.stack([np.linspace(-0.13, 0.13, 5), -0.17 - 0.03 * np.sin(np.pi * along)], axis=1)
    turn = np.deg2rad([180, 120, 60, 0, 300, 240])
    eye = np.stack([0.13 * np.cos(turn), 0.05 * np.sin(turn)], axis=1)
    outer_turn, inner_turn = np.deg2rad(np.arange(180, -180, -30)), np.deg2rad([180, 135, 90, 45, 0, -45, -90, -135])
    outer = np.stack([0.25 * np.cos(outer_turn), 0.09 * np.sin(outer_turn)], axis=1)
    inner = np.stack([0.19 * np.cos(inner_turn), 0.03 * np.sin(inner_turn)], axis=1)
    left, right = np.array([-EYE[0], EYE[1]]), np.array(EYE)
    left_brow = (brow * [-1, 1])[::-1]
    return np.concatenate(
        [jaw, left_brow, brow, bridge, nostrils, eye + left, eye + right, outer + MOUTH, inner + MOUTH]
    )


def _oval(side: int) -> tuple[np.ndarray, np.ndarray]:
    """X and y (side * side,) of a square grid pressed into an oval; rows run down."""
    b, a = np.meshgrid(np.linspace(1, -1, side), np.linspace(-1, 1, side), indexing="ij")
    x, y = a * np.sqrt(1 - b**2 / 2), b * np.sqrt(1 - a**2 / 2)
    return HALF_WIDTH * x.ravel(), HALF_HEIGHT * y.ravel()


def _bump(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], width: float, height: float) -> np.ndarray:
    return np.exp(-0.5 * (((x - centre[0]) / width) ** 2 + ((y - centre[1]) / height) ** 2))


def _height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius2 = (x / HALF_WIDTH) ** 2 + (y / HALF_HEIGHT) ** 2
    z = DEPTH * np.sqrt(np.maximum(1 - 0.97 * radius2, 0)) - 2 / 3 * DEPTH
    z += 0.30 * _bump(x, y, NOSE, 0.085, 0.11) + 0.10 * _bump(x, y, (0, 0.15), 0.06, 0.14)
    z += 0.06 * _bump(x, y, MOUTH, 0.18, 0.07) - 0.02 * _bump(x, y, MOUTH, 0.2, 0.015)
    z += 0.08 * _bump(x, y, (0, -0.8), 0.2, 0.12)
    for sign in (-1, 1):
        z += 0.03 * _bump(x, y, (sign * 0.33, 0.46), 0.2, 0.05) - 0.05 * _bump(
            x, y, (sign * EYE[0], EYE[1]), 0.14, 0.09
        )
        z += 0.04 * _bump(x, y, (sign * 0.45, 0.0), 0.15, 0.15)
    return z


def _colours(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N, 3) RGB in [0, 255]."""
    paint = np.tile(np.array([205.0, 160.0, 135.0]), (x.size, 1))

    def lay(amount: np.ndarray, colour: tuple[float, float, float]) -> None:
        amount = np.clip(amount, 0, 1)[:, None]
        paint[:] = paint * (1 - amount) + np.array(colour) * amount

    for sign in (-1, 1):
        lay(0.35 * _bump(x, y, (sign * 0.42, -0.08), 0.16, 0.14), (215, 130, 115))
        lay(1.2 * _bump(x, y, (sign * 0.33, 0.47), 0.17, 0.035), (70, 50, 40))
        lay(1.5 * _bump(x, y, (sign * EYE[0], EYE[1]), 0.085, 0.035), (235, 232, 228))
        lay(1.5 * _bump(x, y, (sign * EYE[0], EYE[1]), 0.03, 0.03), (60, 45, 40))
        lay(0.8 * _bump(x, y, (sign * 0.06, -0.17), 0.03, 0.02), (110, 60, 55))
    lay(1.3 * _bump(x, y, MOUTH, 0.16, 0.055), (180, 85, 85))
    lay(0.8 * _bump(x, y, MOUTH, 0.17, 0.012), (90, 40, 45))
    return paint


def _grid_triangles(side: int) -> np.ndarray:
    """Two triangles per cell, counter-clockwise seen from the camera; (2 (side - 1)^2, 3) int32."""
    index = np.arange(side * side).reshape(side, side)
    above, right = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    below, across = index[1:, :-1].ravel(), index[1:, 1:].ravel()
    return np.stack([above, below, across, above, across, right], axis=1).reshape(-1, 3).astype(np.int32)


def _field(x: np.ndarray, dx=0.0, dy=0.0, dz=0.0) -> np.ndarray:
    """(N, 3) out of three components, each an array or a number."""
    return np.stack([np.broadcast_to(component, x.shape) for component in (dx, dy, dz)], axis=1).astype(np.float64)


def _identity_modes(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    nose, jaw = _bump(x, y, NOSE, 0.1, 0.15), _bump(x, y, (0, -0.8), 0.6, 0.3)
    eyes = [_bump(x, y, (s * EYE[0], EYE[1]), 0.16, 0.12) for s in (-1, 1)]
    return [
        _field(x, dx=x),
        _field(x, dy=y),
        _field(x, dz=_height(x, y)),
        _field(x, dz=nose, dy=-0.4 * nose),
        _field(x, dx=x * jaw),
        _field(x, dx=eyes[1] - eyes[0]),
        _field(x, dx=nose * x * 8),
        _field(x, dy=-jaw, dz=0.5 * jaw),
    ]


def _expression_modes(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    below = 1 / (1 + np.exp((y - MOUTH[1]) / 0.02))
    mouth = _bump(x, y, MOUTH, 0.22, 0.25)
    corners = [_bump(x, y, (s * 0.25, MOUTH[1]), 0.12, 0.12) for s in (-1, 1)]
    brows = sum(_bump(x, y, (s * 0.33, 0.46), 0.2, 0.08) for s in (-1, 1))
    lids = sum(_bump(x, y, (s * EYE[0], EYE[1] + 0.04), 0.12, 0.04) for s in (-1, 1))
    return [
        _field(x, dy=-below * mouth, dz=-0.3 * below * mouth),
        _field(x, dx=corners[1] - corners[0], dy=0.7 * (corners[0] + corners[1])),
        _field(x, dy=brows),
        _field(x, dy=-lids),
        _field(x, dx=-(corners[1] - corners[0]), dz=_bump(x, y, MOUTH, 0.15, 0.08)),
    ]


def _colour_modes(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    lips = _bump(x, y, MOUTH, 0.16, 0.055)
    brows = sum(_bump(x, y, (s * 0.33, 0.47), 0.17, 0.035) for s in (-1, 1))
    cheeks = sum(_bump(x, y, (s * 0.42, -0.08), 0.16, 0.14) for s in (-1, 1))
    return [
        _field(x, 1.0, 0.95, 0.9),
        _field(x, 1.0, -0.2, -0.6),
        _field(x, lips, -0.3 * lips, -0.3 * lips),
        _field(x, brows, brows, brows),
        _field(x, cheeks, -0.4 * cheeks, -0.4 * cheeks),
    ]


def _basis(
    named: list[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    count: int,
    spread: float,
    rng: np.random.Generator,
    window: np.ndarray | None = None,
) -> np.ndarray:
    """(3 N, count) float32: orthogonal modes, the named fields first; sizes fall, their squares sum to `spread`'s."""
    u, v = np.pi * (x / HALF_WIDTH + 1) / 2, np.pi * (y / HALF_HEIGHT + 1) / 2
    waves = np.stack([np.cos(i * u) * np.cos(j * v) / (1 + i * i + j * j) for i in range(6) for j in range(6)], axis=1)
    smooth = waves @ rng.standard_normal((waves.shape[1], 3 * (count - len(named))))
    if window is not None:
        smooth *= window[:, None]
    fields = [field.reshape(-1, 1) for field in named] + [smooth.reshape(3 * x.size, -1)]
    modes = np.linalg.qr(np.concatenate(fields, axis=1))[0] * np.sqrt(x.size)
    # QR may turn a mode round: a positive coefficient of a named mode has to mean what its name says.
    for column, field in enumerate(named):
        modes[:, column] *= np.sign(modes[:, column] @ field.ravel()) or 1
    sizes = 0.93 ** np.arange(count)
    peaks = np.linalg.norm(modes.reshape(-1, 3, count), axis=1).max(axis=0)
    sizes *= spread / np.linalg.norm(sizes) * np.minimum(1, LARGEST_PEAK / peaks)
    return (modes * sizes).astype(np.float32)
