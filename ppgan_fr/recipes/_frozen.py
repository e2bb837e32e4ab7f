"""Networks that judge without learning: VGG19, ArcFace."""

from __future__ import annotations

from typing import Any

from paddle import nn

from ppgan_fr import losses, weights
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


def perceptual_judge(config: Any) -> losses.Perceptual | None:
    """VGG19 of a recipe with `vgg`, `vgg_weights` and `vgg_layers`, or None when its losses weigh nothing.

    Raises:
        RecipeError, WeightsError: see `frozen`.
    """
    if not (config.loss_weights.perceptual or getattr(config.loss_weights, "style", 0)):
        return None
    hint = (
        "convert torchvision's vgg19-dcbb9e9d.pth with tools/convert_weights.py --arch vgg19, or set its weights to 0"
    )
    network = frozen(config.vgg, config.vgg_weights, "recipe.vgg_weights", hint)
    return losses.Perceptual(network, config.vgg_layers)


def identity_judge(config: Any) -> losses.Identity | None:
    """ArcFace of a recipe with `identity` and `identity_weights`, or None when it has none or it weighs nothing.

    Raises:
        RecipeError, WeightsError: see `frozen`.
    """
    if config.identity is None or not config.loss_weights.identity:
        return None
    hint = "convert arcface_resnet18.pth with tools/convert_weights.py --arch arcface, or set recipe.identity=null"
    return losses.Identity(frozen(config.identity, config.identity_weights, "recipe.identity_weights", hint))
