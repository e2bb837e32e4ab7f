"""The twin and the Paddle network are one. Needs PyTorch beside Paddle: `pytest research/gfpgan_mobile_twin`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the twin is for machines that have PyTorch")
paddle = pytest.importorskip("paddle")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

import twin  # noqa: E402

from ppgan_fr import weights  # noqa: E402
from ppgan_fr.archs import gfpgan_mobile  # noqa: E402


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    theirs = twin.GFPGANMobile().eval()
    twin.initialise(theirs)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.startswith("decoder"):
                parameter.normal_(0, 0.5 / max(1, parameter[0].numel()) ** 0.5)
            elif parameter.abs().max() == 0:
                parameter.normal_(0, 0.02)
    ours = gfpgan_mobile.build(gfpgan_mobile.Config())
    ours.eval()
    weights.from_torch(ours, {name: value.numpy() for name, value in theirs.state_dict().items()})
    return theirs, ours


@pytest.mark.parametrize("fidelity", [1.0, 0.3, 0.0])
def test_the_twin_and_the_paddle_network_give_the_same_pictures(networks, fidelity):
    theirs, ours = networks
    lq = np.random.default_rng(1).uniform(-1, 1, (1, 3, 512, 512)).astype(np.float32)
    with torch.no_grad():
        image, rgbs, style, _ = theirs(torch.from_numpy(lq), fidelity)
    with paddle.no_grad():
        our_image, our_rgbs, our_style = ours(paddle.to_tensor(lq), fidelity, return_latents=True)
    for a, b in zip([image, style, *rgbs], [our_image, our_style, *our_rgbs]):
        np.testing.assert_allclose(b.numpy(), a.numpy(), atol=1e-4 * max(1.0, float(a.abs().max())))
