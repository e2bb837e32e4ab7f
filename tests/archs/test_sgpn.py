import numpy as np
import paddle
import pytest
from pydantic import ValidationError

from ppgan_fr.archs import d3dfr, sgpn, yolov5_face

SMALL = {"size": 32, "narrow": 1 / 32, "style_dim": 32, "enc_style_dim": 16}


def small_inputs(count=2, size=32):
    rng = np.random.default_rng(0)
    pictures = [paddle.to_tensor(rng.uniform(-1, 1, (count, 3, size, size)).astype(np.float32)) for _ in range(2)]
    return [*pictures, paddle.to_tensor(rng.normal(size=(count, 257)).astype(np.float32))]


def test_a_face_comes_out_at_the_size_it_came_in():
    for size in (32, 64):
        network = sgpn.build(sgpn.Config(**{**SMALL, "size": size}))
        image, latent = network(*small_inputs(size=size))
        assert image.shape == [2, 3, size, size]
        assert latent.shape == [2, 32]


def test_each_face_of_a_batch_is_restored_on_its_own():
    paddle.seed(0)
    network = sgpn.build(sgpn.Config(**SMALL))
    network.eval()
    inputs = small_inputs()
    with paddle.no_grad():
        together = network(*inputs)[0]
        alone = network(*(value[1:] for value in inputs))[0]
    np.testing.assert_allclose(together[1:].numpy(), alone.numpy(), atol=1e-5)


def test_the_rendered_face_and_the_coefficients_change_the_result():
    paddle.seed(0)
    network = sgpn.build(sgpn.Config(**SMALL))
    network.eval()
    lq, rendered, coefficients = small_inputs()
    with paddle.no_grad():
        plain = network(lq, rendered, coefficients)[0].numpy()
        for changed in (network(lq, -rendered, coefficients), network(lq, rendered, -coefficients)):
            assert np.abs(changed[0].numpy() - plain).max() > 1e-3


def test_every_parameter_of_the_generator_learns():
    network = sgpn.build(sgpn.Config(**SMALL))
    network(*small_inputs())[0].square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum().item()]
    assert silent == []


@pytest.mark.parametrize("size", [4, 500, 2048])
def test_a_size_the_levels_cannot_meet_is_refused(size):
    with pytest.raises(ValidationError, match="power of two"):
        sgpn.Config(size=size)


def test_the_inputs_are_declared_in_the_order_of_forward():
    assert sgpn.Config().inputs == {"lq": (3, 512, 512), "rendered": (3, 512, 512), "coefficients": (257,)}


def test_an_untrained_shape_network_answers_with_the_mean_face():
    network = d3dfr.build(d3dfr.Config(layers=(1, 1, 1, 1), width_per_group=4))
    network.eval()
    answer = network(paddle.rand([2, 3, 64, 64]))
    assert answer.shape == [2, 257]
    assert answer.abs().max().item() == 0


def test_yolov5_face_looks_at_three_scales_with_three_anchors_each():
    network = yolov5_face.build(yolov5_face.Config(depth_multiple=0.33, width_multiple=0.125))
    network.eval()
    with paddle.no_grad():
        answer = network(paddle.rand([1, 3, 64, 96])).numpy()
    assert answer.shape == (1, 3 * (8 * 12 + 4 * 6 + 2 * 3), 16)
    assert ((answer[..., 4] > 0) & (answer[..., 4] < 1)).all()
