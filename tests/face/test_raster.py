import time

import numpy as np
import pytest

from ppgan_fr.face import raster, shape3d
from ppgan_fr.face.raster import rasterize
from ppgan_fr.face.synthetic_model import synthetic_model

NEEDS_NUMBA = pytest.mark.skipif(not raster.has_numba(), reason="needs numba: requirements-sgpn.txt")
ENGINES = ["numpy", pytest.param("numba", marks=NEEDS_NUMBA)]
every_engine = pytest.mark.parametrize("engine", ENGINES)


def brute_force(points, depth, triangles, height, width):
    """Every triangle against every pixel."""
    ys, xs = np.meshgrid(raster.pixel_centres(height), raster.pixel_centres(width), indexing="ij")
    best, face = np.full((height, width), np.inf), np.full((height, width), -1)
    for index, corners in enumerate(triangles):
        (x0, y0), (x1, y1), (x2, y2) = points[corners].astype(np.float64)
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if not abs(area) > raster.MIN_DOUBLED_AREA:
            continue
        a = ((x2 - x1) * (ys - y1) - (y2 - y1) * (xs - x1)) / area
        b = ((x0 - x2) * (ys - y2) - (y0 - y2) * (xs - x2)) / area
        c = 1 - a - b
        z0, z1, z2 = depth[corners].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = 1 / (a / z0 + b / z1 + c / z2)
        wins = (a > 0) & (b > 0) & (c > 0) & (z >= 0) & (z < best)
        best[wins], face[wins] = z[wins], index
    return face


def triangle_soup(count, seed):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-1.2, 1.2, (count, 1, 2))
    points = (centres + rng.normal(scale=0.3, size=(count, 3, 2))).reshape(-1, 2)
    return points, rng.uniform(1, 3, 3 * count), np.arange(3 * count).reshape(-1, 3)


@every_engine
@pytest.mark.parametrize("shape", [(40, 40), (24, 56)])
def test_every_pixel_sees_the_triangle_that_brute_force_finds(engine, shape):
    points, depth, triangles = triangle_soup(80, seed=1)
    got = rasterize(points, depth, triangles, *shape, engine)
    np.testing.assert_array_equal(got.face, brute_force(points, depth, triangles, *shape))


def test_a_soup_larger_than_one_pass_gives_the_same(monkeypatch):
    points, depth, triangles = triangle_soup(60, seed=2)
    whole = rasterize(points, depth, triangles, 32, 32, "numpy")
    monkeypatch.setattr(raster, "CANDIDATES_PER_PASS", 500)
    in_parts = rasterize(points, depth, triangles, 32, 32, "numpy")
    np.testing.assert_array_equal(whole.face, in_parts.face)
    np.testing.assert_array_equal(whole.depth, in_parts.depth)


SQUARE = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], float)


@every_engine
def test_of_two_equal_triangles_the_first_is_seen(engine):
    got = rasterize(SQUARE, np.ones(4), [[0, 1, 2], [2, 1, 0]], 8, 8, engine)
    assert set(np.unique(got.face)) == {-1, 0}


@every_engine
def test_both_windings_are_drawn_and_x_runs_to_the_left(engine):
    left_half = np.array([[1.1, 1.1], [0, 1.1], [0, -1.1], [1.1, -1.1]])
    got = rasterize(left_half, np.ones(4), [[0, 1, 2], [0, 3, 2]], 8, 8, engine)
    assert got.covered[:, :4].sum() >= 32 - 8  # the diagonal's own pixels belong to neither
    assert not got.covered[:, 4:].any()


@every_engine
def test_what_lies_behind_the_camera_or_has_no_area_is_not_drawn(engine):
    line = np.array([[1, 1], [0, 0], [-1, -1], [0.5, 0.5]], float)
    assert not rasterize(SQUARE, -np.ones(4), [[0, 1, 2]], 8, 8, engine).covered.any()
    assert not rasterize(line, np.ones(4), [[0, 1, 2]], 8, 8, engine).covered.any()
    assert not rasterize(np.full((4, 2), np.nan), np.ones(4), [[0, 1, 2]], 8, 8, engine).covered.any()
    assert not rasterize(SQUARE * 0.1 + 5, np.ones(4), [[0, 1, 2]], 8, 8, engine).covered.any()


@every_engine
def test_weights_give_back_a_plane_seen_in_perspective(engine):
    depth = np.array([1.0, 2.0, 4.0, 3.0])
    got = rasterize(SQUARE, depth, [[0, 1, 2], [0, 2, 3]], 32, 32, engine)
    covered = got.covered
    assert covered.mean() > 0.9
    np.testing.assert_allclose(got.weights[covered].sum(axis=1), 1, atol=1e-6)
    corners = np.array([[0, 1, 2], [0, 2, 3]])[got.face[covered]]
    np.testing.assert_allclose((got.weights[covered] * depth[corners]).sum(axis=1), got.depth[covered], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "allowed"), [("numpy", 0.040), pytest.param("numba", 0.005, marks=ENGINES[1].marks)]
)
def test_a_mesh_of_the_basel_models_size_is_drawn_in_milliseconds_of_cpu_time(engine, allowed):
    model = synthetic_model(189)
    assert len(model.triangles) > 70_000
    mesh = shape3d.mesh(model, shape3d.split_coefficients(np.zeros(257)))
    took = []
    for _ in range(10):
        start = time.process_time()
        shape3d.raster(model, mesh.vertices, engine)
        took.append(time.process_time() - start)
    assert min(took) < allowed


def test_the_empty_part_of_an_interpolated_picture_is_zero():
    triangles = np.array([[0, 1, 2]])
    got = rasterize(SQUARE, np.ones(4), triangles, 16, 16)
    picture = got.interpolate(triangles, np.full((4, 3), 7.0))
    assert np.allclose(picture[got.covered], 7)
    assert not picture[~got.covered].any()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((SQUARE[:, :1], np.ones(4), [[0, 1, 2]], 8, 8), "points"),
        ((SQUARE, np.ones(3), [[0, 1, 2]], 8, 8), "depth"),
        ((SQUARE, np.ones(4), [[0, 1, 4]], 8, 8), "outside the 4"),
        ((SQUARE, np.ones(4), [[0, 1, -1]], 8, 8), "outside the 4"),
        ((SQUARE, np.ones(4), [[0, 1]], 8, 8), "triangles"),
        ((SQUARE, np.ones(4), [[0, 1, 2]], 8, 8, "gpu"), "engine"),
    ],
)
def test_a_mesh_that_makes_no_sense_is_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        rasterize(*arguments)
