"""Lays the exported networks of a configuration where the service finds them; runs in the main environment.

  python deploy/serving_python/prepare_models.py [-c configs/gfpgan_mobile.yaml] [--output build/serving/models]

The generator, `yunet/`, `onet/` and `sface/`: the very exports that `tools/predict.py` uses, so that both give the same
pixels. Beside the generator it writes the two descriptions that Paddle Serving's C++ server and its client read, as
`paddle_serving_client.convert` would (that program needs a Paddle of long ago).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ppgan_fr.face.spec import ModelSpec, read_spec

TYPES = {"int64": 0, "float32": 1, "int32": 2}


def prototxt(spec: ModelSpec, output_shape: tuple[int, ...]) -> str:
    """The description of a model: its inputs and outputs, batch axis left out."""
    lines = []
    for tensor in spec.inputs:
        lines += _variable("feed_var", tensor.name, TYPES[tensor.dtype], tensor.shape[1:])
    for name in spec.outputs[:1]:
        lines += _variable("fetch_var", name, 1, output_shape)
    return "\n".join(lines) + "\n"


def _variable(kind: str, name: str, number: int, shape: tuple[int, ...]) -> list[str]:
    head = [f"{kind} {{", f'  name: "{name}"', f'  alias_name: "{name}"', "  is_lod_tensor: false"]
    kind_of = f"  {'feed' if kind == 'feed_var' else 'fetch'}_type: {number}"
    return [*head, kind_of, *(f"  shape: {side}" for side in shape), "}"]


def prepare(config_path: str, weights: str | None, output: Path) -> None:
    """Copies the cached exports, making them first where they are missing."""
    from ppgan_fr.config import find_file, load_config, make_config
    from ppgan_fr.export import cached_export

    config = load_config(config_path, [], without=("recipe", "data", "train", "evaluate"))
    source = cached_export(config, find_file(weights) if weights else None)
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        shutil.copytree(source, beside)
        for name in ("yunet", "onet", "sface"):
            shutil.copytree(cached_export(make_config({"name": name, "generator": {"arch": name}})), beside / name)
        write_descriptions(beside)
        beside.chmod(0o755)
        shutil.rmtree(output, ignore_errors=True)
        beside.replace(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_descriptions(folder: Path) -> None:
    """`serving_server_conf.prototxt` and `serving_client_conf.prototxt` beside the model."""
    spec = read_spec(folder)
    text = prototxt(spec, (3, spec.size, spec.size))
    for name in ("serving_server_conf.prototxt", "serving_client_conf.prototxt"):
        (folder / name).write_text(text, encoding="utf-8")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", default="configs/gfpgan_mobile.yaml")
    parser.add_argument("--weights", help="instead of the configuration's")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "serving" / "models")
    args = parser.parse_args()
    try:
        prepare(args.config, args.weights, args.output)
    except ValueError as error:
        print(f"prepare_models.py: {error}", file=sys.stderr)
        return 2
    print(f"models: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
