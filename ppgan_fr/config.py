"""Configuration: YAML and `-o a.b=c` overrides become frozen, typed models; every mistake is one line with its path.

The fixed sections (`data`, `train`, `evaluate`, `pipeline`, `export`) are models in this file. A section that names a
file of the package (`generator: {arch: gfpgan}` is `ppgan_fr/archs/gfpgan.py`) is described by the `Config` of that
file, see `ByFileName`.

>>> from ppgan_fr.config import parse_override
>>> parse_override("train.total_steps=10")
(['train', 'total_steps'], 10)
>>> parse_override("recipe.optim_g.lr=2e-3")
(['recipe', 'optim_g', 'lr'], 0.002)
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError, core_schema

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
"""The folder that holds `ppgan_fr/`: in a source checkout also `configs/` and `weights/`."""


class ConfigError(ValueError):
    """A configuration that cannot be used. The message has one line per mistake, each starting with the dotted path."""


class Frozen(BaseModel):
    """Base of every configuration section: immutable, unknown keys refused, defaults validated like given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


@dataclass(frozen=True)
class ByFileName:
    """Marks a section whose schema is the `Config` of the file it names.

    `Annotated[Any, ByFileName("arch", "ppgan_fr.archs")]` reads the section's `arch` key, finds the file of that name
    in `ppgan_fr/archs/` and validates the section with the `Config` class of the file. Files that start with an
    underscore cannot be named.
    """

    key: str
    package: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:  # noqa: D102
        return core_schema.with_info_plain_validator_function(self._validate)

    def names(self) -> list[str]:
        """The names that can stand in the section."""
        folder = PACKAGE.joinpath(*self.package.split(".")[1:])
        return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))

    def _validate(self, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, (BaseModel, Deferred)):
            return value
        if not isinstance(value, Mapping):
            raise _mistakes([((), f"expected a section with {self.key!r}, got {value!r}")])
        name = value.get(self.key)
        if name is None:
            raise _mistakes([((self.key,), f"missing; available: {', '.join(self.names())}")])
        if name not in self.names():
            folder = self.package.replace(".", "/")
            raise _mistakes([((self.key,), f"there is no {folder}/{name}.py; available: {', '.join(self.names())}")])
        module = f"{self.package}.{name}"
        if (info.context or {}).get("deferred") and module not in sys.modules:
            return Deferred(module, dict(value))
        return _nested(importlib.import_module(module).Config, value)


class Deferred:
    """A section chosen by file name whose file was not imported yet: networks import Paddle, which takes a second.

    Any attribute but the section's own text imports the file and validates, with the same errors as at once.
    """

    def __init__(self, module: str, given: dict[str, Any]) -> None:
        """Args: the file as a module name, and what the configuration says."""
        self.__dict__.update(module=module, given=given)

    def __getattr__(self, name: str) -> Any:
        if name == "arch":
            return self.given["arch"]
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.resolve(), name)

    def resolve(self) -> BaseModel:
        """The validated section.

        Raises:
            ConfigError: it has mistakes.
        """
        if "section" not in self.__dict__:
            model = importlib.import_module(self.module).Config
            try:
                self.__dict__["section"] = model.model_validate(self.given)
            except ValidationError as error:
                lines = [_line(("generator", *path), text) for path, text in _explain(model, error)]
                raise ConfigError("\n".join(lines)) from None
        return self.__dict__["section"]


def resolved(section: Any) -> Any:
    """The section itself, validated if that was put off."""
    return section.resolve() if isinstance(section, Deferred) else section


def as_given(section: Any) -> dict[str, Any]:
    """What a configuration says in a section, without the defaults."""
    return section.given if isinstance(section, Deferred) else section.model_dump(mode="json", exclude_unset=True)


@dataclass(frozen=True)
class DescribedBy:
    """Marks a section whose schema is a class of another module, imported only when the section is read."""

    module: str
    name: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:  # noqa: D102
        return core_schema.no_info_plain_validator_function(self._validate)

    def _validate(self, value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, Mapping):
            raise _mistakes([((), f"expected a section, got {value!r}")])
        return _nested(getattr(importlib.import_module(self.module), self.name), value)


def _nested(model: type[BaseModel], value: Mapping[str, Any]) -> BaseModel:
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        raise _mistakes(_explain(model, error)) from None


