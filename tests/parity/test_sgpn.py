"""SGPN against the numbers of the original: networks, face model, geometry, rendering, gradients, alignment,
pasting."""

from __future__ import annotations

import importlib.util
import json
from functools import cache

import numpy as np
import paddle
import pytest

from ppgan_fr import render, weights
from ppgan_fr.archs import d3dfr, sgpn, yolov5_face
from ppgan_fr.face import face_model, pipeline, shape3d
from ppgan_fr.face import sgpn as guide
from ppgan_fr.face.align import SGPN_512, similarity
from ppgan_fr.face.raster import has_numba, rasterize
from ppgan_fr.face.types import Face
from ppgan_fr.face.yolov5_face import found_faces, network_input
from ppgan_fr.make_face_model import read_mat
from tests.parity import reference
from tests.parity.reference import once_per
from tests.parity.tolerances import TOLERANCES, check

pytestmark = pytest.mark.parity

ROOT = reference.root() / "sgpn"
FULLSIZE = reference.root() / "fullsize"
MANIFEST = reference.manifest("sgpn")
ENGINES = ["numpy", "numba"] if has_numba() else ["numpy"]


def present(*files: str) -> list[str]:
    """The fixture (named by its first file) if all its files are there, for `parametrize`."""
    return [files[0]] if all((ROOT / file).is_file() for file in files) else []


@cache
def arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(ROOT / file, allow_pickle=False) as archive:
        return dict(archive)


def keys(file: str, *names: str) -> list[str]:
    """`file::key` of the keys that the fixture holds."""
    if not (ROOT / file).is_file():
        return []
    with np.load(ROOT / file, allow_pickle=False) as archive:
        return [f"{file}::{name}" for name in names if name in archive.files]


def faces_of(file: str, prefix: str = "raster") -> list[str]:
    """`file::0`, `file::1`, ... of the faces whose buffers a fixture holds."""
    return [name[: -len(".pix_to_face")] for name in keys(file, *(f"{prefix}{i}.pix_to_face" for i in range(8)))]


@cache
def fixture_model() -> face_model.FaceModel:
    return read_mat(ROOT / "BFM/BFM09_model_info.mat")


