"""`ppgan-fr train`: trains a network from a configuration."""

from __future__ import annotations

import argparse
import os
import sys

from ppgan_fr.cli import add_config_arguments
from ppgan_fr.config import dump_config, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tools/train.py`."""
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="continue from output_dir/latest")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")


def run(arguments: argparse.Namespace) -> int:
    """Trains; returns 0, 3 when a loss became NaN or infinite, 1 when another process or a signal ended the run."""
    overrides = [*arguments.override, *(["train.resume=true"] if arguments.resume else [])]
    config = load_config(arguments.config, overrides)
    if arguments.dry_run:
        print(dump_config(config), end="")  # noqa: T201
        return 0
    if config.train is not None and config.train.threads:
        os.environ["OMP_NUM_THREADS"] = str(config.train.threads)
    from ppgan_fr.train import distributed, loop
    from ppgan_fr.train.step import DivergedError

    if distributed.rank() == 0:
        print(dump_config(config), end="", flush=True)  # noqa: T201
    try:
        loop.train(config)
    except DivergedError as error:
        print(f"ppgan-fr train: {error}", file=sys.stderr)  # noqa: T201
        return 3
    except (distributed.ProcessLostError, loop.StoppedError) as error:
        print(f"ppgan-fr train: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
