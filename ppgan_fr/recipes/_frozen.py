"""Networks that judge without learning: VGG19, ArcFace."""

from __future__ import annotations

from typing import Any

from paddle import nn

from ppgan_fr import weights
from ppgan_fr.config import build, find_file

RANDOM = "random"
"""In place of a file: leave the network as it is built. For smoke tests; what it judges means little."""


class RecipeError(ValueError):
    """A training that cannot be set up as configured."""


def frozen(section: Any, path: str | None, key: str, hint: str) -> nn.Layer:
    """A network in evaluation mode, with weights, none of which learns.

    Args:
        section: its configuration.
        path: `.pdparams` or a torch checkpoint, or `random`.
        key: where the path stands in the configuration, for the message.
        hint: where to get the file.

    Raises:
        RecipeError: no file is given, or it is not there.
        WeightsError: it does not fit.
    """
    if path is None:
        raise RecipeError(f"{key}: missing; {hint}")
    network = build(section)
    if path != RANDOM:
        file = find_file(path)
        if not file.is_file():
            raise RecipeError(f"{key}: {path}: no such file; {hint}")
        weights.load_into(network, file)
    for parameter in network.parameters():
        parameter.stop_gradient = True
    network.eval()
    return network
