"""Z-buffer rasteriser for triangle meshes: which triangle covers each pixel, how deep, and where inside the triangle.

The conventions are those of PyTorch3D's rasteriser with one face per pixel, no blur, no culling and perspective-correct
weights: normalised device coordinates with x to the left, y up, [-1, 1] over each axis; a pixel belongs to a
    triangle when
its centre lies strictly inside; the smallest depth wins and, among equals, the first triangle. All in float64.

`rasterize` is numpy; when numba is installed the same arithmetic is compiled (about fifteen times faster, same result).
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass

import numpy as np

MIN_DOUBLED_AREA = 1e-8
"""Triangles with a smaller doubled area (in normalised device coordinates) are not drawn."""
CANDIDATES_PER_PASS = 1 << 20
"""Bound on pairs of triangle and pixel tested at once, so that memory stays below about 200 MB."""


@dataclass(frozen=True)
class Raster:
    """Buffers of one rendering; -1 everywhere where no triangle is."""

    face: np.ndarray
    """(H, W) int32, index of the triangle."""
    depth: np.ndarray
    """(H, W) float32, distance along the viewing direction."""
    weights: np.ndarray
    """(H, W, 3) float32, perspective-correct weights of the triangle's corners, sum 1."""

    @property
    def covered(self) -> np.ndarray:
        """(H, W) bool."""
        return self.face >= 0

    def interpolate(self, triangles: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values (N, C) of the vertices at every pixel, (H, W, C) float32; 0 where no triangle is."""
        picture = np.zeros((*self.face.shape, values.shape[1]), np.float32)
        covered = self.covered
        corners = values[triangles[self.face[covered]]]
        picture[covered] = np.einsum("pk,pkc->pc", self.weights[covered], corners)
        return picture


def rasterize(
    points: np.ndarray, depth: np.ndarray, triangles: np.ndarray, height: int, width: int, engine: str = "auto"
) -> Raster:
    """Rasterises a mesh.

    Args:
        points: (N, 2) vertices in normalised device coordinates (x left, y up).
        depth: (N,) distance of the vertices along the viewing direction, positive in front of the camera.
        triangles: (F, 3) integer vertex indices.
        height: pixels.
        width: pixels.
        engine: "numpy", "numba", or "auto": numba when it is installed.

    Raises:
        ValueError: wrong shapes, an index outside the vertices, an unknown engine.
    """
    points = np.ascontiguousarray(points, np.float64)
    depth = np.ascontiguousarray(depth, np.float64)
    triangles = np.ascontiguousarray(triangles, np.int64)
    if points.ndim != 2 or points.shape[1] != 2 or depth.shape != points.shape[:1]:
        raise ValueError(f"expected points (N, 2) and depth (N,), got {points.shape} and {depth.shape}")
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise ValueError(f"expected triangles (F, 3), got {triangles.shape}")
    if triangles.size and not (triangles.min() >= 0 and triangles.max() < len(points)):
        raise ValueError(f"a triangle names a vertex outside the {len(points)} there are")
    if engine not in ("auto", "numpy", "numba"):
        raise ValueError(f"engine must be 'auto', 'numpy' or 'numba', got {engine!r}")
    if engine == "auto":
        engine = "numba" if has_numba() else "numpy"
    if engine == "numba":
        return Raster(*_numba_scan()(points, depth, triangles, height, width))
    face, z = _numpy_scan(points, depth, triangles, height, width)
    weights = _weights(points, depth, triangles, face)
    return Raster(face, np.where(face >= 0, z, -1).astype(np.float32), weights)


@functools.lru_cache(maxsize=1)
def has_numba() -> bool:
    """Whether the compiled path is available."""
    return importlib.util.find_spec("numba") is not None


def pixel_centres(count: int) -> np.ndarray:
    """(count,) float64, normalised device coordinates of pixel centres; descending, as both axes are."""
    return 1 - (2 * np.arange(count) + 1) / count


def _numpy_scan(
    points: np.ndarray, depth: np.ndarray, triangles: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest triangle (H, W) int32 and its depth (H, W) float64."""
    face = np.full(height * width, -1, np.int32)
    nearest = np.full(height * width, np.inf)
    x, y = points[:, 0][triangles], points[:, 1][triangles]
    left, right = _pixel_range(x, width)
    top, bottom = _pixel_range(y, height)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
    drawn = np.flatnonzero((right >= left) & (bottom >= top) & (np.abs(area) > MIN_DOUBLED_AREA))
    if drawn.size == 0:
        return face.reshape(height, width), nearest.reshape(height, width)
    columns = (right - left + 1)[drawn]
    counts = columns * (bottom - top + 1)[drawn]
    ends = np.cumsum(counts)
    start = 0
    while start < drawn.size:
        offset = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, offset + CANDIDATES_PER_PASS, side="right")), start + 1)
        some = slice(start, stop)
        total = int(ends[stop - 1] - offset)
        owner = np.repeat(np.arange(start, stop), counts[some])
        within = np.arange(offset, offset + total) - (ends - counts)[owner]
        down, across = np.divmod(within, columns[owner])
        t = drawn[owner]
        row, column = top[t] + down, left[t] + across
        px, py = pixel_centres(width)[column], pixel_centres(height)[row]
        inside, z = _depth_inside(px, py, x[t].T, y[t].T, depth[triangles[t]].T, area[t])
        pixel, t, z = (row * width + column)[inside], t[inside], z[inside]
        before = nearest[pixel]
        np.minimum.at(nearest, pixel, z)
        wins = (z == nearest[pixel]) & (z < before)
        # Triangles come in ascending order and the last assignment to a pixel stays: reversed, the first triangle wins.
        face[pixel[wins][::-1]] = t[wins][::-1]
        start = stop
    return face.reshape(height, width), nearest.reshape(height, width)


