import numpy as np
import paddle
import pytest

from ppgan_fr import render
from ppgan_fr.face import sgpn, shape3d
from ppgan_fr.face.align import FFHQ_512
from ppgan_fr.face.synthetic_model import synthetic_model


@pytest.fixture(scope="module")
def model():
    return synthetic_model(21)


def random_coefficients(count, seed=0):
    rng = np.random.default_rng(seed)
    vector = rng.normal(size=(count, 257)) * 0.5
    vector[:, 224:227] *= 0.3
    vector[:, 227:254] *= 0.1
    vector[:, 254:] *= 0.1
    return vector.astype(np.float32)


def test_a_batch_is_drawn_like_each_face_in_numpy(model):
    vectors = random_coefficients(2)
    drawn = render.FaceRenderer(model)(paddle.to_tensor(vectors))
    for index, vector in enumerate(vectors):
        picture, mask = shape3d.render(model, vector)
        np.testing.assert_allclose(drawn.picture[index].numpy().transpose(1, 2, 0), picture, atol=0.02)
        np.testing.assert_array_equal(drawn.mask[index, 0].numpy(), mask)
        mesh = shape3d.mesh(model, shape3d.split_coefficients(vector))
        points = shape3d.projected_landmarks(model, mesh.vertices)
        np.testing.assert_allclose(drawn.landmarks[index].numpy(), points, atol=1e-3)


def test_gradients_agree_with_finite_differences(model):
    vector = random_coefficients(1, seed=1)
    renderer = render.FaceRenderer(model)
    probe = paddle.to_tensor(np.random.default_rng(2).normal(size=(1, 68, 2)).astype(np.float32))
    tensor = paddle.to_tensor(vector, stop_gradient=False)
    (renderer(tensor).landmarks * probe).sum().backward()
    for place in (3, 90, 225, 255):
        step = np.zeros_like(vector)
        step[0, place] = 1e-2
        ends = [(renderer(paddle.to_tensor(vector + sign * step)).landmarks * probe).sum().item() for sign in (1, -1)]
        assert tensor.grad[0, place].item() == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.02, abs=0.02)


def test_colours_reach_texture_and_light(model):
    tensor = paddle.to_tensor(random_coefficients(1), stop_gradient=False)
    render.FaceRenderer(model)(tensor).picture.mean().backward()
    gradient = tensor.grad.numpy()[0]
    assert np.isfinite(gradient).all()
    for part in (slice(0, 80), slice(80, 144), slice(144, 224), slice(224, 227), slice(227, 254), slice(254, 257)):
        assert np.abs(gradient[part]).max() > 0


def test_a_face_behind_the_camera_leaves_an_empty_picture_and_no_error(model):
    vector = np.zeros((1, 257), np.float32)
    vector[0, 256] = 20
    tensor = paddle.to_tensor(vector, stop_gradient=False)
    drawn = render.FaceRenderer(model)(tensor)
    assert drawn.picture.abs().max().item() == 0
    assert drawn.mask.sum().item() == 0
    drawn.picture.sum().backward()


def test_the_warp_is_the_one_of_the_pipeline():
    picture = np.random.default_rng(0).normal(size=(20, 24, 3)).astype(np.float32)
    matrix = np.array([[1.3, -0.4, 3.0], [0.4, 1.3, -5.0]])
    got = render.warp_affine(paddle.to_tensor(picture.transpose(2, 0, 1)[None]), matrix, 28)
    np.testing.assert_allclose(got[0].numpy().transpose(1, 2, 0), sgpn.warp_affine(picture, matrix, 28), atol=1e-4)


def test_the_guide_does_to_aligned_crops_what_the_pipeline_does(model):
    guide = render.ShapeGuide(model, "ffhq_512", 64)
    crop = np.random.default_rng(0).uniform(-1, 1, (64, 64, 3)).astype(np.float32)
    landmarks = FFHQ_512.at_size(64).array()
    view, to_crop = sgpn.shape_crop(crop, landmarks)
    tensor = paddle.to_tensor(crop.transpose(2, 0, 1)[None])
    np.testing.assert_allclose(guide.view(tensor)[0].numpy().transpose(1, 2, 0), view, atol=1e-4)
    vector = random_coefficients(1)
    drawn = guide.renderer(paddle.to_tensor(vector))
    expected = sgpn.rendered_crop(*shape3d.render(model, vector[0]), to_crop, 64)
    np.testing.assert_allclose(guide.put_back(drawn)[0].numpy().transpose(1, 2, 0), expected, atol=1e-3)


def test_the_mean_face_is_near_the_templates_landmarks_and_a_moved_one_is_not(model):
    guide = render.ShapeGuide(model, "ffhq_512", 64)
    vectors = np.zeros((2, 257), np.float32)
    vectors[1, 254] = 0.3
    here, there = (guide.landmark_distance(guide.renderer(paddle.to_tensor(vector[None]))).item() for vector in vectors)
    assert np.sqrt(here) < 12
    assert there > here + 300


def test_a_picture_of_the_drawing_itself_has_no_colour_distance(model):
    guide = render.ShapeGuide(model, "ffhq_512", 224)
    drawn = guide.renderer(paddle.to_tensor(random_coefficients(1)))
    other = paddle.to_tensor(np.zeros((1, 3, 224, 224), np.float32))
    assert guide.colour_distance(drawn, other).item() > 0.05
