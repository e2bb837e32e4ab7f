import dataclasses

import numpy as np
import pytest

from ppgan_fr.face.face_model import FaceModelError, read_face_model, triangles_around, write_face_model
from ppgan_fr.face.synthetic_model import synthetic_model


@pytest.fixture(scope="module")
def model():
    return synthetic_model(15)


def test_a_written_model_is_read_back_equal(model, tmp_path):
    again = read_face_model(write_face_model(model, tmp_path / "m.npz"))
    for field in dataclasses.fields(model):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(model, field.name))
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(FaceModelError, match=r"no such file.*make_face_model.py.*--synthetic"):
        read_face_model(tmp_path / "nowhere.npz")


def test_a_matlab_file_says_that_it_has_to_be_converted(tmp_path):
    path = tmp_path / "BFM.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(FaceModelError, match="convert it once"):
        read_face_model(path)


@pytest.mark.parametrize("keep", [0, 10, 1000, -100])
def test_a_damaged_file_is_named(model, tmp_path, keep):
    path = write_face_model(model, tmp_path / "m.npz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FaceModelError, match=r"m\.npz: damaged"):
        read_face_model(path)


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "m.npz", mean_shape=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FaceModelError):
        read_face_model(tmp_path / "m.npz")


def test_a_file_of_other_arrays_lists_what_is_missing(tmp_path):
    np.savez(tmp_path / "m.npz", mean_shape=np.zeros((3, 3)))
    with pytest.raises(FaceModelError, match="identity_basis.*missing"):
        read_face_model(tmp_path / "m.npz")


@pytest.mark.parametrize(
    ("field", "change", "complaint"),
    [
        ("identity_basis", lambda v: v[:-3], "identity_basis has shape"),
        ("expression_basis", lambda v: v[:, :10], "expression_basis has shape"),
        ("mean_texture", lambda v: v.reshape(-1), "mean_texture has shape"),
        ("texture_basis", lambda v: v * np.nan, "texture_basis holds values that are not finite"),
        ("triangles", lambda v: v + 1, "triangles has an index outside 0..224"),
        ("landmarks", lambda v: v - 10_000, "landmarks has an index outside"),
        ("landmarks", lambda v: v[:60], "landmarks has shape"),
    ],
)
def test_parts_that_do_not_fit_together_are_named(model, field, change, complaint):
    with pytest.raises(FaceModelError, match=complaint):
        dataclasses.replace(model, **{field: change(getattr(model, field))})


def test_isolated_vertices_are_named_instead_of_shaded_with_nan(model):
    around = model.triangles_around.copy()
    around[[7, 9]] = len(model.triangles)
    with pytest.raises(FaceModelError, match="2 vertices belong to no triangle, the first is 7"):
        dataclasses.replace(model, triangles_around=around)


def test_triangles_around_a_vertex_are_those_that_name_it():
    around = triangles_around(np.array([[0, 1, 2], [2, 1, 3]]), 4)
    assert [sorted(row[row < 2]) for row in around] == [[0], [0, 1], [0, 1], [1]]
