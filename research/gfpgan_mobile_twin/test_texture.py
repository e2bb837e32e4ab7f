"""The texture term asks for the same features, wherever in a window. Needs PyTorch, as everything in this folder."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

sys.path.insert(0, str(Path(__file__).resolve().parent))
from adversary import FINE
from average import average
from texture import Texture, sliced_distance, windows


def test_windows_hold_the_points_of_their_place():
    picture = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert windows(picture, 4).shape == (4, 1, 16)
    assert sorted(windows(picture, 4)[1, 0].tolist()) == sorted(picture[0, 0, :4, 4:].flatten().tolist())


def test_the_order_of_points_does_not_matter_and_their_values_do():
    torch.manual_seed(0)
    points = torch.randn(3, 5, 64)
    assert float(sliced_distance(points[:, :, torch.randperm(64)], points, 8)) < 1e-6
    assert float(sliced_distance(points * 2, points, 8)) > 0.1


class TwoLayers(torch.nn.Module):
    """Stands for VGG19: a convolution at full and one at half resolution."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 4), (4, 6)))
        self.requires_grad_(False)

    def forward(self, image, last):
        first = self.first(image)
        return {2: first, 7: self.second(F.max_pool2d(F.relu(first), 2))}


def test_its_gradient_moves_fine_detail_only_and_lowers_the_term():
    torch.manual_seed(0)
    real, texture = torch.randn(1, 3, 512, 512).clamp(-1, 1), Texture(TwoLayers())
    smooth = F.interpolate(F.avg_pool2d(real, FINE), scale_factor=FINE)
    push, before = texture.push(smooth, real, np.random.default_rng(0), 100.0)
    assert float(F.avg_pool2d(push, FINE).abs().max()) < 1e-5
    _, after = texture.push(smooth - push, real, np.random.default_rng(0), 100.0)
    assert after < before


def test_an_average_is_taken_of_chosen_names_and_may_go_beyond():
    one, two = ({"a.x": np.full(2, value), "b.x": np.full(2, value)} for value in (1.0, 3.0))
    mean = average([one, two], [1, 3], "a[.]")
    assert mean["a.x"].tolist() == [2.5, 2.5] and mean["b.x"].tolist() == [3, 3]
    assert average([one, two], [-0.5, 1.5])["a.x"].tolist() == [4, 4]