def _pixel_range(corners: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last pixel whose centre lies between the corners (F, 3) along one axis; last < first when none does."""
    low = np.minimum(np.minimum(corners[:, 0], corners[:, 1]), corners[:, 2])
    high = np.maximum(np.maximum(corners[:, 0], corners[:, 1]), corners[:, 2])
    finite = np.isfinite(low) & np.isfinite(high)
    first = np.where(finite, np.clip(((1 - high) * count - 1) / 2, -0.5, count), count)
    last = np.where(finite, np.clip(((1 - low) * count - 1) / 2, -1, count - 0.5), -1)
    return np.ceil(first).astype(np.int64), np.floor(last).astype(np.int64)


def _depth_inside(px, py, x, y, z, area):
    """Which points lie strictly inside their triangle and not behind the camera, and the depths (garbage elsewhere)."""
    a = ((x[2] - x[1]) * (py - y[1]) - (y[2] - y[1]) * (px - x[1])) / area
    b = ((x[0] - x[2]) * (py - y[2]) - (y[0] - y[2]) * (px - x[2])) / area
    c = ((x[1] - x[0]) * (py - y[0]) - (y[1] - y[0]) * (px - x[0])) / area
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (a + b + c) / (a / z[0] + b / z[1] + c / z[2])
    return (a > 0) & (b > 0) & (c > 0) & (depth >= 0), depth


@functools.lru_cache(maxsize=1)
def _numba_scan():
    """The compiled twin of `_numpy_scan` and `_weights`."""
    if not has_numba():
        raise ValueError("engine 'numba' needs the package numba: pip install -r requirements-sgpn.txt")
    import numba

    @numba.njit(cache=True, error_model="numpy")
    def scan(points, depth, triangles, height, width):
        face = np.full((height, width), -1, np.int32)
        nearest = np.full((height, width), np.inf)
        for t in range(triangles.shape[0]):
            i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            x0, x1, x2 = points[i, 0], points[j, 0], points[k, 0]
            y0, y1, y2 = points[i, 1], points[j, 1], points[k, 1]
            if not (np.isfinite(x0 + x1 + x2) and np.isfinite(y0 + y1 + y2)):
                continue
            area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
            if not abs(area) > MIN_DOUBLED_AREA:
                continue
            left = max(np.ceil(((1 - max(x0, x1, x2)) * width - 1) / 2), 0.0)
            right = min(np.floor(((1 - min(x0, x1, x2)) * width - 1) / 2), width - 1.0)
            top = max(np.ceil(((1 - max(y0, y1, y2)) * height - 1) / 2), 0.0)
            bottom = min(np.floor(((1 - min(y0, y1, y2)) * height - 1) / 2), height - 1.0)
            if right < left or bottom < top:
                continue
            z0, z1, z2 = depth[i], depth[j], depth[k]
            for row in range(int(top), int(bottom) + 1):
                py = 1 - (2 * row + 1) / height
                for column in range(int(left), int(right) + 1):
                    px = 1 - (2 * column + 1) / width
                    a = ((x2 - x1) * (py - y1) - (y2 - y1) * (px - x1)) / area
                    b = ((x0 - x2) * (py - y2) - (y0 - y2) * (px - x2)) / area
                    c = ((x1 - x0) * (py - y0) - (y1 - y0) * (px - x0)) / area
                    if a > 0 and b > 0 and c > 0:
                        z = (a + b + c) / (a / z0 + b / z1 + c / z2)
                        if z >= 0 and z < nearest[row, column]:
                            nearest[row, column] = z
                            face[row, column] = t
        z_buffer = np.full((height, width), -1, np.float32)
        weights = np.full((height, width, 3), -1, np.float32)
        for row in range(height):
            py = 1 - (2 * row + 1) / height
            for column in range(width):
                t = face[row, column]
                if t < 0:
                    continue
                px = 1 - (2 * column + 1) / width
                i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                x0, x1, x2 = points[i, 0], points[j, 0], points[k, 0]
                y0, y1, y2 = points[i, 1], points[j, 1], points[k, 1]
                a = ((x2 - x1) * (py - y1) - (y2 - y1) * (px - x1)) / depth[i]
                b = ((x0 - x2) * (py - y2) - (y0 - y2) * (px - x2)) / depth[j]
                c = ((x1 - x0) * (py - y0) - (y1 - y0) * (px - x0)) / depth[k]
                total = a + b + c
                weights[row, column, 0] = a / total
                weights[row, column, 1] = b / total
                weights[row, column, 2] = c / total
                z_buffer[row, column] = nearest[row, column]
        return face, z_buffer, weights

    return scan


def _weights(points: np.ndarray, depth: np.ndarray, triangles: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Perspective-correct weights (H, W, 3) float32 of the triangle at every pixel."""
    height, width = face.shape
    weights = np.full((height, width, 3), -1, np.float32)
    row, column = np.nonzero(face >= 0)
    corners = triangles[face[row, column]]
    x, y, z = points[:, 0][corners].T, points[:, 1][corners].T, depth[corners].T
    px, py = pixel_centres(width)[column], pixel_centres(height)[row]
    a = (x[2] - x[1]) * (py - y[1]) - (y[2] - y[1]) * (px - x[1])
    b = (x[0] - x[2]) * (py - y[2]) - (y[0] - y[2]) * (px - x[2])
    c = (x[1] - x[0]) * (py - y[0]) - (y[1] - y[0]) * (px - x[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.stack([a / z[0], b / z[1], c / z[2]], axis=-1)
        weights[row, column] = shares / shares.sum(axis=-1, keepdims=True)
    return weights
