"""From 257 coefficients to a rendered face: morphable model, pose, spherical-harmonics light, camera, raster.

Deng et al., "Accurate 3D Face Reconstruction with Weakly-Supervised Learning", CVPR Workshops 2019 (their public
code is MIT), with the two choices of SGPN: face normals weigh by area, and the camera's landmarks keep pixel
corners at integers. Right-handed coordinates in decimetres, x to the right of the picture, y up, z towards the
camera at (0, 0, 10). numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppgan_fr.face.face_model import EXPRESSION, IDENTITY, TEXTURE, FaceModel
from ppgan_fr.face.raster import Raster, rasterize

IMAGE_SIZE = 224
FOCAL = 1015.0
"""Focal length in pixels of a 224-pixel picture."""
CAMERA_DISTANCE = 10.0
COEFFICIENTS = IDENTITY + EXPRESSION + TEXTURE + 3 + 27 + 3
GRAY = 127.0
AMBIENT = 0.8
"""Added to the constant term of the light."""


@dataclass(frozen=True)
class Coefficients:
    """One face's coefficients by name, float32."""

    identity: np.ndarray
    expression: np.ndarray
    texture: np.ndarray
    angles: np.ndarray
    """(3,) radians, rotations about x, y, z, applied in this order."""
    light: np.ndarray
    """(3, 9) spherical-harmonics coefficients of red, green, blue."""
    translation: np.ndarray
    """(3,)."""


@dataclass(frozen=True)
class Mesh:
    """A face ready to be drawn."""

    vertices: np.ndarray
    """(N, 3) float32 in the scene."""
    normals: np.ndarray
    """(N, 3) float32, unit length, in the scene."""
    texture: np.ndarray
    """(N, 3) float32 RGB, about [0, 255], not clamped."""
    colours: np.ndarray
    """(N, 3) float32 RGB, texture times light, not clamped."""


def split_coefficients(vector: np.ndarray) -> Coefficients:
    """Names the parts of a (257,) vector.

    Raises:
        ValueError: another length.
    """
    vector = np.asarray(vector, np.float32)
    if vector.shape != (COEFFICIENTS,):
        raise ValueError(f"expected {COEFFICIENTS} coefficients, got shape {vector.shape}")
    ends = np.cumsum([IDENTITY, EXPRESSION, TEXTURE, 3, 27])
    identity, expression, texture, angles, light, translation = np.split(vector, ends)
    return Coefficients(identity, expression, texture, angles, light.reshape(3, 9), translation)


def rotation(angles: np.ndarray) -> np.ndarray:
    """(3, 3) float32: Rz @ Ry @ Rx, right-handed, of angles in radians."""
    (sx, sy, sz), (cx, cy, cz) = np.sin(angles), np.cos(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).astype(np.float32)


def shape(model: FaceModel, coefficients: Coefficients) -> np.ndarray:
    """(N, 3) float32 vertices before pose; centred by the mean shape, not by the result."""
    offset = model.identity_basis @ coefficients.identity + model.expression_basis @ coefficients.expression
    return offset.reshape(-1, 3) + model.mean_shape - model.centre


def normals(model: FaceModel, vertices: np.ndarray) -> np.ndarray:
    """(N, 3) float32 unit vertex normals; each triangle counts by its area.

    A vertex whose triangles have no area gets a zero normal (the original divides by zero there).
    """
    a, b, c = (vertices[model.triangles[:, corner]] for corner in range(3))
    of_triangle = np.concatenate([np.cross(a - b, b - c), np.zeros((1, 3), vertices.dtype)])
    total = np.zeros_like(vertices)
    for column in model.triangles_around.T:
        total += of_triangle[column]
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return total / np.where(length > 0, length, 1)


def texture(model: FaceModel, coefficients: Coefficients) -> np.ndarray:
    """(N, 3) float32 RGB, not clamped."""
    return (model.texture_basis @ coefficients.texture).reshape(-1, 3) + model.mean_texture


def light_basis(directions: np.ndarray) -> np.ndarray:
    """(N, 9) float32: the first nine real spherical harmonics of unit vectors, times the cosine lobe's weights.

    Ramamoorthi and Hanrahan, "An Efficient Representation for Irradiance Environment Maps", SIGGRAPH 2001.
    """
    x, y, z = directions.T
    a = np.pi, 2 * np.pi / np.sqrt(3), 2 * np.pi / np.sqrt(8)
    c = 1 / np.sqrt(4 * np.pi), np.sqrt(3) / np.sqrt(4 * np.pi), 3 * np.sqrt(5) / np.sqrt(12 * np.pi)
    constant, linear, quadratic = a[0] * c[0], a[1] * c[1], a[2] * c[2]
    columns = (
        np.full_like(x, constant),
        -linear * y,
        linear * z,
        -linear * x,
        quadratic * x * y,
        -quadratic * y * z,
        quadratic * (3 * z**2 - 1) / (2 * np.sqrt(3)),
        -quadratic * x * z,
        quadratic * (x**2 - y**2) / 2,
    )
    return np.stack(columns, axis=1).astype(np.float32)


def shade(colours: np.ndarray, directions: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Colours (N, 3) under the light (3, 9) at vertices with the given normals (N, 3)."""
    weights = light.copy()
    weights[:, 0] += AMBIENT
    return colours * (light_basis(directions) @ weights.T)


def mesh(model: FaceModel, coefficients: Coefficients) -> Mesh:
    """The posed and lit face."""
    unposed = shape(model, coefficients)
    turn = rotation(coefficients.angles)
    directions = normals(model, unposed) @ turn.T
    skin = texture(model, coefficients)
    vertices = unposed @ turn.T + coefficients.translation
    return Mesh(vertices, directions, skin, shade(skin, directions, coefficients.light))


def project(vertices: np.ndarray) -> np.ndarray:
    """(N, 2) float32 pixels (u, v) of a 224-pixel picture, v down; the *corner* of the first pixel is (0, 0)."""
    depth = CAMERA_DISTANCE - vertices[:, 2:]
    half = IMAGE_SIZE / 2
    return half + np.array([FOCAL, -FOCAL], np.float32) * vertices[:, :2] / depth


def projected_landmarks(model: FaceModel, vertices: np.ndarray) -> np.ndarray:
    """(68, 2) float32: the model's landmarks in the convention of `project`."""
    return project(vertices[model.landmarks])


def raster(model: FaceModel, vertices: np.ndarray, engine: str = "auto") -> Raster:
    """Rasterises posed vertices (N, 3) into a 224-pixel picture."""
    depth = CAMERA_DISTANCE - vertices[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        points = np.array([-1, 1], np.float32) * vertices[:, :2] * np.float32(2 * FOCAL / IMAGE_SIZE) / depth[:, None]
    return rasterize(points, depth, model.triangles, IMAGE_SIZE, IMAGE_SIZE, engine)


def render(model: FaceModel, vector: np.ndarray, engine: str = "auto") -> tuple[np.ndarray, np.ndarray]:
    """Draws a face.

    Args:
        model: the face model.
        vector: (257,) coefficients.
        engine: see `ppgan_fr.face.raster.rasterize`.

    Returns:
        The picture (224, 224, 3) float32 RGB in [0, 255], black outside the face, and the mask (224, 224) float32,
        0 or 1.
    """
    face = mesh(model, split_coefficients(vector))
    buffers = raster(model, face.vertices, engine)
    picture = np.clip(buffers.interpolate(model.triangles, face.colours), 0, 255)
    return picture, buffers.covered.astype(np.float32)