def ambiguous(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if values.dtype == bool:
        return values
    return np.unpackbits(values)[: shape[0] * shape[1]].reshape(shape).astype(bool)


# --- the generator


def generator() -> sgpn.SGPN:
    about = MANIFEST["generator"]
    options = {name: about[name] for name in ("size", "narrow", "channel_multiplier", "enc_style_dim", "style_dim")}
    network = sgpn.build(sgpn.Config(**options))
    weights.from_torch(network, weights.load_torch(ROOT / "generator/sgpn_narrow.pth"))
    return network


@once_per("fixture", present("generator/generator.npz", "generator/sgpn_narrow.pth"))
def test_the_generator_restores_what_the_original_restores(fixture):
    want = arrays(fixture)
    network = generator()
    network.eval()
    inputs = [paddle.to_tensor(want[name]) for name in ("im_LR", "im_D3D", "coeff_D3D")]
    with paddle.no_grad():
        image, latent = network(*inputs)
        for name, picture in (("LR", inputs[0]), ("D3D", inputs[1])):
            z, features = network.netE(picture)
            check(z, want[f"z_{name}"], "sgpn_feature", f"z_{name}")
            for level, feature in enumerate(features):
                check(feature, want[f"feature_{name}.{level}"], "sgpn_feature", f"feature_{name}.{level}")
    check(latent, want["tap.netG.mlp"], "sgpn_feature", "latent")
    check(image, want["out"], "sgpn_image", "out")


@once_per("fixture", present("generator/generator.npz", "generator/sgpn_narrow.pth"))
def test_every_stage_of_the_decoder_answers_like_the_original(fixture):
    want = arrays(fixture)
    network = generator()
    network.eval()
    seen = {}
    for name, layer in network.named_sublayers():
        if f"tap.{name}" in want:
            layer.register_forward_post_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
    with paddle.no_grad():
        network(*(paddle.to_tensor(want[name]) for name in ("im_LR", "im_D3D", "coeff_D3D")))
    taps = [name[4:] for name in want if name.startswith("tap.")]
    assert set(taps) == set(seen)
    for name in taps:
        check(seen[name], want[f"tap.{name}"], "sgpn_feature", name)


@once_per("fixture", present("generator/generator.npz", "generator/sgpn_narrow.pth"))
def test_gradients_reach_every_parameter_of_the_generator(fixture):
    want = arrays(fixture)
    network = generator()
    inputs = {name: paddle.to_tensor(want[name], stop_gradient=False) for name in ("im_LR", "im_D3D", "coeff_D3D")}
    image = network(*inputs.values())[0]
    (image * paddle.to_tensor(want["grad.probe"])).mean().backward()
    parameters = dict(network.named_parameters())
    for name in (name[5:] for name in want if name.startswith("grad.") and name != "grad.probe"):
        tensor = inputs[name] if name in inputs else parameters[name]
        check(tensor.grad, want[f"grad.{name}"], "sgpn_gradient", f"gradient of {name}")
    for name, length in MANIFEST["generator"]["grad_l2"].items():
        assert np.linalg.norm(parameters[name].grad.numpy()) == pytest.approx(length, rel=1e-3, abs=1e-9), name


@once_per("fixture", ["manifest.json"] if "generator" in MANIFEST else [])
def test_the_generator_has_the_names_and_shapes_of_the_checkpoint(fixture):
    about = MANIFEST["generator"]
    options = {name: about[name] for name in ("size", "narrow", "channel_multiplier", "enc_style_dim", "style_dim")}
    network = sgpn.build(sgpn.Config(**options))
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == about["keys"]
    assert sum(parameter.size for parameter in network.parameters()) == about["n_params"]


# --- the shape network


@once_per("fixture", present("recon/recon.npz", "recon/d3dfr_narrow.pth"))
def test_the_shape_network_finds_the_coefficients_of_the_original(fixture):
    want = arrays(fixture)
    about = MANIFEST["recon"]
    config = d3dfr.Config(width_per_group=about["width_per_group"], layers=tuple(about["blocks"]))
    network = d3dfr.build(config)
    weights.from_torch(network, weights.load_torch(ROOT / "recon/d3dfr_narrow.pth"))
    network.eval()
    with paddle.no_grad():
        got = network(paddle.to_tensor(want["im224"].astype(np.float32) / 255))
    check(got, want["coeff"], "sgpn_coefficients", "coeff")


# --- the detector


@once_per("fixture", present("yolov5face/yolov5face.npz", "yolov5face/yolov5face_narrow.pth"))
def test_the_detector_predicts_what_the_original_predicts(fixture):
    want = arrays(fixture)
    about = json.loads((ROOT / "yolov5face/manifest.json").read_text())
    names = ("depth_multiple", "width_multiple", "bn_eps", "bn_momentum")
    network = yolov5_face.build(yolov5_face.Config(**{name: about[name] for name in names}))
    weights.from_torch(network, weights.load_torch(ROOT / "yolov5face/yolov5face_narrow.pth"))
    network.eval()
    with paddle.no_grad():
        raw = network.raw(paddle.to_tensor(want["x"]))
        predictions = network(paddle.to_tensor(want["x"]))
    for level, head in enumerate(raw):
        check(head, want[f"raw{level}"], "sgpn_detector", f"raw{level}")
    check(predictions, want["pred"], "sgpn_detector", "pred")


@once_per("fixture", present("yolov5m_face_full_keys.json"))
def test_the_medium_detector_has_the_names_and_shapes_of_the_checkpoint(fixture):
    want = json.loads((ROOT / fixture).read_text())
    got = {name: list(value.shape) for name, value in yolov5_face.build(yolov5_face.Config()).state_dict().items()}
    renamed = {_paddle_name(name): shape for name, shape in want.items() if not name.endswith("num_batches_tracked")}
    assert got == renamed


def _paddle_name(name: str) -> str:
    return name.replace("running_mean", "_mean").replace("running_var", "_variance")


@once_per("fixture", keys("align/align.npz", "det.pred"))
def test_detections_become_the_faces_of_the_original(fixture):
    want = arrays("align/align.npz")
    image, seen = want["det.image_bgr"], tuple(want["det.net_input_hw"])
    tensor = network_input(image)
    assert tensor.shape[2:] == seen
    np.testing.assert_array_equal(tensor[:, :, ::8, ::8], want["det.net_input.sub8"])
    faces = found_faces(want["det.pred"][0], seen, image.shape[:2])
    assert len(faces) == MANIFEST["align"]["n_detections"]
    check(np.stack([face.box for face in faces]), want["det.bboxes_xywh"], "sgpn_points", "boxes")
    check(np.stack([face.landmarks for face in faces]), want["det.kpss"], "sgpn_points", "landmarks")
    check(np.array([face.score for face in faces]), want["det.scores"], "sgpn_points", "scores")


# --- full size, weights from the recipe


def full_size_state(keys_file: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    spec = importlib.util.spec_from_file_location("full_size_recipe", FULLSIZE / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, kind, seed, tag, file = next(case for case in module.CASES if case[0] == keys_file)
    with np.load(FULLSIZE / file, allow_pickle=False) as archive:
        return module.make(kind, str(FULLSIZE / keys_file), seed, tag), dict(archive)


def full_size(name: str) -> list[str]:
    there = all((FULLSIZE / file).is_file() for file in (f"{name}.npz", f"{name}_keys.json", "recipe.py"))
    return [name] if there else []


@once_per("fixture", full_size("recon_resnet50"))
def test_the_full_size_shape_network_finds_the_coefficients_of_the_original(fixture):
    state, want = full_size_state(f"{fixture}_keys.json")
    network = d3dfr.build(d3dfr.Config())
    weights.from_torch(network, state)
    network.eval()
    with paddle.no_grad():
        got = network(paddle.to_tensor(want["im224"].astype(np.float32) / 255))
    check(got, want["coeff"], "sgpn_coefficients", "coeff")


@once_per("fixture", full_size("sgpn_512"))
def test_the_full_size_generator_restores_what_the_original_restores(fixture):
    state, want = full_size_state(f"{fixture}_keys.json")
    network = sgpn.build(sgpn.Config())
    weights.from_torch(network, state)
    del state
    network.eval()
    pictures = [paddle.to_tensor(want[name].astype(np.float32) / 127.5 - 1) for name in ("im_LR", "im_D3D")]
    with paddle.no_grad():
        image = network(*pictures, paddle.to_tensor(want["coeff"]))[0].numpy()
    check(image[:, :, ::8, ::8], want["out_sub8"], "sgpn_image", "out_sub8")
    check(image.mean(axis=(2, 3)), want["out_mean"], "sgpn_image", "out_mean")


# --- face model and geometry

GEOMETRY = "geometry/geometry.npz"
MODEL = "BFM/BFM09_model_info.mat"
WITH_MODEL = bool(present(MODEL))


def geometry_keys(*names: str) -> list[str]:
    return keys(GEOMETRY, *names) if WITH_MODEL else []


@once_per("fixture", present(MODEL) if "geometry" in MANIFEST else [])
def test_the_matlab_face_model_is_read(fixture):
    model = fixture_model()
    assert len(model.mean_shape) == MANIFEST["geometry"]["n_vertices"]
    assert len(model.triangles) == MANIFEST["geometry"]["n_faces"]
    ours = face_model.triangles_around(model.triangles, len(model.mean_shape))
    assert [set(row) for row in ours] == [set(row) for row in model.triangles_around]


@once_per(
    "fixture",
    geometry_keys(
        "vs", "vs_t", "rotation_applied_as_v_at_R", "normals", "texture", "color", "gray_color", "lms_proj",
        "lms_proj_unflipped",
    ),
)  # fmt: skip
def test_coefficients_become_the_mesh_of_the_original(fixture):
    key = fixture.split("::")[1]
    want, model = arrays(GEOMETRY), fixture_model()
    for vector, expected in zip(want["coeff"], want[key]):
        coefficients = shape3d.split_coefficients(vector)
        mesh = shape3d.mesh(model, coefficients)
        landmarks = shape3d.projected_landmarks(model, mesh.vertices)
        got = {
            "vs": lambda c=coefficients: shape3d.shape(model, c),
            "vs_t": lambda m=mesh: m.vertices,
            "rotation_applied_as_v_at_R": lambda c=coefficients: shape3d.rotation(c.angles).T,
            "normals": lambda c=coefficients: shape3d.normals(model, shape3d.shape(model, c)),
            "texture": lambda m=mesh: m.texture,
            "color": lambda m=mesh: m.colours,
            "gray_color": lambda m=mesh, c=coefficients: shape3d.shade(
                np.full_like(m.texture, shape3d.GRAY), m.normals, c.light
            ),
            "lms_proj": lambda points=landmarks: points,
            "lms_proj_unflipped": lambda points=landmarks: points * [1, -1] + [0, shape3d.IMAGE_SIZE],
        }[key]()
        check(got, expected, "sgpn_geometry", key)


def assert_same_raster(buffers, want: dict[str, np.ndarray], prefix: str) -> None:
    expected = want[f"{prefix}.pix_to_face"]
    certain = ~ambiguous(want[f"{prefix}.ambiguous"], expected.shape)
    assert (buffers.face != expected)[certain].sum() == 0
    same = buffers.face == expected
    for key, kind, got in (("zbuf", "sgpn_depth", buffers.depth), ("bary", "sgpn_weights", buffers.weights)):
        if f"{prefix}.{key}" in want:
            check(got[same], want[f"{prefix}.{key}"][same], kind, key)
    if f"{prefix}.p3d_pix_to_face" in want:
        assert (buffers.face != want[f"{prefix}.p3d_pix_to_face"])[certain].sum() == 0


@once_per("fixture", faces_of(GEOMETRY) if WITH_MODEL else [])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_rasteriser_sees_the_same_triangle_at_every_pixel_of_a_face(fixture, engine):
    want, prefix = arrays(GEOMETRY), fixture.split("::")[1]
    side = want[f"{prefix}.pix_to_face"].shape
    triangles = fixture_model().triangles
    assert_same_raster(
        rasterize(want[f"{prefix}.verts_ndc"], want[f"{prefix}.z"], triangles, *side, engine), want, prefix
    )


@once_per("fixture", faces_of(GEOMETRY) if WITH_MODEL else [])
def test_coefficients_cover_the_pixels_of_the_original(fixture):
    want, prefix = arrays(GEOMETRY), fixture.split("::")[1]
    model = fixture_model()
    mesh = shape3d.mesh(model, shape3d.split_coefficients(want["coeff"][int(prefix.removeprefix("raster"))]))
    buffers = shape3d.raster(model, mesh.vertices)
    expected = want[f"{prefix}.pix_to_face"]
    assert (buffers.face != expected)[~ambiguous(want[f"{prefix}.ambiguous"], expected.shape)].sum() == 0


@once_per("fixture", keys("raster/soup.npz", "square.pix_to_face", "wide.pix_to_face"))
@pytest.mark.parametrize("engine", ENGINES)
def test_the_rasteriser_copes_with_degenerate_duplicate_and_hidden_triangles(fixture, engine):
    want, prefix = arrays("raster/soup.npz"), fixture.split("::")[1].split(".")[0]
    side = want[f"{prefix}.pix_to_face"].shape
    buffers = rasterize(want[f"{prefix}.verts_ndc"], want[f"{prefix}.z"], want[f"{prefix}.tri"], *side, engine)
    assert_same_raster(buffers, want, prefix)


@once_per("fixture", geometry_keys("rendered_img"))
def test_the_rendered_picture_is_the_originals(fixture):
    want, model = arrays(GEOMETRY), fixture_model()
    for index, (vector, expected) in enumerate(zip(want["coeff"], want["rendered_img"])):
        certain = ~ambiguous(want[f"raster{index}.ambiguous"], expected.shape[:2])
        picture, mask = shape3d.render(model, vector)
        assert ((mask > 0) == (expected[..., 3] > 0))[certain].all()
        check(picture[certain], expected[..., :3][certain], "sgpn_picture", "picture")


@once_per("fixture", geometry_keys("im_3DRec.sub4", "im_3DRec_gray.sub4"))
def test_the_rendering_goes_back_into_the_crop(fixture):
    key = fixture.split("::")[1]
    want, model = arrays(GEOMETRY), fixture_model()
    for index, vector in enumerate(want["coeff"]):
        picture, mask = shape3d.render(model, vector)
        if "gray" in key:
            coefficients = shape3d.split_coefficients(vector)
            mesh = shape3d.mesh(model, coefficients)
            light = shape3d.shade(np.full_like(mesh.texture, shape3d.GRAY), mesh.normals, coefficients.light)
            picture = shape3d.raster(model, mesh.vertices).interpolate(model.triangles, light)
        size = 4 * want[key].shape[-1]
        got = guide.rendered_crop(picture, mask, want["inverse_warpmat"][index], size).transpose(2, 0, 1)
        soft = want["out_mask_512.sub4"][index, 0]
        away_from_rim = (soft > 1 - 1e-6) | (soft == 0)
        check(got[:, ::4, ::4][:, away_from_rim], want[key][index][:, away_from_rim], "sgpn_rendered_crop", key)


# --- the same in Paddle, with gradients


@once_per("fixture", geometry_keys("rendered_img", "rendered_img_gray", "lms_proj", "color"))
def test_the_differentiable_renderer_draws_the_same(fixture):
    key = fixture.split("::")[1]
    want = arrays(GEOMETRY)
    drawn = render.FaceRenderer(fixture_model())(paddle.to_tensor(want["coeff"]), gray="gray" in key)
    if key in ("lms_proj", "color"):
        check(drawn.landmarks if key == "lms_proj" else drawn.colours, want[key], "sgpn_geometry", key)
        return
    got = drawn.picture.numpy().transpose(0, 2, 3, 1)
    for index, expected in enumerate(want[key]):
        certain = ~ambiguous(want[f"raster{index}.ambiguous"], expected.shape[:2])
        check(got[index][certain], expected[certain][:, :3], "sgpn_picture", key)


@once_per("fixture", geometry_keys("grad.coeff_from_image", "grad.coeff_from_lms", "grad.coeff_from_color"))
def test_gradients_reach_the_coefficients_through_the_rendering(fixture):
    key = fixture.split("::")[1]
    want = arrays(GEOMETRY)
    coefficients = paddle.to_tensor(want["coeff"], stop_gradient=False)
    drawn = render.FaceRenderer(fixture_model())(coefficients)
    if key.endswith("image"):
        # The original averages over four channels; its probe is zero on the mask.
        product = drawn.picture.transpose([0, 2, 3, 1]) * paddle.to_tensor(want["grad.image_probe"])
        loss = product.mean() * 3 / want["rendered_img"].shape[-1]
    elif key.endswith("lms"):
        loss = (drawn.landmarks * paddle.to_tensor(want["grad.lms_probe"])).mean()
    else:
        loss = (drawn.colours * paddle.to_tensor(want["grad.color_probe"])).mean()
    loss.backward()
    check(coefficients.grad, want[key], "sgpn_gradient", key)


# --- alignment and pasting

ALIGN = "align/align.npz"


@once_per("fixture", keys(ALIGN, "reference_5pts_512", "lm3d_5"))
def test_reference_landmarks_are_the_originals(fixture):
    key = fixture.split("::")[1]
    got = SGPN_512.array() if key == "reference_5pts_512" else guide.STANDARD_LANDMARKS
    check(got, arrays(ALIGN)[key], "sgpn_alignment", key)


@once_per("fixture", present("BFM/similarity_Lm3D_all.mat"))
def test_the_standard_landmarks_are_those_of_the_published_file(fixture):
    loadmat = pytest.importorskip("scipy.io").loadmat
    got = guide.standard_landmarks(loadmat(ROOT / fixture)["lm"])
    np.testing.assert_array_equal(got, guide.STANDARD_LANDMARKS)


@once_per("fixture", keys(ALIGN, "umeyama_to_ref", "umeyama_reflection_case.T"))
def test_similarities_are_the_originals(fixture):
    want = arrays(ALIGN)
    if fixture.endswith("case.T"):
        pairs = [(want[f"umeyama_reflection_case.{end}"] for end in ("src", "dst", "T"))]
    else:
        pairs = [(p, want["reference_5pts_512"], t) for p, t in zip(want["pts5"], want["umeyama_to_ref"])]
    for source, target, matrix in pairs:
        check(similarity(source, target, "umeyama"), matrix[:2], "sgpn_alignment", "matrix")


@once_per("fixture", keys(ALIGN, "d3dfr_target5p"))
def test_the_crop_of_the_shape_network_is_the_originals(fixture):
    want = arrays(ALIGN)
    for points, target, there, back in zip(
        want["crop_pts5"], want["d3dfr_target5p"], want["warp_to_224"], want["warp_to_512"]
    ):
        got = guide.shape_crop_points(points)
        check(got, target, "sgpn_alignment", "target points")
        check(similarity(points, got, "umeyama"), there, "sgpn_alignment", "to the crop")
        check(similarity(got, points, "umeyama"), back, "sgpn_alignment", "back")


def stand_in(faces):
    """The fixture's network: clamp(-0.8 * flipped channels + 0.1, -1, 1) of RGB in [-1, 1]."""
    restored = []
    for face in faces:
        picture = face.image[:, :, ::-1].astype(np.float32) / 127.5 - 1
        answer = np.clip(-0.8 * picture[:, :, ::-1] + 0.1, -1, 1)
        restored.append((answer[:, :, ::-1] + 1) * 127.5)
    return restored


def scene_faces(want: dict[str, np.ndarray]) -> list[Face]:
    sizes = range(100, 0, -1)  # the pipeline takes large faces first: the fixture's order
    return [Face(np.array([0, 0, s, s], np.float32), points, 1.0) for s, points in zip(sizes, want["paste.kpss"])]


@once_per("fixture", keys(ALIGN, "paste.result_bgr"))
def test_the_demos_own_order_gives_the_demos_photo(fixture):
    want = arrays(ALIGN)
    got = guide.restore_in_turn(want["paste.scene_bgr"], scene_faces(want), stand_in)
    difference = np.abs(got.astype(int) - want["paste.result_bgr"])
    assert difference.mean() <= TOLERANCES["sgpn_photo"].atol
    assert np.percentile(difference, 99.9) < 20


@once_per("fixture", keys(ALIGN, "paste.crop0.sub4"))
def test_the_pipeline_cuts_and_pastes_like_the_demo(fixture):
    want = arrays(ALIGN)
    faces = scene_faces(want)
    got = pipeline.restore_image(want["paste.scene_bgr"], lambda _: faces, stand_in, mask="sgpn", template=SGPN_512)
    np.testing.assert_array_equal(got.faces[0].aligned.image[::4, ::4], want["paste.crop0.sub4"])
    check(got.faces[0].aligned.landmarks, want["paste.crop_pts5"][0], "sgpn_points", "landmarks")
    # The pipeline rounds to whole levels before the blend is truncated, and cuts every face from the untouched photo.
    assert np.abs(got.image.astype(int) - want["paste.result_bgr"]).mean() < TOLERANCES["sgpn_photo"].atol


@once_per("fixture", keys(ALIGN, "paste.mask_row256"))
def test_the_mask_of_the_demo_is_the_originals(fixture):
    from ppgan_fr.face.paste import paste_sgpn
    from ppgan_fr.face.types import AlignedFace

    want = arrays(ALIGN)
    size = len(want["paste.mask_row256"])
    black, white = np.zeros((size, size, 3), np.uint8), np.full((size, size, 3), 255, np.float32)
    aligned = AlignedFace(black, np.zeros((5, 2), np.float32), np.eye(2, 3))
    got = paste_sgpn(black, white, aligned)[:, :, 0]
    np.testing.assert_array_equal(got[size // 2], (255 * want["paste.mask_row256"]).astype(np.uint8))
    np.testing.assert_array_equal(np.diag(got), (255 * want["paste.mask_diag"]).astype(np.uint8))
