import numpy as np
import pytest

from ppgan_fr.face import shape3d, synthetic_model
from ppgan_fr.face.sgpn import STANDARD_LANDMARKS, standard_landmarks


@pytest.fixture(scope="module")
def model():
    return synthetic_model.synthetic_model(41)


def coefficients(**parts):
    vector = np.zeros(257, np.float32)
    places = {"angles": slice(224, 227), "light": slice(227, 254), "translation": slice(254, 257)}
    for name, value in parts.items():
        vector[places[name]] = value
    return vector


def test_the_257_coefficients_have_names():
    parts = shape3d.split_coefficients(np.arange(257))
    assert parts.identity[0] == 0
    assert parts.expression[0] == 80
    assert parts.texture[0] == 144
    assert list(parts.angles) == [224, 225, 226]
    assert parts.light.shape == (3, 9)
    assert list(parts.translation) == [254, 255, 256]


def test_another_number_of_coefficients_is_refused():
    with pytest.raises(ValueError, match="257"):
        shape3d.split_coefficients(np.zeros(256))


def test_a_rotation_turns_right_handed_about_each_axis():
    quarter = np.pi / 2
    for axis, (start, end) in enumerate([([0, 1, 0], [0, 0, 1]), ([0, 0, 1], [1, 0, 0]), ([1, 0, 0], [0, 1, 0])]):
        turn = shape3d.rotation(np.eye(3)[axis] * quarter)
        np.testing.assert_allclose(turn @ start, end, atol=1e-6)


def test_rotations_apply_about_x_first_and_z_last():
    a, b, c = 0.3, -0.5, 0.7
    single = [shape3d.rotation(np.eye(3)[i] * angle) for i, angle in enumerate((a, b, c))]
    np.testing.assert_allclose(shape3d.rotation([a, b, c]), single[2] @ single[1] @ single[0], atol=1e-6)


def test_the_mean_face_lies_in_the_middle_of_the_picture(model):
    picture, mask = shape3d.render(model, coefficients())
    assert picture.shape == (224, 224, 3)
    rows, columns = np.nonzero(mask)
    assert abs(columns.mean() - 111.5) < 2
    assert abs(rows.mean() - 111.5) < 5
    assert picture[mask == 0].max() == 0
    assert picture.min() >= 0
    assert picture.max() <= 255


def test_a_face_moved_to_its_right_and_up_moves_so_in_the_picture(model):
    there = np.argwhere(shape3d.render(model, coefficients())[1]).mean(0)
    moved = np.argwhere(shape3d.render(model, coefficients(translation=[0.2, 0.1, 0]))[1]).mean(0)
    assert moved[1] - there[1] == pytest.approx(0.2 * 101.5, abs=1)
    assert there[0] - moved[0] == pytest.approx(0.1 * 101.5, abs=1)


def test_normals_have_unit_length_and_look_at_the_camera(model):
    mesh = shape3d.mesh(model, shape3d.split_coefficients(coefficients()))
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-5)
    assert (mesh.normals[:, 2] > 0).mean() > 0.99


def test_a_vertex_without_area_around_it_has_no_normal_instead_of_nan(model):
    flat = np.zeros_like(model.mean_shape)
    assert not np.isnan(shape3d.normals(model, flat)).any()


def test_light_without_direction_is_the_same_everywhere():
    directions = np.random.default_rng(0).normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    light = np.zeros((3, 9), np.float32)
    shaded = shape3d.shade(np.full((20, 3), 100, np.float32), directions.astype(np.float32), light)
    # 0.8 times the constant term pi / sqrt(4 pi)
    np.testing.assert_allclose(shaded, 100 * 0.8 * np.pi / np.sqrt(4 * np.pi), rtol=1e-5)


def test_both_rasterisers_draw_the_same_face(model):
    from ppgan_fr.face.raster import has_numba

    if not has_numba():
        pytest.skip("needs numba: requirements-sgpn.txt")
    vector = coefficients(angles=[0.1, 0.4, -0.1])
    for numpy_part, numba_part in zip(*(shape3d.render(model, vector, engine) for engine in ("numpy", "numba"))):
        np.testing.assert_array_equal(numpy_part, numba_part)


def test_the_synthetic_face_has_its_landmarks_where_the_average_face_has_them(model):
    ours = standard_landmarks((model.mean_shape - model.centre)[model.landmarks])
    assert np.abs(ours - STANDARD_LANDMARKS).max() < 0.08


def test_the_synthetic_model_is_the_same_every_time_and_differs_by_seed():
    one, same, other = (synthetic_model.synthetic_model(15, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.identity_basis, same.identity_basis)
    assert np.abs(one.identity_basis - other.identity_basis).max() > 1e-3


def test_a_synthetic_face_does_not_leave_the_picture_for_usual_coefficients(model):
    rng = np.random.default_rng(0)
    for _ in range(5):
        vector = coefficients(angles=rng.normal(size=3) * 0.2)
        vector[:224] = rng.normal(size=224)
        mask = shape3d.render(model, vector)[1]
        assert 0.15 < mask.mean() < 0.7


def test_a_coarse_synthetic_model_is_refused():
    with pytest.raises(ValueError, match="at least 8"):
        synthetic_model.synthetic_model(7)
