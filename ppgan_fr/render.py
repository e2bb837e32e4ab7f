"""Differentiable rendering of the 3D face model in Paddle, for training SGPN's shape network.

The numbers are those of `ppgan_fr.face.shape3d`, for a batch. The rasteriser says which triangle covers each pixel
and has no gradient; the weights inside the triangle are then computed again from the projected vertices, through
which the gradient flows. Equal to PyTorch3D's gradient of the same picture except that a face's outline does not
move (neither does it there with blur 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppgan_fr.face.align import named_template, similarity
from ppgan_fr.face.face_model import EXPRESSION, IDENTITY, TEXTURE, FaceModel
from ppgan_fr.face.raster import pixel_centres, rasterize
from ppgan_fr.face.sgpn import shape_crop_points
from ppgan_fr.face.shape3d import AMBIENT, CAMERA_DISTANCE, FOCAL, GRAY, IMAGE_SIZE
from ppgan_fr.face.synthetic_model import load_face_model

PARTS = {"identity": IDENTITY, "expression": EXPRESSION, "texture": TEXTURE, "angles": 3, "light": 27, "translation": 3}


@dataclass(frozen=True)
class Rendering:
    """A drawn batch."""

    picture: Tensor
    """(N, 3, 224, 224) RGB, clipped to [0, 255], 0 outside the face."""
    mask: Tensor
    """(N, 1, 224, 224), 1 on the face; no gradient."""
    landmarks: Tensor
    """(N, 68, 2) pixels (u, v), v down; the corner of the first pixel is (0, 0)."""
    colours: Tensor
    """(N, V, 3) RGB of the vertices under their light, not clipped."""
    texture: Tensor
    """(N, V, 3) RGB of the vertices before light."""


class FaceRenderer(nn.Layer):
    """Draws coefficients with one face model; has no parameters, and its constants are not saved."""

    def __init__(self, model: FaceModel):
        super().__init__()
        self.triangles = model.triangles
        constants = {
            "mean_shape": (model.mean_shape - model.centre).reshape(1, -1),
            "identity_basis": model.identity_basis,
            "expression_basis": model.expression_basis,
            "mean_texture": model.mean_texture.reshape(1, -1),
            "texture_basis": model.texture_basis,
            "corners": model.triangles.astype(np.int64),
            "around": model.triangles_around.astype(np.int64),
            "landmarks": model.landmarks.astype(np.int64),
        }
        for name, value in constants.items():
            self.register_buffer(f"_{name}", paddle.to_tensor(np.ascontiguousarray(value)), persistable=False)

    def forward(self, coefficients: Tensor, *, gray: bool = False) -> Rendering:
        """Draws (N, 257) coefficients.

        Args:
            coefficients: raw output of the shape network.
            gray: draw the light on a gray face instead of its colours (the picture is then not clipped).
        """
        parts = split_coefficients(coefficients)
        shape = self._shape(parts)
        turn = rotation_matrices(parts["angles"]).transpose([0, 2, 1])
        directions = paddle.bmm(self._normals(shape), turn)
        vertices = paddle.bmm(shape, turn) + parts["translation"].unsqueeze(1)
        offset = paddle.matmul(parts["texture"], self._texture_basis, transpose_y=True)
        texture = (offset + self._mean_texture).reshape([offset.shape[0], -1, 3])
        base = paddle.full_like(texture, GRAY) if gray else texture
        light = light_basis(directions)
        gamma = parts["light"].reshape([-1, 3, 9])
        gamma = paddle.concat([gamma[:, :, :1] + AMBIENT, gamma[:, :, 1:]], axis=2)
        colours = base * paddle.bmm(light, gamma.transpose([0, 2, 1]))
        picture, mask = self._draw(vertices, colours)
        if not gray:
            picture = paddle.clip(picture, 0, 255)
        landmarks = project(paddle.index_select(vertices, self._landmarks, axis=1))
        return Rendering(picture, mask, landmarks, colours, texture)

    def _shape(self, parts: dict[str, Tensor]) -> Tensor:
        """(N, V, 3) before pose."""
        offset = paddle.matmul(parts["identity"], self._identity_basis, transpose_y=True)
        offset = offset + paddle.matmul(parts["expression"], self._expression_basis, transpose_y=True)
        return (offset + self._mean_shape).reshape([offset.shape[0], -1, 3])

    def _normals(self, vertices: Tensor) -> Tensor:
        """(N, V, 3) unit normals; triangles count by their area."""
        a, b, c = (paddle.index_select(vertices, self._corners[:, k], axis=1) for k in range(3))
        of_triangle = cross(a - b, b - c)
        of_triangle = paddle.concat([of_triangle, paddle.zeros_like(of_triangle[:, :1])], axis=1)
        total = sum(paddle.index_select(of_triangle, self._around[:, k], axis=1) for k in range(self._around.shape[1]))
        # The tiny constant only keeps a vertex without area finite: squared lengths are about 1e-6 and more elsewhere.
        return total * paddle.rsqrt((total * total).sum(axis=2, keepdim=True) + 1e-20)

    def _draw(self, vertices: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
        count, per_face = vertices.shape[0], vertices.shape[1]
        points, depth = to_device_coordinates(vertices)
        faces = [
            rasterize(points[i].numpy(), depth[i].numpy(), self.triangles, IMAGE_SIZE, IMAGE_SIZE).face
            for i in range(count)
        ]
        faces = np.stack(faces)
        sample, row, column = np.nonzero(faces >= 0)
        if not sample.size:
            empty = paddle.zeros([count, 3, IMAGE_SIZE, IMAGE_SIZE]) + 0.0 * colours.sum()
            return empty, paddle.zeros([count, 1, IMAGE_SIZE, IMAGE_SIZE])
        corners = self.triangles[faces[sample, row, column]].astype(np.int64) + (sample * per_face)[:, None]
        centres = pixel_centres(IMAGE_SIZE)
        px, py = (paddle.to_tensor(centres[index].astype(np.float32)) for index in (column, row))
        x, y, z, rgb = [], [], [], []
        flat_points, flat_depth = points.reshape([-1, 2]), depth.reshape([-1])
        flat_colours = colours.reshape([-1, 3])
        for k in range(3):
            index = paddle.to_tensor(corners[:, k])
            corner = paddle.gather(flat_points, index)
            x.append(corner[:, 0])
            y.append(corner[:, 1])
            z.append(paddle.gather(flat_depth, index))
            rgb.append(paddle.gather(flat_colours, index))
        shares = [
            (
                (x[(k + 2) % 3] - x[(k + 1) % 3]) * (py - y[(k + 1) % 3])
                - (y[(k + 2) % 3] - y[(k + 1) % 3]) * (px - x[(k + 1) % 3])
            )
            / z[k]
            for k in range(3)
        ]
        total = shares[0] + shares[1] + shares[2]
        painted = sum((share / total).unsqueeze(1) * colour for share, colour in zip(shares, rgb))
        place = np.full(faces.size, sample.size, np.int64)
        place[np.flatnonzero(faces.ravel() >= 0)] = np.arange(sample.size)
        painted = paddle.concat([painted, paddle.zeros([1, 3])], axis=0)
        picture = paddle.gather(painted, paddle.to_tensor(place)).reshape([count, IMAGE_SIZE, IMAGE_SIZE, 3])
        mask = paddle.to_tensor((faces >= 0).astype(np.float32)).unsqueeze(1)
        return picture.transpose([0, 3, 1, 2]), mask


def split_coefficients(coefficients: Tensor) -> dict[str, Tensor]:
    """Names the parts of (N, 257); see `PARTS`."""
    return dict(zip(PARTS, paddle.split(coefficients, list(PARTS.values()), axis=1)))


def rotation_matrices(angles: Tensor) -> Tensor:
    """(N, 3, 3): Rz @ Ry @ Rx of (N, 3) radians."""
    sines, cosines = paddle.sin(angles), paddle.cos(angles)
    (sx, sy, sz), (cx, cy, cz) = (t.unbind(axis=1) for t in (sines, cosines))
    rows = [
        [cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz],
        [cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz],
        [-sy, sx * cy, cx * cy],
    ]
    return paddle.stack([paddle.stack(row, axis=1) for row in rows], axis=1)


def light_basis(directions: Tensor) -> Tensor:
    """(N, V, 9) of unit vectors (N, V, 3); see `ppgan_fr.face.shape3d.light_basis`."""
    x, y, z = directions.unbind(axis=2)
    a = np.pi, 2 * np.pi / np.sqrt(3), 2 * np.pi / np.sqrt(8)
    c = 1 / np.sqrt(4 * np.pi), np.sqrt(3) / np.sqrt(4 * np.pi), 3 * np.sqrt(5) / np.sqrt(12 * np.pi)
    constant, linear, quadratic = (float(a[i] * c[i]) for i in range(3))
    columns = [
        paddle.full_like(x, constant),
        -linear * y,
        linear * z,
        -linear * x,
        quadratic * x * y,
        -quadratic * y * z,
        quadratic / float(2 * np.sqrt(3)) * (3 * z * z - 1),
        -quadratic * x * z,
        quadratic / 2 * (x * x - y * y),
    ]
    return paddle.stack(columns, axis=2)


def project(vertices: Tensor) -> Tensor:
    """(N, V, 2) pixels (u, v) of a 224-pixel picture, v down; the corner of the first pixel is (0, 0)."""
    scale = FOCAL / (CAMERA_DISTANCE - vertices[:, :, 2])
    half = IMAGE_SIZE / 2
    return paddle.stack([half + vertices[:, :, 0] * scale, half - vertices[:, :, 1] * scale], axis=2)


def to_device_coordinates(vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised device coordinates (N, V, 2), x left and y up, and depth (N, V)."""
    depth = CAMERA_DISTANCE - vertices[:, :, 2]
    scale = 2 * FOCAL / IMAGE_SIZE / depth
    return paddle.stack([-vertices[:, :, 0] * scale, vertices[:, :, 1] * scale], axis=2), depth


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross product along the last axis."""
    (ax, ay, az), (bx, by, bz) = a.unbind(axis=-1), b.unbind(axis=-1)
    return paddle.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


def warp_affine(pictures: Tensor, matrix: np.ndarray, size: int) -> Tensor:
    """Warps a batch by one matrix; the numbers of `ppgan_fr.face.sgpn.warp_affine`.

    Args:
        pictures: (N, C, H, W).
        matrix: (2, 3), maps pixels of the pictures to pixels of the result; pixel centres at integers.
        size: side of the result.

    Returns:
        (N, C, size, size), zeros outside, with gradient to the pictures.
    """
    height, width = pictures.shape[2:]
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    u = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    v = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    grid = np.stack([2 * u / (width - 1) - 1, 2 * v / (height - 1) - 1], axis=-1).astype(np.float32)
    grid = paddle.to_tensor(grid).unsqueeze(0).expand([pictures.shape[0], -1, -1, -1])
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


class ShapeGuide(nn.Layer):
    """Between aligned crops and the shape network: its view of them, and the rendering put back.

    Training pictures are aligned, so their landmarks are taken to lie where the template has them.
    """

    def __init__(self, model: FaceModel, template: str, size: int):
        super().__init__()
        self.size = size
        self.renderer = FaceRenderer(model)
        aligned = named_template(template)
        landmarks = (aligned.array() + 0.5) * (size / aligned.size) - 0.5
        self.targets = shape_crop_points(landmarks, size)
        self._to_view = similarity(landmarks, self.targets, "umeyama")
        self._to_crop = similarity(self.targets, landmarks, "umeyama")

    def view(self, crops: Tensor) -> Tensor:
        """Crops (N, 3, S, S) RGB in [-1, 1] -> what the shape network sees, (N, 3, 224, 224) in [0, 1]."""
        return warp_affine(crops, self._to_view, IMAGE_SIZE) * 0.5 + 0.5

    def put_back(self, drawn: Rendering) -> Tensor:
        """A rendering -> (N, 3, S, S) RGB in [-1, 1], -1 outside the face."""
        both = warp_affine(paddle.concat([drawn.picture / 255, drawn.mask], axis=1), self._to_crop, self.size)
        return both[:, :3] * both[:, 3:] * 2 - 1

    def landmark_distance(self, drawn: Rendering) -> Tensor:
        """Mean squared distance in pixels of the five drawn landmarks to the template's, over batch and points."""
        points = drawn.landmarks
        eyes = [(points[:, a] + points[:, b]) / 2 for a, b in ((36, 39), (42, 45))]
        five = paddle.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], axis=1)
        # Drawn points count from the corner of the first pixel, the template's from its centre.
        targets = paddle.to_tensor((self.targets + 0.5).astype(np.float32))
        return (five - targets).square().sum(axis=2).mean()

    def colour_distance(self, drawn: Rendering, crops: Tensor) -> Tensor:
        """Mean length of the colour difference of drawing and picture, in [0, 1], over the face's pixels."""
        difference = (drawn.picture / 255 - self.view(crops)).square().sum(axis=1, keepdim=True)
        length = paddle.sqrt(difference + 1e-12) * drawn.mask
        return length.sum() / paddle.clip(drawn.mask.sum(), min=1.0)


def shape_guide(face_model: str | Path, template: str, size: int) -> ShapeGuide:
    """The guide for a face model file, or for "synthetic".

    Raises:
        FaceModelError: the file is missing or damaged.
        AlignError: there is no such template.
    """
    return ShapeGuide(load_face_model(face_model), template, size)
