"""The `ppgan-fr` command. A sub-command is a module with `add_arguments(parser)` and `run(args) -> int`.

The module is imported when its command is called. Errors that a user can cause (`ConfigError`, `WeightsError`, ... all
are `ValueError`s of ours, and files that are not there) become one line and exit code 2; everything else is a bug and
shows its traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

# command -> (module with add_arguments and run, one line for --help)
COMMANDS = {
    "train": ("ppgan_fr.train.main", "train a network"),
    "eval": ("ppgan_fr.evaluate", "measure a network on a data set"),
    "predict": ("ppgan_fr.predict", "restore photos"),
    "predict-video": ("ppgan_fr.predict_video", "restore a video"),
    "export": ("ppgan_fr.export", "write an inference model"),
    "export-onnx": ("ppgan_fr.export_onnx", "turn an inference model into ONNX"),
    "convert": ("ppgan_fr.convert", "turn a torch checkpoint into .pdparams"),
    "make-faces": ("ppgan_fr.make_faces", "synthetic faces and their latent codes"),
    "degrade": ("ppgan_fr.data.degrade_faces", "degraded partners of a folder of faces"),
    "sample": ("ppgan_fr.data.sample_faces", "draw a training and a validation set"),
    "make-components": ("ppgan_fr.data.make_components", "eye and mouth boxes of a folder of faces"),
    "make-face-model": ("ppgan_fr.make_face_model", "the 3D face model that SGPN draws with"),
    "make-lite-data": ("ppgan_fr.data.make_lite_data", "a tiny data set for smoke tests"),
    "facebench": ("ppgan_fr.facebench", "the quality page of a configuration"),
    "calibrate": ("ppgan_fr.calibrate", "the tables behind --fidelity auto and --identity"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code (0 done, 1 some inputs failed, 2 wrong usage, 3 training diverged)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_commands()
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from ppgan_fr import __version__

        print(__version__)  # noqa: T201
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"ppgan-fr: there is no command {name!r}; available: {', '.join(COMMANDS)}", file=sys.stderr)  # noqa: T201
        return 2
    return run_command(name, rest)


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Runs the command `name`, with our errors turned into one line and exit code 2."""
    module_name, summary = COMMANDS[name]
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's C++ notices are no news for a user
    warnings.filterwarnings("ignore", message="No ccache found")  # said by Paddle's import, about building extensions
    try:
        module = importlib.import_module(module_name)
        parser = argparse.ArgumentParser(f"ppgan-fr {name}", description=summary, formatter_class=Formatter)
        module.add_arguments(parser)
        return int(module.run(parser.parse_args(arguments)) or 0)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ppgan_fr"):
            raise
        hint = "pip install -r requirements.txt" if error.name in ("paddle", "cv2", "pydantic", "yaml") else str(error)
        return _fail(name, f"the Python package {error.name!r} is missing ({hint})")
    except (ValueError, OSError) as error:
        if not _is_users(error):
            raise
        return _fail(name, _one_line(error))
    except KeyboardInterrupt:
        return _fail(name, "interrupted", code=130)


class Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of a description and shows defaults."""


def add_config_arguments(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Adds `-c CONFIG` and `-o a.b=c ...` (also repeated), as every command that takes a configuration has them."""
    parser.add_argument(
        "-c", "--config", default=default, required=default is None, help="YAML file, or its name under configs/"
    )
    parser.add_argument(
        "-o",
        "--override",
        nargs="*",
        action="extend",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a value of the configuration; may be repeated and followed by several pairs",
    )


def _is_users(error: Exception) -> bool:
    """Whether the message is meant for the user: an exception class of ours, or what the system says of a file."""
    if isinstance(error, OSError) and error.strerror:
        return True
    return type(error).__module__.split(".")[0] == "ppgan_fr"


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _fail(name: str, message: str, code: int = 2) -> int:
    for line in message.splitlines():
        print(f"ppgan-fr {name}: {line}", file=sys.stderr)  # noqa: T201
    return code


def _print_commands() -> None:
    width = max(map(len, COMMANDS))
    print("usage: ppgan-fr COMMAND ...\n")  # noqa: T201
    for name, (_, summary) in COMMANDS.items():
        print(f"  {name:<{width}}  {summary}")  # noqa: T201
    print("\nppgan-fr COMMAND --help shows the arguments of a command.")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