Arch = Annotated[Any, ByFileName("arch", "ppgan_fr.archs")]
"""A network: `{arch: <file in ppgan_fr/archs>, ...}`."""
RecipeSection = Annotated[Any, ByFileName("name", "ppgan_fr.recipes")]
"""A training method: `{name: <file in ppgan_fr/recipes>, ...}`."""

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Detector(Frozen):
    """How faces are found."""

    name: Literal["yunet", "retinaface", "yolov5_face"] = "yunet"
    weights: str | None = None
    """Detector weights; `None`: the ones that ship with the package (`yunet` only)."""
    landmark_weights: str | None = None
    """Weights of the network that refines the five landmarks (ONet); `None`: the shipped ones."""
    refine_landmarks: bool = True
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Smallest score of a face; `None`: the default of the detector."""
    size: Positive | None = None
    """Longer side of the picture the detector sees, in pixels; `None`: the default of the detector."""


class Pipeline(Frozen):
    """From a photo to a photo: detect, align, restore, paste."""

    detector: Detector = Detector()
    template: str = "ffhq_512"
    """Name of the five-point template in `ppgan_fr.face.align`."""
    size: Positive = 512
    """Side of the aligned face in pixels."""
    mask: Literal["face", "square", "parsing", "sgpn"] = "face"
    """What of a restored face is pasted: the face itself, the reference's square or parsing mask, SGPN's rectangle."""
    parsing_weights: str | None = None
    min_eye_distance: Annotated[float, Field(ge=0)] = 5.0
    """Faces whose eyes are closer than this many pixels are left alone."""
    fidelity: Probability | None = None
    upscale: Annotated[float, Field(gt=0)] = 1.0
    face_model: str | None = None
    """SGPN: file with the linear 3D face model."""
    shape: Arch | None = None
    """SGPN: the network that predicts face-shape coefficients."""
    shape_weights: str | None = None


class Degradation(Frozen):
    """How a low-quality partner is made from a good face."""

    preset: str = "gfpgan"
    """A name of `ppgan_fr.data.degrade.PRESETS`: `gfpgan`, `hifacegan_<task>`, `face_renovation`, `old_photo`."""
    gfpgan: Annotated[Any, DescribedBy("ppgan_fr.data.degrade", "GfpganOptions")] = {}
    """Numbers of the GFP-GAN degradation, named as in its option files; what is absent has the published value."""
    old_photo: Annotated[Any, DescribedBy("ppgan_fr.data.degrade", "OldPhotoOptions")] = {}


class Data(Frozen):
    """Training pictures. `kind` chooses the class in `ppgan_fr/data/datasets.py`."""

    kind: Literal["degraded_faces", "paired_folder", "latent_pairs", "stacked_pairs", "ori_dgd"] = "degraded_faces"
    root: str
    """Folder of aligned faces, or an `.lmdb` folder."""
    input_root: str | None = None
    """`paired_folder`: the folder of low-quality partners with the same file names."""
    latents: str | None = None
    """`latent_pairs`: `latents.npz` of `tools/make_faces.py`; by default the one beside the pictures."""
    size: Positive = 512
    batch_size: Positive = 3
    """Eye and mouth boxes: `.npz` or `.json` (`tools/make_components.py`), or the `.pth` of the original."""
    num_workers: NotNegative = 0
    mirror: bool = True
    component_boxes: str | None = None
    """Eye and mouth boxes, `.npz` or `.json` of `tools/make_components.py`, or the original `.pth`."""
    eye_enlarge: float = 1.4
    degradation: Degradation = Field(default_factory=Degradation)
    max_bad_fraction: Probability = 0.1
    """Training stops when more than this part of the files cannot be read."""


class Train(Frozen):
    """The loop. What is minimised is in `recipe`."""

    total_steps: Positive
    log_every: Positive = 100
    save_every: Positive = 5000
    milestone_every: NotNegative = 0
    """Keep a copy `step_00100000/` every so many steps; 0: never."""
    evaluate_every: NotNegative = 0
    """Run `evaluate` every so many steps and keep the best checkpoint in `best/`; 0: never."""
    best_metric: str = "psnr"
    """The metric of `evaluate` that decides which checkpoint is the best."""
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    accumulate: Positive = 1
    """Passes whose gradients are averaged before a step."""
    to_static: bool = False
    """Train on the compiled generator (`paddle.jit.to_static`)."""
    resume: bool = False
    visualdl: bool = False
    progress: bool = True
    benchmark: bool = False
    """Neither checkpoints nor evaluation: only speed."""
    profiler_options: str | None = None
    """`batch_range=[10,20];profile_path=...`: these steps are profiled, as the benchmarks of TIPC ask for it."""
    deterministic: bool = False
    threads: NotNegative = 0
    """CPU threads of Paddle; 0: leave as it is."""


class Evaluate(Frozen):
    """What `tools/eval.py` measures."""

    root: str
    """Folder of originals; without originals, the folder of inputs (only no-reference metrics are possible then)."""
    input_root: str | None = None
    """Folder of degraded inputs with the same names; `None`: made from `root` by `degradation` with `seed`."""
    reference_root: str | None = None
    """Folder of good faces whose statistics the Frechet distance compares with; `None`: `root`."""
    has_originals: bool = True
    degradation: Degradation = Field(default_factory=Degradation)
    seed: int = 0
    limit: NotNegative = 0
    """Use the first so many pictures; 0: all."""
    batch_size: Positive = 1
    metrics: tuple[str, ...] = ("psnr", "ssim")
    protocol: str | None = None
    """Name of the published protocol this is, e.g. `CelebA-Test (GFP-GAN)`."""
    weights: dict[str, str] = {}
    """Weights of the measuring networks by name: `vgg19`, `lpips`, `inception`, `arcface`, ..."""

    @model_validator(mode="after")
    def _enough_is_given(self) -> Evaluate:
        if not self.has_originals and self.input_root is not None:
            raise ValueError("without originals the inputs are in 'root'; remove 'input_root'")
        return self


class Export(Frozen):
    """The inference model."""

    dir: str | None = None
    """Where it goes; `None`: `inference/<name>`."""
    format: Literal["pdmodel", "json"] = "pdmodel"
    batch_size: int = -1
    """-1: any."""
    fidelity: Probability | None = None
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Largest allowed difference between the exported and the eager network, of a range of 2."""


