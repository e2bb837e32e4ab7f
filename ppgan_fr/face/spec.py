"""`inference.yml`: everything a deployment has to know about an exported network.

Export writes it from the typed configuration and every deploy target reads it back, so preprocessing cannot drift.
Only this module reads and writes the file.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

FILE_NAME = "inference.yml"
KINDS = ("restorer", "detector", "landmarks", "parser", "embedding", "coefficients")
CHANNEL_ORDERS = ("RGB", "BGR")
MASKS = ("face", "square", "parsing", "sgpn", "none")
TEMPLATES = ("ffhq_512", "sgpn_512", "none")


class SpecError(ValueError):
    """`inference.yml` is missing, unreadable or says something this version does not know."""


@dataclass(frozen=True)
class TensorSpec:
    """One input of the exported network."""

    name: str
    shape: tuple[int, ...]
    """-1 stands for a size that may change from call to call."""
    dtype: str = "float32"


@dataclass(frozen=True)
class ModelSpec:
    """What `inference.yml` says.

    A picture goes into the network as `(pixel - mean) / std` with `pixel` in [0, 255] and `channel_order`, laid out
    (N, 3, size, size); a restorer's answer comes back as `pixel = value * std + mean`.
    """

    arch: str
    kind: str = "restorer"
    inputs: tuple[TensorSpec, ...] = (TensorSpec("lq", (-1, 3, 512, 512)),)
    """The picture first; further inputs (`fidelity`, `rendered`, `coefficients`) follow."""
    outputs: tuple[str, ...] = ("image",)
    size: int | None = 512
    """Side of the square crop in pixels; None when any size will do (detectors)."""
    mean: float = 127.5
    std: float = 127.5
    channel_order: str = "RGB"
    template: str = "ffhq_512"
    """Named landmark template of `face.align` that crops follow; "none" when the network takes no aligned face."""
    mask: str = "face"
    """Named mask of `face.paste` that the restored crop is pasted with."""
    model_file: str = "inference.pdmodel"
    params_file: str = "inference.pdiparams"
    single_file: str | None = None
    """The program again, for OpenVINO: one picture at a time and fewer products. Its parameters lie beside it in a file
    of the same name that ends in `.pdiparams`."""
    weights_sha256: str | None = None
    engine: str | None = None
    """Fastest engine of Paddle Inference that gave the eager network's answer on the processor of the export."""
    engines: tuple[str, ...] = ()
    """Every `engine/precision` that gave it there."""
    companions: Mapping[str, str] = field(default_factory=dict)
    """What else lies in the export folder and is needed to restore with this network: purpose -> name of a file or of
    another export folder. SGPN: `shape` and `face_model`."""
    file_bytes: Mapping[str, int] = field(default_factory=dict)
    """Size of each file of the model, so that half a copy is noticed."""
    version: int = 1

    def __post_init__(self) -> None:
        """Refuses values that no reader of the file would understand.

        Raises:
            SpecError: naming the field, what it says and what it may say.
        """
        for name, allowed in (
            ("kind", KINDS),
            ("channel_order", CHANNEL_ORDERS),
            ("mask", MASKS),
            ("template", TEMPLATES),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise SpecError(f"{FILE_NAME}: {name}: must be one of {', '.join(allowed)}, got {value!r}")
        if self.version != 1:
            raise SpecError(f"{FILE_NAME}: version: this program reads version 1, got {self.version!r}")
        if self.size is not None and (type(self.size) is not int or not 1 <= self.size <= 8192):
            raise SpecError(f"{FILE_NAME}: size: expected a number of pixels or null, got {self.size!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise SpecError(f"{FILE_NAME}: {name}: expected a finite number, got {value!r}")
        if self.std == 0:
            raise SpecError(f"{FILE_NAME}: std: must not be 0")
        if not self.inputs:
            raise SpecError(f"{FILE_NAME}: inputs: at least one is needed")
        for name in ("model_file", "params_file"):
            _must_lie_in_the_folder(name, getattr(self, name))
        if self.single_file is not None:
            _must_lie_in_the_folder("single_file", self.single_file)
        for name in ("companions", "file_bytes"):
            if not isinstance(getattr(self, name), Mapping):
                raise SpecError(f"{FILE_NAME}: {name}: expected a mapping, got {getattr(self, name)!r}")
        for name, value in self.companions.items():
            _must_lie_in_the_folder(f"companions.{name}", value)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, the picture first."""
        return tuple(tensor.name for tensor in self.inputs)


def _must_lie_in_the_folder(what: str, value: object) -> None:
    if not isinstance(value, str) or Path(value).name != value or value == "..":
        raise SpecError(f"{FILE_NAME}: {what}: must be a file name in the same folder, got {value!r}")


def write_spec(spec: ModelSpec, directory: str | Path) -> Path:
    """Writes `inference.yml` into `directory` (which must exist) and returns its path; never leaves a half file."""
    path = Path(directory) / FILE_NAME
    content = dataclasses.asdict(spec)
    content["inputs"] = [{**tensor, "shape": list(tensor["shape"])} for tensor in content["inputs"]]
    content["outputs"] = list(spec.outputs)
    content["engines"] = list(spec.engines)
    content["companions"] = dict(spec.companions)
    content["file_bytes"] = dict(spec.file_bytes)
    for name in ("companions", "file_bytes", "single_file"):
        if not content[name]:
            del content[name]
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    beside.replace(path)
    return path


def read_spec(directory: str | Path) -> ModelSpec:
    """Reads `inference.yml` from an export folder.

    Raises:
        SpecError: the file is absent, not YAML, or has unknown or wrong entries; the message names the file.
    """
    path = Path(directory)
    path = path / FILE_NAME if path.is_dir() else path
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not valid YAML") from error
    if not isinstance(content, dict):
        raise SpecError(f"{path}: expected a mapping")
    known = {one.name for one in dataclasses.fields(ModelSpec)}
    unknown = sorted(str(key) for key in content if key not in known)
    if unknown:
        raise SpecError(f"{path}: unknown key {unknown[0]!r}")
    if "arch" not in content:
        raise SpecError(f"{path}: arch is missing")
    try:
        if "inputs" in content:
            content["inputs"] = tuple(
                TensorSpec(
                    str(entry["name"]), tuple(int(side) for side in entry["shape"]), entry.get("dtype", "float32")
                )
                for entry in content["inputs"]
            )
        for key in ("outputs", "engines"):
            if not isinstance(content.get(key, []), list):
                raise SpecError(f"{FILE_NAME}: {key}: expected a list, got {content[key]!r}")
            if key in content:
                content[key] = tuple(str(name) for name in content[key])
        return ModelSpec(**content)
    except SpecError as error:
        raise SpecError(f"{path.parent}/{error}") from error
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise SpecError(f"{path}: inputs or outputs are not as expected ({error})") from error
