"""The face model command: a synthetic model, MATLAB files, the original download with fabricated contents."""

import cv2
import numpy as np
import pytest

from ppgan_fr import make_face_model as command
from ppgan_fr.cli import run_command
from ppgan_fr.face.face_model import FaceModelError, read_face_model, triangles_around
from ppgan_fr.face.shape3d import render
from ppgan_fr.face.synthetic_model import synthetic_model

savemat = pytest.importorskip("scipy.io").savemat


@pytest.fixture(scope="module")
def model():
    return synthetic_model(9)


def matlab_arrays(model, index_dtype=np.float32):
    return {
        "meanshape": model.mean_shape.reshape(1, -1),
        "idBase": model.identity_basis,
        "exBase": model.expression_basis,
        "meantex": model.mean_texture.reshape(1, -1),
        "texBase": model.texture_basis,
        "tri": (model.triangles + 1).astype(index_dtype),
        "point_buf": (model.triangles_around + 1).astype(index_dtype),
        "keypoints": (model.landmarks[None] + 1).astype(index_dtype),
    }


def test_a_synthetic_model_is_written(tmp_path, capsys):
    target = tmp_path / "deep" / "model.npz"
    assert run_command("make-face-model", ["--synthetic", "--side", "9", "--output", str(target)]) == 0
    assert "81 vertices, 128 triangles" in capsys.readouterr().out
    assert len(read_face_model(target).mean_shape) == 81


def write_faces(folder, count):
    rng = np.random.default_rng(0)
    for index in range(count):
        face = np.full((64, 64, 3), (40, 80, 120), np.uint8) + rng.integers(0, 60, 3).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), face)


def test_colours_are_learned_from_aligned_faces(tmp_path):
    write_faces(tmp_path, 6)
    target = tmp_path / "model.npz"
    arguments = ["--synthetic", "--side", "17", "--colours", str(tmp_path), "--output", str(target)]
    assert run_command("make-face-model", arguments) == 0
    model = read_face_model(target)
    picture, mask = render(model, np.zeros(257, np.float32))
    seen = picture[mask > 0].mean(axis=0)
    faces = np.stack([cv2.imread(str(path))[0, 0, ::-1] for path in tmp_path.glob("*.png")])
    np.testing.assert_allclose(seen, faces.mean(axis=0), atol=0.1)
    modes = np.abs(model.texture_basis).max(axis=0) > 1e-3
    assert modes.any()
    assert not modes[3:].any(), "pictures of one colour each differ in three numbers"


def test_one_face_or_no_folder_is_too_little_to_learn_colours_from(tmp_path, capsys):
    write_faces(tmp_path, 1)
    for folder, complaint in ((tmp_path, "at least two pictures, got 1"), (tmp_path / "none", "no such folder")):
        arguments = ["--synthetic", "--colours", str(folder), "--output", str(tmp_path / "m.npz")]
        assert run_command("make-face-model", arguments) == 2
        assert complaint in capsys.readouterr().err
    assert not (tmp_path / "m.npz").exists()


def test_another_suffix_is_refused(tmp_path, capsys):
    assert run_command("make-face-model", ["--synthetic", "--output", str(tmp_path / "model.mat")]) == 2
    assert "must end in .npz" in capsys.readouterr().err


@pytest.mark.parametrize("index_dtype", [np.float32, np.float64, np.int32, np.uint16])
def test_indices_may_be_whole_or_floating(model, tmp_path, index_dtype):
    savemat(tmp_path / "m.mat", matlab_arrays(model, index_dtype))
    again = command.read_mat(tmp_path / "m.mat")
    np.testing.assert_array_equal(again.triangles, model.triangles)
    np.testing.assert_array_equal(again.landmarks, model.landmarks)
    np.testing.assert_array_equal(again.identity_basis, model.identity_basis)


def test_column_vectors_are_read_like_rows(model, tmp_path):
    arrays = matlab_arrays(model)
    savemat(tmp_path / "m.mat", {**arrays, "meanshape": arrays["meanshape"].T, "keypoints": arrays["keypoints"].T})
    np.testing.assert_array_equal(command.read_mat(tmp_path / "m.mat").mean_shape, model.mean_shape)


@pytest.mark.parametrize(
    ("key", "change", "complaint"),
    [
        ("idBase", None, "idBase missing"),
        ("idBase", lambda v: v.T, r"identity_basis has shape \(80, 243\)"),
        ("meantex", lambda v: v[:, :-1], "meantex has 242 numbers"),
        ("meanshape", lambda v: v[:, :-1], "three per vertex"),
        ("tri", lambda v: v - 1, "tri has indices from 0"),
        ("tri", lambda v: v + 0.5, "tri holds values that are no indices"),
        ("point_buf", lambda v: v[:-1], "point_buf has shape"),
        ("point_buf", lambda v: np.full_like(v, 129), "belong to no triangle"),
        ("keypoints", lambda v: v + 1000, "landmarks has an index outside"),
        ("exBase", lambda v: v * np.inf, "expression_basis holds values that are not finite"),
        ("texBase", lambda v: np.array(["text"]), "texBase does not hold numbers"),
    ],
)
def test_a_wrong_part_of_a_matlab_file_is_named(model, tmp_path, key, change, complaint):
    arrays = matlab_arrays(model)
    if change is None:
        del arrays[key]
    else:
        with np.errstate(invalid="ignore"):
            arrays[key] = change(arrays[key])
    savemat(tmp_path / "m.mat", arrays)
    with pytest.raises(FaceModelError, match=f"m.mat: .*{complaint}"):
        command.read_mat(tmp_path / "m.mat")