class Config(Frozen):
    """A whole run: one network, how it is trained, measured, used and exported."""

    name: str
    generator: Arch
    recipe: RecipeSection | None = None
    """How it is trained; absent: predict and export only."""
    pipeline: Pipeline = Pipeline()
    data: Data | None = None
    train: Train | None = None
    evaluate: Evaluate | None = None
    export: Export = Export()
    seed: int = 0
    device: Literal["auto", "cpu", "gpu", "xpu", "npu"] = "auto"
    """`auto`: the first GPU when this Paddle has one, else the CPU."""
    output_dir: str = "output"
    weights: str | None = None
    """The generator's weights, `.pdparams` (or a torch `.pth`)."""

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        check = getattr(self.recipe, "check", None)
        if check is not None:
            check(self)
        return self


def build(section: BaseModel, *arguments: Any) -> Any:
    """What a section chosen by file name describes: calls `build(section, ...)` of the file that declares it."""
    section = resolved(section)
    return importlib.import_module(type(section).__module__).build(section, *arguments)


def load_config(
    path: str | Path, overrides: Iterable[str] = (), *, without: Sequence[str] = (), deferred: bool = False
) -> Config:
    """Reads a YAML file, applies `a.b=c` overrides and validates.

    Args:
        path: a YAML file, looked up by `find_file`; `gfpgan` alone means `configs/gfpgan.yaml`.
        overrides: `dotted.key=value`; the value is parsed as YAML and never evaluated.
        without: top-level sections to leave out (a command that only predicts does not need `recipe`, nor import it).
        deferred: networks may stay `Deferred`, so that reading a configuration does not import Paddle.

    Raises:
        ConfigError: one line per mistake.
    """
    return make_config(read_yaml(_config_file(path)), overrides, without=without, deferred=deferred)


def make_config(
    tree: Mapping[str, Any], overrides: Iterable[str] = (), *, without: Sequence[str] = (), deferred: bool = False
) -> Config:
    """Like `load_config`, from a dictionary."""
    tree = override(tree, overrides)
    for section in without:
        tree.pop(section, None)
    try:
        return Config.model_validate(tree, context={"deferred": deferred})
    except ValidationError as error:
        raise ConfigError("\n".join(_line(path, text) for path, text in _explain(Config, error))) from None


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120
    )


def find_file(path: str | Path) -> Path:
    """`path` in the current folder, or else in the checkout; when it is in neither, `path` itself."""
    given = Path(path).expanduser()
    if given.exists() or given.is_absolute():
        return given
    beside = CHECKOUT / given
    return beside if beside.exists() else given


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file whose top level is a mapping. `2e-3` is a number; a key that stands twice is a mistake."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: {reason}") from None
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(tree).__name__}")
    return tree


