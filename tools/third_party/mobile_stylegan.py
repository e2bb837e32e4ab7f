"""Convert MobileStyleGAN (FFHQ 1024) from the OpenVINO files of the package random-face to `.npz`.

    python tools/third_party/mobile_stylegan.py --output weights/mobile_stylegan.npz

The package (random-face 2021.7.21.1, Apache-2.0) comes by `pip download --no-deps` unless `--wheel` is there. Its
network was distilled from StyleGAN2-FFHQ, whose own weights are for non-commercial use. Only the XML and the raw
constants are read.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

PACKAGE = "random-face==2021.7.21.1"
SHA256 = {
    "random_face/data/MappingNetwork.bin": "212dd716bdb556e18db603ea97300d4fa3c872b878c726b2402fea80820e7305",
    "random_face/data/MappingNetwork.xml": "73e2096cad6e696e4af47df2477e048ab4c42c0e0dec83c7c66604822689e55b",
    "random_face/data/SynthesisNetwork.bin": "c7da15fa22d508c82e1c30dd6b4cdf67fe3ccdddaf85b310ee764dbf0c289645",
    "random_face/data/SynthesisNetwork.xml": "7918fce515243954d3e06628cb39a23902d6b1d5d02932cc0c2faee7a2aeeedd",
}
TYPES = {"f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32}


class Graph:
    """An OpenVINO IR: its layers, where each input comes from, and its constants."""

    def __init__(self, xml: bytes, blob: bytes):
        root = ElementTree.fromstring(xml)
        self.layers = {layer.get("id"): layer for layer in root.find("layers")}
        self.blob = blob
        self.sources: dict[str, dict[int, str]] = {}
        for edge in root.find("edges"):
            self.sources.setdefault(edge.get("to-layer"), {})[int(edge.get("to-port"))] = edge.get("from-layer")

    def inputs(self, key: str) -> list[str]:
        """Layer ids feeding `key`, in the order of its ports."""
        return [source for _, source in sorted(self.sources.get(key, {}).items())]

    def constant(self, key: str) -> np.ndarray:
        data = self.layers[key].find("data")
        shape = [int(size) for size in data.get("shape").split(",") if size.strip()]
        start, size = int(data.get("offset")), int(data.get("size"))
        return np.frombuffer(self.blob[start : start + size], TYPES[data.get("element_type")]).reshape(shape)

    def is_constant(self, key: str) -> bool:
        return self.layers[key].get("type") == "Const"

    def of_type(self, *types: str) -> list[str]:
        return [key for key, layer in self.layers.items() if layer.get("type") in types]

    def named_constants(self, pattern: str) -> dict[str, np.ndarray]:
        found = {}
        for key in self.of_type("Const"):
            if re.search(pattern, self.layers[key].get("name")):
                found[self.layers[key].get("name")] = self.constant(key)
        return found

    def constant_input(self, key: str) -> np.ndarray:
        return next(self.constant(source) for source in self.inputs(key) if self.is_constant(source))

    def users(self, key: str) -> list[str]:
        return [user for user, ports in self.sources.items() if key in ports.values()]

    def only_user(self, key: str, *types: str) -> str:
        return next(user for user in self.users(key) if self.layers[user].get("type") in types)


def synthesis_state(graph: Graph) -> dict[str, np.ndarray]:
    """Parameters of the synthesis network under their own names; folded ones are named `weight` and `noise`.

    The graph stores the pointwise weights already demodulated (a constant, since the demodulation does not depend on
    the style) and the noise already multiplied by its strength.
    """
    state = {name[2:]: value for name, value in graph.named_constants(r"^m\..*").items()}
    for key in graph.of_type("Add"):
        constants = [source for source in graph.inputs(key) if graph.is_constant(source)]
        if len(constants) != 1:
            continue
        match = re.match(r"m\.(.*conv\d)\.bias$", graph.layers[constants[0]].get("name"))
        if not match:
            continue
        block = match.group(1)
        noise_add = next(source for source in graph.inputs(key) if not graph.is_constant(source))
        state[f"{block}.noise"] = graph.constant_input(noise_add)
        convolution = next(source for source in graph.inputs(noise_add) if not graph.is_constant(source))
        weight = graph.constant_input(convolution)
        scaled = (
            convolution if block == "conv1" else next(s for s in graph.inputs(convolution) if not graph.is_constant(s))
        )
        modulated = next(s for s in graph.inputs(scaled) if not graph.is_constant(s))
        scale = modulation_scale(graph, modulated)
        state[f"{block}.conv.weight"] = weight * scale
        prelu = graph.only_user(key, "PReLU")
        slope = float(graph.constant_input(prelu).reshape(-1)[0])
        if abs(slope - 0.2) > 1e-6:
            raise ValueError(f"{block}: expected a leaky slope of 0.2, got {slope}")
    final = next(
        key
        for key in graph.of_type("Add")
        if any("to_img.bias" in graph.layers[s].get("name") for s in graph.inputs(key))
    )
    convolution = next(source for source in graph.inputs(final) if not graph.is_constant(source))
    modulated = next(s for s in graph.inputs(convolution) if not graph.is_constant(s))
    name = re.match(
        r"m\.(.*)\.bias$", next(graph.layers[s].get("name") for s in graph.inputs(final) if graph.is_constant(s))
    ).group(1)
    state[f"{name}.conv.weight"] = state[f"{name}.conv.weight"] * modulation_scale(graph, modulated)
    return {name: to_layer_shape(name, value) for name, value in state.items()}


def modulation_scale(graph: Graph, multiply: str) -> float:
    """The scalar that multiplies the style of a modulated convolution; 1 when there is none."""
    for source in graph.inputs(multiply):
        if graph.layers[source].get("type") == "Multiply":
            return float(graph.constant_input(source).reshape(-1)[0])
    return 1.0


def to_layer_shape(name: str, value: np.ndarray) -> np.ndarray:
    if name.endswith("modulation.bias"):
        return value.reshape(-1)
    if name.endswith("weight_dw"):
        return value.reshape(value.shape[0], 1, 3, 3)
    return value


def mapping_state(graph: Graph) -> dict[str, np.ndarray]:
    """`layers.i.weight` (out, in) and `layers.i.bias`, i = 0..7, with the learning-rate multipliers folded in."""
    matmuls = sorted(graph.of_type("MatMul"), key=int)
    state = {}
    for index, key in enumerate(matmuls):
        weight_id = next(source for source in graph.inputs(key) if graph.is_constant(source))
        transpose = graph.layers[key].find("data").get("transpose_b") in ("true", "1")
        weight = graph.constant(weight_id)
        add = graph.only_user(key, "Add")
        reshape = next(source for source in graph.inputs(add) if source != key)
        prelu = graph.only_user(add, "PReLU")
        gain = float(graph.constant_input(graph.only_user(prelu, "Multiply")).reshape(-1)[0])
        state[f"layers.{index}.weight"] = (weight if transpose else weight.T).astype(np.float32) * gain
        bias = graph.constant(reshape) if graph.is_constant(reshape) else graph.constant_input(reshape)
        state[f"layers.{index}.bias"] = bias.reshape(-1).astype(np.float32) * gain
    return state


def read_package(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in SHA256}
    for name, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        if digest != SHA256[name]:
            sys.exit(f"{wheel}: {name} has sha256 {digest}, expected {SHA256[name]}")
    return files


def download(folder: str) -> Path:
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE], check=True)
    return next(Path(folder).glob("random_face*.whl"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {PACKAGE}; fetched with pip when not given")
    parser.add_argument("--output", type=Path, default=Path("weights/mobile_stylegan.npz"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = read_package(arguments.wheel or download(folder))
    data = "random_face/data/"
    mapping = mapping_state(Graph(files[data + "MappingNetwork.xml"], files[data + "MappingNetwork.bin"]))
    synthesis = synthesis_state(Graph(files[data + "SynthesisNetwork.xml"], files[data + "SynthesisNetwork.bin"]))
    state = {f"mapping.{k}": v for k, v in mapping.items()} | {f"synthesis.{k}": v for k, v in synthesis.items()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    beside = arguments.output.with_name(arguments.output.name + ".part")
    with beside.open("wb") as file:
        np.savez(file, **state)
    beside.replace(arguments.output)
    print(f"{arguments.output}: {len(state)} arrays, {sum(v.size for v in state.values()):,} numbers")


if __name__ == "__main__":
    main()
