"""A network and its weights become a folder that runs everywhere: `inference.*` and `inference.yml`.

Nothing counts as exported before the files, loaded again by Paddle Inference in a process of their own, gave the eager
network's answer: batches of several sizes, each twice. An engine that cannot run the network, or answers differently,
is not offered; when Paddle's own kernels answer differently, the export fails and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppgan_fr import __version__, program, shape_guidance
from ppgan_fr.cli import add_config_arguments
from ppgan_fr.config import (
    CHECKOUT,
    PACKAGE,
    Config,
    ConfigError,
    as_given,
    build,
    find_file,
    load_config,
    make_config,
    resolved,
)
from ppgan_fr.face.spec import ModelSpec, TensorSpec, write_spec
from ppgan_fr.inference import offered
from ppgan_fr.weights import WeightsError, from_torch, load_into, load_npz

BATCHES = (1, 4)
"""Sizes that are compared, each twice."""
BF16_PSNR = 50.0
"""bfloat16 is offered when the answers differ by less than this many decibels."""
REVISION = 3
"""Raised when the same network and weights would be exported differently: cached exports are made anew."""
SINGLE_FILE, SINGLE_PARAMETERS = "inference.single.pdmodel", "inference.single.pdiparams"
_UNUSED_SECTIONS = ("recipe", "data", "train", "evaluate")

_YUNET_OUTPUTS = tuple(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32))
_NO_FACE: dict[str, Any] = {"template": "none", "mask": "none"}


def _image(*shape: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec("image", (-1, 3, *shape)),)


HELPERS: dict[str, ModelSpec] = {
    "yunet": ModelSpec("yunet", "detector", _image(-1, -1), _YUNET_OUTPUTS, None, 0.0, 1.0, "BGR", **_NO_FACE),
    "onet": ModelSpec("onet", "landmarks", _image(48, 48), ("points", "box", "face"), 48, 127.5, 128.0, **_NO_FACE),
    "sface": ModelSpec("sface", "embedding", _image(112, 112), ("embedding",), 112, 0.0, 1.0, **_NO_FACE),
    "parsenet": ModelSpec("parsenet", "parser", _image(512, 512), ("logits",), 512, **_NO_FACE),
    "yolov5_face": ModelSpec("yolov5_face", "detector", _image(-1, -1), ("predictions",), None, 0.0, 255.0, **_NO_FACE),
    "d3dfr": ModelSpec("d3dfr", "coefficients", _image(224, 224), ("coefficients",), 224, 0.0, 255.0, **_NO_FACE),
}
"""Networks beside the restorers, and how pictures go into them."""


class ExportError(ValueError):
    """The network cannot be exported, or the exported one does not answer like it."""


@dataclass(frozen=True)
class Check:
    """What one engine made of the exported network."""

    engine: str
    precision: str
    difference: float = float("nan")
    """Largest, relative to the larger of 1 and the largest value of the eager network."""
    psnr: float = float("nan")
    seconds: float = float("inf")
    """One picture, second call."""
    wrong: str | None = None
    """Why it is not offered."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `ppgan-fr export`."""
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exports what the configuration names to `export.dir` (default `inference/<name>`).

    SIGTERM ends it like an error does: half-written folders go, and so does the process that compares.
    """
    config = load_config(args.config, args.override, without=_UNUSED_SECTIONS)
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        directory, checks = export(config)
    finally:
        signal.signal(signal.SIGTERM, before)
    for check in checks:
        print(describe(check))  # noqa: T201
    print(f"exported: {directory}")  # noqa: T201
    return 0


def describe(check: Check) -> str:
    """One line for people."""
    name = f"{check.engine:<9} {check.precision}"
    if check.wrong is not None:
        return f"{name}  not offered: {check.wrong}"
    return f"{name}  largest difference {check.difference:.1e}, {check.psnr:.0f} dB, {check.seconds:.3f} s"


def export(config: Config) -> tuple[Path, list[Check]]:
    """Writes and checks the inference model of `config.generator`.

    Returns:
        The folder, and what each engine of this build made of it.

    Raises:
        ConfigError: there are no weights for a network that has none of its own.
        WeightsError: the weights are missing or belong to another network.
        FaceModelError: SGPN's face model is missing or damaged.
        ExportError: the network cannot be exported, or the exported one answers differently.
    """
    weights = None if config.weights is None else find_file(config.weights)
    network = load_network(config.generator, weights)
    target = Path(config.export.dir or Path("inference") / config.name)
    spec = spec_of(config, network, weights)
    guide = shape_guidance.companions(config.pipeline, weights) if shape_guidance.wants_shape(spec) else None
    checks = write_checked(network, spec, target, config)
    if guide is not None:
        shape_guidance.add_companions(guide, config.pipeline, target)
    if spec.kind == "restorer" and config.pipeline.detector.name == "yunet":
        add_detector(target)
    return target, checks


def add_detector(folder: Path) -> None:
    """Lays the exported detector, `yunet/` and `onet/`, into the export folder of a restorer, for whole photos."""
    for name in ("yunet", "onet"):
        if not (CHECKOUT / "weights" / f"{name}.npz").is_file():
            continue
        copy_export(cached_export(make_config({"name": name, "generator": {"arch": name}})), folder / name)


def copy_export(source: Path, target: Path) -> None:
    """Copies an export folder; `target` is complete or untouched."""
    with _beside(target) as copy:
        for path in source.iterdir():
            shutil.copyfile(path, copy / path.name)
        _put_in_place(copy, target)


def load_network(section: Any, weights: Path | None) -> Any:
    """Builds a network and loads its weights, ready to restore.

    Args:
        section: `generator` of a configuration.
        weights: `.pdparams`, a torch checkpoint, or an `.npz` as in `weights/`; None: the one shipped for this network.

    Raises:
        ConfigError: nothing was given, and the package ships no weights for it.
        WeightsError: the file cannot be read or does not fit.
    """
    section = resolved(section)
    network = build(section)
    if weights is None:
        weights = CHECKOUT / "weights" / f"{section.arch}.npz"
        if not weights.is_file():
            raise ConfigError("weights: none given; pass -o weights=FILE or set it in the configuration")
    if not weights.is_file():
        raise WeightsError(f"{weights}: no such file")
    if weights.suffix == ".npz":
        module = importlib.import_module(type(section).__module__)
        state = load_npz(weights)
        from_torch(network, module.expand(state) if hasattr(module, "expand") else state)
    else:
        load_into(network, weights)
    network.eval()
    return network


def spec_of(config: Config, network: Any, weights: Path | None) -> ModelSpec:
    """What `inference.yml` will say, before any engine was tried."""
    section, pipeline = resolved(config.generator), config.pipeline
    checksum = sha256_of(weights) if weights is not None else None
    if section.arch in HELPERS:
        return _with_single(dataclasses.replace(HELPERS[section.arch], weights_sha256=checksum, **_files(config)))
    shapes = dict(getattr(section, "inputs", {}))
    if not shapes:
        side = getattr(section, "out_size", pipeline.size)
        shapes = {"lq": (3, side, side)}
    if "fidelity" in inspect.signature(network.forward).parameters and config.export.fidelity is None:
        shapes.setdefault("fidelity", (1, 1, 1))
    batch = config.export.batch_size
    spec = ModelSpec(
        arch=section.arch,
        inputs=tuple(TensorSpec(name, (batch, *shape)) for name, shape in shapes.items()),
        size=next(iter(shapes.values()))[-1],
        mean=getattr(section, "mean", 127.5),
        std=getattr(section, "std", 127.5),
        template=pipeline.template,
        mask=pipeline.mask,
        weights_sha256=checksum,
        **_files(config),
    )
    return _with_single(spec)


def _files(config: Config) -> dict[str, str]:
    return {"model_file": f"inference.{config.export.format}", "params_file": "inference.pdiparams"}


def _with_single(spec: ModelSpec) -> ModelSpec:
    """With a program for one picture as well, where that is worth a file: OpenVINO reads it, only the batch varies."""
    shapes = [tensor.shape for tensor in spec.inputs]
    varies = all(shape[0] < 0 and min(shape[1:]) > 0 for shape in shapes)
    worth = spec.kind in ("restorer", "parser") and spec.model_file.endswith(".pdmodel") and varies
    return dataclasses.replace(spec, single_file=SINGLE_FILE) if worth else spec


def write_checked(
    network: Any,
    spec: ModelSpec,
    target: Path,
    config: Config,
    *,
    batches: Sequence[int] = BATCHES,
    first_is_enough: bool = False,
) -> list[Check]:
    """Saves a network beside `target`, compares it with the eager one, and only then puts it in place.

    Args:
        network: in evaluation mode.
        spec: of `spec_of`.
        target: export folder; files of an earlier export there are replaced, others stay.
        config: its `export` section says how.
        batches: sizes to compare.
        first_is_enough: stop at the first engine, fastest first, that answers right.

    Raises:
        ExportError: see `export`.
    """
    with _beside(target) as folder:
        save(network, spec, folder, fidelity=config.export.fidelity)
        write_spec(spec, folder)
        if config.export.batch_size > 0:
            batches = (config.export.batch_size,)
        checks = compare(network, spec, folder, config.export, batches, first_is_enough)
        good = [check for check in checks if check.wrong is None and check.precision == "fp32"]
        if not good or any(check.engine == "paddle" and check.wrong for check in checks):
            reasons = "; ".join(f"{check.engine} {check.precision}: {check.wrong}" for check in checks if check.wrong)
            raise ExportError(f"{target}: the exported network does not answer like the eager one ({reasons})")
        spec = dataclasses.replace(
            spec,
            engine=min(good, key=lambda check: check.seconds).engine,
            engines=tuple(f"{check.engine}/{check.precision}" for check in checks if check.wrong is None),
            file_bytes={path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.suffix != ".yml"},
        )
        write_spec(spec, folder)
        _put_in_place(folder, target)
        return checks


def save(network: Any, spec: ModelSpec, folder: Path, *, fidelity: float | None = None) -> None:
    """Writes the inference model, its constants folded.

    Raises:
        ExportError: Paddle cannot trace the network.
    """
    import paddle

    layer = _exported(network, len(spec.inputs), len(spec.outputs), fidelity)
    inputs = [
        paddle.static.InputSpec([None if side < 0 else side for side in tensor.shape], tensor.dtype, tensor.name)
        for tensor in spec.inputs
    ]
    legacy = spec.model_file.endswith(".pdmodel")
    try:
        with paddle.pir_utils.OldIrGuard() if legacy else contextlib.nullcontext():
            paddle.jit.save(layer, str(folder / "inference"), input_spec=inputs)
        if legacy:
            program.simplify(folder / "inference")
        if spec.single_file is not None:
            program.for_one_picture(folder / "inference", (folder / spec.single_file).with_suffix(""))
    except OSError:
        raise
    except Exception as error:  # tracing runs the network's own code, and every operator has its own exception
        raise ExportError(f"{spec.arch}: cannot be exported ({' '.join(str(error).split())[:300]})") from error
    (folder / "inference.pdiparams.info").unlink(missing_ok=True)


def _exported(network: Any, inputs: int, outputs: int, fidelity: float | None) -> Any:
    """The network with only the first `outputs` of its answers, and with its knob set when `fidelity` is given."""
    from paddle import nn

    options = {} if fidelity is None else {"fidelity": fidelity}

    class Exported(nn.Layer):
        def __init__(self):
            super().__init__()
            self.network = network

        def answer(self, *tensors):
            answer = self.network(*tensors, **options)
            if not isinstance(answer, (list, tuple)):
                return answer
            return answer[0] if outputs == 1 else list(answer)[:outputs]

    class OneInput(Exported):  # tracing wants every input named in the signature
        def forward(self, first):
            return self.answer(first)

    class TwoInputs(Exported):
        def forward(self, first, second):
            return self.answer(first, second)

    class ThreeInputs(Exported):
        def forward(self, first, second, third):
            return self.answer(first, second, third)

    layer = (OneInput, TwoInputs, ThreeInputs)[inputs - 1]()
    layer.eval()
    return layer


def compare(
    network: Any,
    spec: ModelSpec,
    folder: Path,
    section: Any,
    batches: Sequence[int] = BATCHES,
    first_is_enough: bool = False,
) -> list[Check]:
    """Runs every engine of this build on seeded inputs, each in a process of its own, against the eager network.

    Args:
        network: eager, in evaluation mode.
        spec: of the model in `folder`.
        folder: an export folder.
        section: `export` of a configuration: `tolerance`, `fidelity`.
        batches: sizes to compare, each twice.
        first_is_enough: stop at the first engine that answers right.
    """
    import paddle

    inputs = {batch: example_inputs(spec, batch) for batch in batches}
    layer = _exported(network, len(spec.inputs), len(spec.outputs), section.fidelity)
    eager: dict[int, list[np.ndarray]] = {}
    with paddle.no_grad():
        for batch, arrays in inputs.items():
            answer = layer(*(paddle.to_tensor(value) for value in arrays.values()))
            eager[batch] = [item.numpy() for item in (answer if isinstance(answer, list) else [answer])]
    checks = []
    with tempfile.TemporaryDirectory(prefix="ppgan_fr_") as scratch:
        given = Path(scratch) / "inputs.npz"
        np.savez(
            given, **{f"{batch}/{name}": value for batch, arrays in inputs.items() for name, value in arrays.items()}
        )
        for engine, precision in offered(spec.model_file):
            if precision != "fp32" and spec.kind != "restorer":
                continue
            checks.append(_check(engine, precision, folder, given, eager, section.tolerance))
            if first_is_enough and checks[-1].wrong is None:
                break
    return checks


def example_inputs(spec: ModelSpec, batch: int) -> dict[str, np.ndarray]:
    """Seeded arrays of the shapes and ranges that a network expects; sides that may vary are 96 and 64 pixels."""
    rng = np.random.default_rng(batch)
    arrays = {}
    for tensor in spec.inputs:
        free = iter((96, 64))
        shape = (batch, *(next(free) if side < 0 else side for side in tensor.shape[1:]))
        if tensor.name in ("fidelity", "coefficients"):
            value = rng.uniform(0, 1, shape)
        else:
            value = (_patches(rng, shape) - spec.mean) / spec.std
        arrays[tensor.name] = value.astype(tensor.dtype)
    return arrays


def _patches(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Pictures of values 0 to 255: patches of 16 pixels with a little noise.

    Noise alone, of the full range, drives a restorer to values of thousands, where rounding grows with them.
    """
    *leading, height, width = shape
    coarse = rng.uniform(0, 255, (*leading, -(-height // 16), -(-width // 16)))
    enlarged = coarse.repeat(16, -2).repeat(16, -1)[..., :height, :width]
    return np.clip(enlarged + rng.uniform(-16, 16, shape), 0, 255)


def _check(
    engine: str, precision: str, folder: Path, given: Path, eager: dict[int, list[np.ndarray]], tolerance: float
) -> Check:
    check = Check(engine, precision)
    answers_file = given.with_name(f"{engine}_{precision}.npz")
    command = [sys.executable, "-m", "ppgan_fr.inference", "--model_dir", str(folder), "--engine", engine]
    command += ["--precision", precision, "--inputs", str(given), "--outputs", str(answers_file)]
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        ended = f"the process ended with signal {-done.returncode}"
        reason = ended if done.returncode < 0 else lines[-1] if lines else "the process failed"
        return dataclasses.replace(check, wrong=reason.replace(f"{folder}: ", "")[:300])
    with np.load(answers_file, allow_pickle=False) as file:
        answers = {key: file[key] for key in file.files}
    answers_file.unlink()
    return judge(check, answers, eager, tolerance)


def judge(check: Check, answers: dict[str, np.ndarray], eager: dict[int, list[np.ndarray]], tolerance: float) -> Check:
    """Compares the answers of one engine with the eager network's."""
    worst, quality = 0.0, float("inf")
    for batch, expected in eager.items():
        if not answers[f"repeats/{batch}"]:
            return dataclasses.replace(check, wrong="two runs on the same input differ")
        for i, value in enumerate(expected):
            got = answers.get(f"{batch}/{i}")
            if got is None or got.shape != value.shape:
                shape = None if got is None else got.shape
                return dataclasses.replace(check, wrong=f"output {i} is {shape} instead of {value.shape}")
            scale = max(1.0, float(np.abs(value).max()))
            error = (got.astype(np.float64) - value) / scale
            if not np.isfinite(error).all():
                return dataclasses.replace(check, wrong=f"output {i} is not finite")
            worst = max(worst, float(np.abs(error).max()))
            quality = min(quality, psnr(error))
    seconds = float(answers[f"seconds/{min(eager)}"])
    check = dataclasses.replace(check, difference=worst, psnr=quality, seconds=seconds)
    if check.precision == "fp32" and worst > tolerance:
        return dataclasses.replace(check, wrong=f"largest difference {worst:.2g}, allowed {tolerance:g}")
    if check.precision != "fp32" and quality < BF16_PSNR:
        return dataclasses.replace(check, wrong=f"{quality:.1f} dB, {BF16_PSNR:g} are wanted")
    return check


def psnr(error: np.ndarray) -> float:
    """Of a difference between pictures in [-1, 1], in decibels."""
    mean_square = float(np.mean(np.square(error, dtype=np.float64)))
    return float("inf") if mean_square == 0 else float(10 * np.log10(4 / mean_square))


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder for what will become `target`, from where it can be renamed; gone afterwards.

    It lies in a target that is there already, which may be the only place that can be written, or another disk.
    """
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target}: is a file, not a folder")
    parent = target if target.is_dir() else target.parent
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, target: Path) -> None:
    folder.chmod(0o755)
    with _locked(target.parent):  # of two exports into one folder the later one stays, whole
        if not target.exists():
            folder.rename(target)
            return
        (target / "inference.yml").unlink(missing_ok=True)  # an interrupted replacement is no export at all
        for stale in ("inference.pdmodel", "inference.json", SINGLE_FILE, SINGLE_PARAMETERS):
            if not (folder / stale).exists():
                (target / stale).unlink(missing_ok=True)
        for path in sorted(folder.iterdir(), key=lambda path: path.suffix == ".yml"):  # the description comes last
            path.replace(target / path.name)


# --- exported once, kept beside the weights --------------------------------------------------------------------------


def cached_export(config: Config, weights: str | Path | None = None) -> Path:
    """The export folder of a configuration and its weights, made on the first call and found again afterwards.

    The folder's name is a checksum of weights, configuration, this package's networks and Paddle's version.

    Args:
        config: names the network. Its `export.batch_size` is not asked: these networks take any number of faces.
        weights: None: the configuration's, or else the ones that ship with the package.

    Raises:
        ConfigError, WeightsError, ExportError: as `export`.
    """
    config = config.model_copy(update={"export": config.export.model_copy(update={"batch_size": -1})})
    given = weights if weights is not None else config.weights
    path = CHECKOUT / "weights" / f"{config.generator.arch}.npz" if given is None else find_file(given)
    if not path.is_file():
        if given is None:
            raise ConfigError("weights: none given; pass --weights FILE or set it in the configuration")
        raise WeightsError(f"{path}: no such file")

    def make(target: Path) -> None:
        network = load_network(config.generator, path)
        spec = spec_of(config, network, path)
        write_checked(network, spec, target, config, batches=(1, 2), first_is_enough=True)

    return kept_export(path, f"{path.stem}-{cache_key(config, path)}", make)


def kept_export(weights: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The export folder of a name, found in one of the caches or made there.

    Several processes may call at once: one exports, the others wait. A process that is killed leaves no folder that
    looks finished.

    Args:
        weights: beside which it is kept, if that can be written.
        name: changes with everything that the export depends on.
        make: writes the export to a folder.

    Raises:
        ExportError: no folder can be written; or whatever `make` raises.
    """
    for parent in cache_folders(weights):
        with contextlib.suppress(PermissionError):  # another user's
            if (parent / name / "inference.yml").is_file():
                return parent / name
    parent = next(filter(_writable, cache_folders(weights)), None)
    if parent is None:
        raise ExportError(
            f"{weights.parent}: no folder can be written to keep the exported network; set XDG_CACHE_HOME"
        )
    target = parent / name
    with _locked(parent / f"{name}.lock"):
        if (target / "inference.yml").is_file():
            return target
        for left in parent.glob(f".{name}.*.part"):  # of a process that was killed: nobody else holds the lock
            shutil.rmtree(left, ignore_errors=True)
        print(f"{weights.name}: exporting once for Paddle Inference, to {target}", file=sys.stderr)  # noqa: T201
        make(target)
    return target


def cache_folders(weights: Path) -> list[Path]:
    """Where cached exports are looked for, and the first that can be written is where they are made."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [weights.resolve().parent / ".cache", user / "ppgan_fr", Path(tempfile.gettempdir()) / f"ppgan_fr-{_user()}"]


def cache_key(config: Config, weights: Path) -> str:
    """Changes whenever the exported network might."""
    digest = hashlib.sha256(sha256_of(weights).encode())
    generator = json.dumps(as_given(config.generator), sort_keys=True)
    said = (REVISION, __version__, _paddle_version(), generator)
    section, pipeline = config.export, config.pipeline
    said += (section.fidelity, section.format, section.tolerance, pipeline.template, pipeline.mask, pipeline.size)
    digest.update(repr(said).encode())
    for source in _network_files(config.generator.arch):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _network_files(name: str) -> list[Path]:
    """The file of a network and those of `archs` that it imports."""
    found: list[Path] = []
    names = [name]
    while names:
        path = PACKAGE / "archs" / f"{names.pop()}.py"
        if path in found or not path.is_file():
            continue
        found.append(path)
        text = path.read_text(encoding="utf-8")
        names += re.findall(r"ppgan_fr\.archs\.(\w+)", text)
        for line in re.findall(r"from ppgan_fr\.archs import ([\w, ]+)", text):
            names += re.findall(r"\w+", line)
    return sorted(found)


def sha256_of(path: Path) -> str:
    """Checksum of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _paddle_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    for name in ("paddlepaddle", "paddlepaddle-gpu"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "unknown"


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _writable(folder: Path) -> bool:
    ours_alone = folder.parent == Path(tempfile.gettempdir())  # where anybody can write
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700 if ours_alone else 0o755)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an advisory lock, of a file or a folder, that the system lifts when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # not on this system: the last rename wins, and every rename is of a finished file
        yield
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
