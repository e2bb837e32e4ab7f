"""PyTorch's GFP-GAN as its authors published it, for comparisons: needs `torch`, and files of `gfpgan` and `basicsr`.

Only the files that describe the networks are read: importing the packages as a whole pulls in torchvision, lmdb and
training code, and fails with today's torchvision. The original variant's compiled operator `fused_act`, which exists
for GPUs only, is replaced by the plain PyTorch operators that it stands for; `upfirdn2d` is basicsr's own for CPUs.

Run as a program, it exits with 0 where all of them are installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

ARGUMENTS = (
    "out_size",
    "num_style_feat",
    "channel_multiplier",
    "num_mlp",
    "input_is_latent",
    "different_w",
    "narrow",
    "sft_half",
)
"""What a constructor takes, under the names that our `Config` has them."""


def installed() -> bool:
    """Whether everything is there."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "gfpgan", "basicsr"))


def gfpgan(section: dict[str, Any]) -> Any:
    """The network that a `generator` section of our configurations describes, with random weights."""
    _make_importable()
    if section["variant"] == "clean":
        from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean as Network
    elif section["variant"] == "original":
        from gfpgan.archs.gfpganv1_arch import GFPGANv1 as Network
    else:
        from gfpgan.archs.gfpgan_bilinear_arch import GFPGANBilinear as Network
    network = Network(**{name: section[name] for name in ARGUMENTS}, fix_decoder=False)
    return network.eval()


def load(network: Any, weights: Path) -> None:
    """Fills the network with the weights of ours, an `.npz` under its own parameter names; linear ones are transposed.

    Raises:
        ValueError: names or shapes differ.
    """
    import torch

    linear = {f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear)}
    targets = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    persistent = set(network.state_dict())
    with np.load(weights, allow_pickle=False) as file, torch.no_grad():
        lacking = sorted(name for name in persistent - set(file.files) if not name.endswith("kernel"))
        if lacking:
            raise ValueError(f"{weights}: lacks {', '.join(lacking[:5])}")
        for name in persistent & set(file.files):
            value = file[name]
            value = value.T if name in linear else value
            if tuple(value.shape) != tuple(targets[name].shape):
                raise ValueError(f"{name}: {tuple(value.shape)} instead of {tuple(targets[name].shape)}")
            targets[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _make_importable() -> None:
    """Packages without their `__init__`, and the few names that the network files want of the rest."""
    if "basicsr" in sys.modules:
        return
    for name in ("basicsr", "basicsr.archs", "basicsr.ops", "basicsr.utils", "gfpgan", "gfpgan.archs"):
        _package(name)
    _module("basicsr.archs.arch_util", default_init_weights=_leave_as_it_is)
    _module("basicsr.ops.fused_act", FusedLeakyReLU=_fused_layer(), fused_leaky_relu=_fused_leaky_relu)


def _package(name: str) -> None:
    top, _, rest = name.partition(".")
    folder = Path(next(iter(importlib.util.find_spec(top).submodule_search_locations))) if not rest else None
    folder = folder or Path(sys.modules[top].__path__[0]).joinpath(*rest.split("."))
    _module(name).__path__ = [str(folder)]


def _module(name: str, **content: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module
    return module


def _leave_as_it_is(*_: Any, **__: Any) -> None:
    """In place of the initialisation: the weights come from elsewhere."""


def _fused_leaky_relu(x: Any, bias: Any, negative_slope: float = 0.2, scale: float = 2**0.5) -> Any:
    from torch.nn import functional as F

    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), negative_slope) * scale


def _fused_layer() -> type:
    import torch

    class FusedLeakyReLU(torch.nn.Module):
        def __init__(self, channel: int, negative_slope: float = 0.2, scale: float = 2**0.5):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(channel))
            self.negative_slope, self.scale = negative_slope, scale

        def forward(self, x: Any) -> Any:
            return _fused_leaky_relu(x, self.bias, self.negative_slope, self.scale)

    return FusedLeakyReLU


if __name__ == "__main__":
    sys.exit(not installed())
