"""Converts a PyTorch checkpoint of a supported network into .pdparams, without PyTorch and without executing the file.

The network is built from the configuration, every parameter of it must be in the checkpoint with its shape, and nothing
else may be; otherwise every difference is listed and nothing is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ppgan_fr import weights
from ppgan_fr.config import ConfigError, build, find_file, make_config, override, read_yaml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``tools/convert_weights.py``."""
    parser.add_argument("--arch", required=True, metavar="NAME", help="the network: a file name in ppgan_fr/archs")
    parser.add_argument("--input", required=True, metavar="X.pth", help="checkpoint, zip or legacy format")
    parser.add_argument("--output", required=True, metavar="Y.pdparams", help="where the weights go")
    parser.add_argument("-c", "--config", help="YAML with a section of that arch; default: the released sizes")
    parser.add_argument(
        "-o",
        "--override",
        nargs="*",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change a value: dotted from the top with -c, a field of the network without",
    )
    parser.add_argument("--key", help="inner dictionary to take, dotted; default: params_ema, params or state_dict")
    parser.add_argument("--half", action="store_true", help="store half precision")
    parser.add_argument(
        "--bilinear-to-clean",
        action="store_true",
        help="the checkpoint is a bilinear GFP-GAN; fold it into the clean network while converting",
    )


def run(arguments: argparse.Namespace) -> int:
    """Converts one file and says what was written."""
    section = network_section(arguments.arch, arguments.config, arguments.override)
    count = convert(
        section,
        arguments.input,
        arguments.output,
        key=arguments.key,
        half=arguments.half,
        bilinear_to_clean=arguments.bilinear_to_clean,
    )
    print(f"{arguments.output}: {count} parameters and buffers of {arguments.arch}")  # noqa: T201
    return 0


def convert(
    section: BaseModel,
    source: str | Path,
    target: str | Path,
    *,
    key: str | None = None,
    half: bool = False,
    bilinear_to_clean: bool = False,
) -> int:
    """Converts one checkpoint.

    Args:
        section: the `Config` of a file in ``archs/``.
        source: PyTorch checkpoint.
        target: ``.pdparams`` to write; untouched when anything is wrong.
        key: inner dictionary to take (see `weights.inner_state`).
        half: store float16.
        bilinear_to_clean: fold a bilinear GFP-GAN into the clean one that `section` describes.

    Returns:
        How many parameters and buffers were written.

    Raises:
        WeightsError: when the file cannot be read, does not fit, or the target cannot be written.
        ConfigError: when `bilinear_to_clean` is asked for another network.
    """
    state = weights.load_torch(source)
    try:
        state = weights.inner_state(state, key)
        if bilinear_to_clean:
            state = _fold(section, state)
        network = build(section)
        weights.from_torch(network, state)
    except weights.WeightsError as error:
        raise weights.WeightsError(f"{source}: {error}") from None
    weights.save(network, target, half=half)
    return len(network.state_dict())


def _fold(section: BaseModel, state: dict) -> dict:
    if getattr(section, "arch", None) != "gfpgan" or section.variant != "clean":
        raise ConfigError("--bilinear-to-clean needs --arch gfpgan with variant: clean")
    from ppgan_fr.archs.gfpgan import convert_bilinear_to_clean

    try:
        return convert_bilinear_to_clean(state, section.lr_mlp)
    except ValueError as error:
        raise weights.WeightsError(str(error)) from None


def network_section(arch: str, config: str | Path | None = None, overrides: Iterable[str] = ()) -> BaseModel:
    """The `Config` of a network: from the section of a YAML file that names it, or the defaults.

    Args:
        arch: file name in ``archs/``.
        config: YAML file, or its name under ``configs/``.
        overrides: ``key=value``; dotted from the top of `config`, or fields of the network without one.

    Raises:
        ConfigError: one line per mistake.
    """
    if config is None:
        section: Mapping[str, Any] = override({"arch": arch}, overrides)
    else:
        path = find_file(config)
        path = path if path.is_file() else find_file(Path("configs") / f"{config}.yaml")
        tree = override(read_yaml(path), overrides)
        section = next((found for found in _sections(tree) if found.get("arch") == arch), {})
        if not section:
            raise ConfigError(f"{path}: there is no section with arch: {arch}")
    return make_config({"name": "convert", "generator": section}).generator


def _sections(tree: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(tree, Mapping):
        yield tree
        for value in tree.values():
            yield from _sections(value)