def override(tree: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `tree` with `a.b=c` applied in order."""
    tree = _copy(tree)
    for text in overrides:
        path, value = parse_override(text)
        section = tree
        for depth, key in enumerate(path[:-1]):
            if section.get(key) is None:
                section[key] = {}
            section = section[key]
            if not isinstance(section, dict):
                raise ConfigError(f"-o {'.'.join(path)}: {'.'.join(path[: depth + 1])!r} is a value, not a section")
        section[path[-1]] = value
    return tree


def parse_override(text: str) -> tuple[list[str], Any]:
    """Splits `a.b=c` into its path and its YAML value."""
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"-o {text}: expected section.key=value")
    return path, _parse(value, f"-o {key}")


def _config_file(path: str | Path) -> Path:
    found = find_file(path)
    if found.is_file():
        return found
    named = find_file(Path("configs") / f"{path}.yaml")
    if named.is_file():
        return named
    available = sorted(p.stem for p in (CHECKOUT / "configs").glob("*.yaml"))
    close = difflib.get_close_matches(Path(path).stem, available, n=1)
    raise ConfigError(f"{path}: no such file" + (f"; did you mean configs/{close[0]}.yaml?" if close else ""))


class _Loader(yaml.SafeLoader):
    """YAML without the two traps that bite configurations: `2e-3` read as text, and duplicate keys silently dropped."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}:{line} {getattr(error, 'problem', None) or error}") from None


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


Mistake = tuple[tuple, str]


def _mistakes(mistakes: list[Mistake]) -> PydanticCustomError:
    return PydanticCustomError("by_file_name", "mistakes in a section", {"mistakes": mistakes})


def _line(path: tuple, text: str) -> str:
    dotted = ".".join(str(part) for part in path)
    return f"{dotted}: {text}" if dotted else text


def _explain(model: type[BaseModel], error: ValidationError) -> list[Mistake]:
    """Every error of pydantic as (path, sentence)."""
    mistakes: list[Mistake] = []
    for item in error.errors():
        path, owner = _walk(model, item["loc"])
        context = item.get("ctx", {})
        if item["type"] == "by_file_name":
            mistakes += [(path + inner, text) for inner, text in context["mistakes"]]
        elif item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(str(path[-1]), list(owner.model_fields) if owner else [], n=1)
            mistakes.append((path, "unknown key" + (f"; did you mean {close[0]!r}?" if close else "")))
        else:
            mistakes.append((path, _sentence(item, context)))
    return mistakes


_EXPECTED = {
    "int": "int",
    "float": "float",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a section",
}


def _sentence(item: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    kind, got = item["type"], item.get("input")
    if kind == "missing":
        return "missing"
    if kind == "literal_error":
        return f"must be one of {context['expected'].replace(' or ', ', ')}, got {got!r}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        (limit,) = context.values()
        relation = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}[next(iter(context))]
        number = int(limit) if float(limit).is_integer() else limit
        bound = "positive" if (relation, number) == ("greater than", 0) else f"{relation} {number}"
        return f"must be {bound}, got {got!r}"
    if kind == "int_from_float":
        return f"expected int, got {got!r}"
    if kind.endswith(("_type", "_parsing")) and (base := _EXPECTED.get(kind.split("_")[0])):
        return f"expected {base}, got {got!r}"
    text = item["msg"]
    return f"{text[0].lower()}{text[1:]}, got {got!r}"


def _walk(model: type[BaseModel], location: tuple) -> tuple[tuple, type[BaseModel] | None]:
    """Follows an error's location: its path without pydantic's union tags, and the model its last part belongs to."""
    path: list[Any] = []
    owner: type[BaseModel] | None = model
    current: type[BaseModel] | None = model
    annotation: Any = None
    for position, part in enumerate(location):
        if isinstance(part, str) and current is not None and part in current.model_fields:
            owner, annotation = current, current.model_fields[part].annotation
            current = _model_of(annotation)
        elif isinstance(part, str) and current is not None and position == len(location) - 1:
            owner = current
        elif isinstance(part, str) and not (current is None and "dict" in str(annotation)):
            continue
        path.append(part)
    return tuple(path), owner


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model inside `X`, `X | None`, `Annotated[X, ...]`, `tuple[X, ...]` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated, tuple, list, dict):
        for inner in typing.get_args(annotation):
            if (found := _model_of(inner)) is not None:
                return found
    return None
