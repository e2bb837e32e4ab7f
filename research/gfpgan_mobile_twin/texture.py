"""A texture term without an adversary: the sliced Wasserstein distance of VGG features within small windows.

Terms that compare point with point have smooth skin and hair as their best answer where the degraded picture no longer
says where a pore or a hair was. This one asks only that a window of the restored picture has the features of the same
window of the original, wherever in it: projected on random directions and sorted, they must agree (Heitz et al., "A
Sliced Wasserstein Loss for Neural Texture Synthesis", CVPR 2021, equations 4 to 6; there for a whole picture). Unlike
discriminators (`adversary.py`) it needs no steps to become right, and what it asks stands in the original. Like theirs,
its gradient moves only the three finest levels of detail.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from adversary import FINE

WINDOW = 32  # pixels: about an iris, or a lock of hair
LAYERS = {2: 24, 7: 32}  # VGG layer to random directions: conv1_2 at full resolution, conv2_2 at half
SIZE = 256  # pixels of the part of the picture that is looked at in a step


def windows(features, size):
    """(N, C, H, W) to (windows, C, size * size)."""
    n, c, h, w = features.shape
    parts = features.reshape(n, c, h // size, size, w // size, size).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(-1, c, size * size)


def sliced_distance(fake, real, directions):
    """Mean distance of the sorted projections of two sets of points, (windows, C, points), over their spread."""
    chosen = F.normalize(torch.randn(directions, fake.shape[1]), dim=1)
    fake, real = chosen @ fake, chosen @ real
    spread = real.std(2).mean().clamp_min(1e-6)
    return (fake.sort(2).values - real.sort(2).values).abs().mean() / spread


class Texture:
    """The term's gradient for the picture; `vgg` gives features before ReLU by layer."""

    def __init__(self, vgg):
        self.vgg = vgg

    def push(self, fake, real, rng, length):
        """The gradient for `fake` (N, 3, 512, 512), of a length before its mean over blocks is taken off; the term."""
        fake = fake.detach().requires_grad_()
        y, x = (int(rng.integers(low, high)) for low, high in ((64, 225), (48, 209)))
        part = [image[:, :, y : y + SIZE, x : x + SIZE] for image in (fake, real)]
        with torch.autocast("cpu", torch.bfloat16):
            drawn = self.vgg(part[0].contiguous(memory_format=torch.channels_last), max(LAYERS))
            with torch.no_grad():
                wanted = self.vgg(part[1].contiguous(memory_format=torch.channels_last), max(LAYERS))
        term = 0.0
        for layer, directions in LAYERS.items():
            size = WINDOW * drawn[layer].shape[2] // SIZE
            pair = (windows(F.relu(features[layer].float()), size) for features in (drawn, wanted))
            term = term + sliced_distance(*pair, directions)
        (slope,) = torch.autograd.grad(term, fake)
        slope = slope * (length / slope.norm().clamp_min(1e-12))
        return slope - F.interpolate(F.avg_pool2d(slope, FINE), scale_factor=FINE), float(term.detach())