@pytest.mark.parametrize("content", [b"", b"not matlab at all", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_a_damaged_matlab_file_is_named(tmp_path, content):
    (tmp_path / "m.mat").write_bytes(content)
    with pytest.raises(FaceModelError, match=r"m\.mat"):
        command.read_mat(tmp_path / "m.mat")


def test_a_matlab_file_that_ends_early_is_named(model, tmp_path):
    savemat(tmp_path / "m.mat", matlab_arrays(model), do_compression=True)
    content = (tmp_path / "m.mat").read_bytes()
    (tmp_path / "m.mat").write_bytes(content[: len(content) // 2])
    with pytest.raises(FaceModelError, match=r"m\.mat"):
        command.read_mat(tmp_path / "m.mat")


# --- the original download, fabricated: 40 original vertices, 30 in the expression basis, 12 of them in front


def fabricated_download(folder):
    rng = np.random.default_rng(0)
    folder.mkdir()
    original, middle, modes = 40, 30, 70
    savemat(
        folder / "01_MorphableModel.mat",
        {
            "shapeMU": rng.normal(size=(3 * original, 1)) * 1e5,
            "shapePC": rng.normal(size=(3 * original, 90)),
            "shapeEV": rng.uniform(1, 2, (90, 1)) * 1e5,
            "texMU": rng.uniform(0, 255, (3 * original, 1)),
            "texPC": rng.normal(size=(3 * original, 90)),
            "texEV": rng.uniform(1, 2, (90, 1)),
        },
    )
    to_original = rng.permutation(original)[:middle]
    front = rng.permutation(middle)[:12]
    savemat(folder / "BFM_exp_idx.mat", {"trimIndex": to_original[:, None] + 1})
    savemat(folder / "BFM_front_idx.mat", {"idx": front[:, None] + 1})
    triangles = np.array([[i, (i + 1) % 12, (i + 2) % 12] for i in range(12)])
    around = triangles_around(triangles, 12)
    info = {"tri": triangles + 1, "point_buf": around + 1, "keypoints": rng.integers(1, 13, (1, 68))}
    savemat(folder / "facemodel_info.mat", info)
    mean, basis = rng.normal(size=3 * middle), rng.normal(size=(modes, 3 * middle))
    numbers = np.concatenate([mean, basis.ravel()]).astype("<f4")
    (folder / "Exp_Pca.bin").write_bytes(np.int32(modes).tobytes() + numbers.tobytes())
    np.savetxt(folder / "std_exp.txt", rng.uniform(1, 2, modes)[None])
    return original, to_original, front, basis


def test_the_original_download_becomes_a_model(tmp_path):
    from scipy.io import loadmat

    _, to_original, front, basis = fabricated_download(tmp_path / "bfm")
    model = command.from_download(tmp_path / "bfm")
    raw = loadmat(tmp_path / "bfm" / "01_MorphableModel.mat")
    vertex = 5
    source = to_original[front[vertex]]
    np.testing.assert_allclose(
        model.mean_shape[vertex], raw["shapeMU"][3 * source : 3 * source + 3, 0] / 1e5, rtol=1e-6
    )
    np.testing.assert_allclose(
        model.identity_basis[3 * vertex + 1, :80],
        raw["shapePC"][3 * source + 1, :80] * raw["shapeEV"][:80, 0] / 1e5,
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        model.texture_basis[3 * vertex], raw["texPC"][3 * source, :80] * raw["texEV"][:80, 0], rtol=1e-5
    )
    deviations = np.loadtxt(tmp_path / "bfm" / "std_exp.txt")
    np.testing.assert_allclose(
        model.expression_basis[3 * vertex + 2],
        basis[:64, 3 * front[vertex] + 2] * deviations[:64] / 1e5,
        rtol=1e-4,
    )


def test_missing_files_of_the_download_are_listed_with_their_source(tmp_path):
    fabricated_download(tmp_path / "bfm")
    (tmp_path / "bfm" / "Exp_Pca.bin").unlink()
    (tmp_path / "bfm" / "facemodel_info.mat").unlink()
    with pytest.raises(FaceModelError, match=r"Exp_Pca\.bin \(.*facemodel_info\.mat \(Deep3DFaceRecon"):
        command.from_download(tmp_path / "bfm")


def test_a_cut_expression_basis_is_named(tmp_path):
    fabricated_download(tmp_path / "bfm")
    path = tmp_path / "bfm" / "Exp_Pca.bin"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FaceModelError, match=r"Exp_Pca\.bin: damaged"):
        command.from_download(tmp_path / "bfm")
