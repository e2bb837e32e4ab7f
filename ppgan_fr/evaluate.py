"""`ppgan-fr eval`: a data set and a network become a table of metrics, with failures counted and inputs hashed.

  python tools/eval.py -c configs/gfpgan_v1.3.yaml -o weights=weights/GFPGANv1.3.pth evaluate.root=data/celeba_test
  python tools/eval.py -c configs/eval/lfw.yaml -o weights=W --output metrics.json --inputs

Metrics of `evaluate.metrics`: psnr, ssim, ms_ssim, perceptual (VGG19 features), lpips, identity, embedding (FED),
landmarks (LLE, LMD) compare with the originals; niqe needs none; fid compares the whole set with `reference_root`. A
metric whose network or weights are not there is reported as unavailable with the reason, and one that stands in for
another has its own name: `identity_angle_sface` is not `identity_angle_arcface`, `frechet_mobilenet_distance` is not
`fid`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ppgan_fr import metrics
from ppgan_fr.cli import add_config_arguments
from ppgan_fr.config import Config, ConfigError, Detector, Evaluate, build, dump_config, find_file, load_config
from ppgan_fr.data import degrade
from ppgan_fr.data.datasets import decode, degradation, fit, store, to_network
from ppgan_fr.data.loader import DataError
from ppgan_fr.face.align import FFHQ_512, align, already_aligned, named_template
from ppgan_fr.face.identity import SFACE_112
from ppgan_fr.face.restore import image_restorer
from ppgan_fr.weights import WeightsError, load_into

Picture = np.ndarray
Measure = Callable[[Picture, Picture | None], float]


class EvaluateError(ValueError):
    """An evaluation that cannot be done as configured."""


@dataclass
class Table:
    """What has been measured so far."""

    means: dict[str, metrics.Mean] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Metric -> the first reason why it could not be computed for a picture."""

    def add(self, name: str, measure: Measure, picture: Picture, original: Picture | None) -> None:
        """Measures one picture; a failure is counted."""
        mean = self.means.setdefault(name, metrics.Mean())
        try:
            mean.add(measure(picture, original))
        except metrics.MetricError as error:
            mean.add(None)
            self.reasons.setdefault(name, str(error))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tools/eval.py`."""
    add_config_arguments(parser)
    parser.add_argument("--output", type=Path, help="write the report as JSON")
    parser.add_argument("--images", type=Path, help="also write the restored pictures into this folder")
    parser.add_argument("--inputs", action="store_true", help="also measure the inputs as they are, for comparison")


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and prints; 1 when some pictures could not be used."""
    from ppgan_fr.train.loop import set_device

    config = load_config(arguments.config, arguments.override, without=("recipe", "data", "train"))
    set_device(config.device)
    report = evaluate(config, images=arguments.images, inputs=arguments.inputs, progress=True)
    print(render(report))  # noqa: T201
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        beside = arguments.output.with_name(f".{arguments.output.name}.tmp")
        beside.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(arguments.output)
    return 1 if report["failures"] else 0


def evaluate(
    config: Config, network: Any = None, images: Path | None = None, inputs: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Measures a generator.

    Args:
        config: its `evaluate` section says on what; `weights` with which weights, unless a network is given.
        network: a built generator in evaluation mode.
        images: where to write the restored pictures.
        inputs: also measure the inputs, as a restorer that changes nothing would give them.
        progress: show a bar.

    Returns:
        `metrics` (name -> mean or None), `details` (name -> mean, count, failures, reason), `unavailable`, `failures`
        (pictures that could not be used), `count`, `hashes` (weights, data, protocol), `protocol`, `seconds`; with
        `inputs` also `inputs` (name -> mean of the inputs).

    Raises:
        ConfigError, EvaluateError, DataError, WeightsError: it cannot be done.
    """
    section = config.evaluate
    if section is None:
        raise ConfigError("evaluate: missing, the evaluation needs it")
    began = time.perf_counter()
    weights_hash = None
    if network is None:
        network, weights_hash = _load(config)
    size = config.pipeline.size
    measures, unavailable = _measures(section, size)
    source = _Pictures(section, size)
    restore = _restorer(config, network)
    table, before, restored = Table(), Table(), []
    for pairs in tqdm(source.batches(), total=source.steps, disable=None if progress else True, unit="batch"):
        answers = restore([lq for _, lq, _ in pairs])
        for (name, lq, original), answer in zip(pairs, answers, strict=True):
            if answer is None:
                source.failures.append({"input": name, "reason": "the network gave NaN or infinite numbers"})
                continue
            for metric, measure in measures.items():
                table.add(metric, measure, answer, original)
                if inputs:
                    before.add(metric, measure, lq, original)
            if "fid" in section.metrics:
                restored.append(answer)
            if images is not None:
                _write(images / Path(name).with_suffix(".png"), answer)
    details = {name: mean.result() | {"reason": table.reasons.get(name)} for name, mean in table.means.items()}
    if "fid" in section.metrics:
        details |= _frechet(section, size, restored, unavailable)
    protocol = {"evaluate": section.model_dump(mode="json"), "size": size}
    return {
        "name": config.name,
        "protocol": section.protocol,
        "metrics": {name: detail["mean"] for name, detail in details.items()},
        **({"inputs": {name: mean.result()["mean"] for name, mean in before.means.items()}} if inputs else {}),
        "details": details,
        "unavailable": unavailable,
        "failures": source.failures,
        "count": source.count,
        "hashes": {
            "weights": weights_hash,
            "data": source.digest.hexdigest(),
            "protocol": hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest(),
        },
        "config": dump_config(config),
        "seconds": round(time.perf_counter() - began, 3),
    }


def render(report: dict[str, Any]) -> str:
    """The report as lines of text: `metric: mean` with direction and counts, then what is missing."""
    lines = [f"{report['protocol'] or report['name']}: {report['count']} pictures"]
    for name, detail in report["details"].items():
        value = "none" if detail["mean"] is None else f"{detail['mean']:.6f}"
        direction = metrics.BETTER.get(name, metrics.BETTER.get(name.rpartition("_")[0], ""))
        failed = f", {detail['failures']} failed: {detail['reason']}" if detail["failures"] else ""
        as_it_came = report.get("inputs", {}).get(name)
        of_input = "" if as_it_came is None else f", {as_it_came:.6f} of the inputs"
        lines.append(f"{name}: {value} ({direction} is better, {detail['count']} measured{failed}{of_input})")
    lines += [f"{name}: unavailable ({reason})" for name, reason in report["unavailable"].items()]
    lines += [f"failed: {item['input']}: {item['reason']}" for item in report["failures"]]
    return "\n".join(lines)


# ---------------------------------------------------------------- pictures in and out


class _Pictures:
    """Inputs and originals, read in batches; what cannot be read is kept in `failures`."""

    def __init__(self, section: Evaluate, size: int) -> None:
        self.section, self.size = section, size
        self.originals = store(section.root)
        self.inputs = store(section.input_root) if section.input_root is not None else None
        self.names = self.originals.names[: section.limit or None]
        self.partners = (
            {Path(name).with_suffix("").as_posix(): name for name in self.inputs.names} if self.inputs else {}
        )
        self.degrade = degradation(section.degradation)
        self.failures: list[dict[str, str]] = []
        self.count = 0
        self.digest = hashlib.sha256()
        self.steps = -(-len(self.names) // section.batch_size)

    def batches(self) -> Iterator[list[tuple[str, Picture, Picture | None]]]:
        """Lists of (name, low-quality picture, original or None), both (S, S, 3) uint8 BGR."""
        waiting = []
        for index, name in enumerate(self.names):
            try:
                waiting.append(self._read(index, name))
                self.count += 1
            except DataError as error:
                self.failures.append({"input": name, "reason": str(error)})
            if len(waiting) == self.section.batch_size:
                yield waiting
                waiting = []
        if waiting:
            yield waiting
        if not self.count:
            raise DataError(f"{self.section.root}: none of {len(self.names)} pictures can be used")

    def _read(self, index: int, name: str) -> tuple[str, Picture, Picture | None]:
        original = fit(self._bytes(self.originals, name), self.size, name)
        if not self.section.has_originals:
            return name, original, None
        if self.inputs is None:
            rng = np.random.default_rng([self.section.seed, index])
            return name, degrade.to_uint8(self.degrade(degrade.to_float(original), rng).lq), original
        partner = self.partners.get(Path(name).with_suffix("").as_posix())
        if partner is None:
            raise DataError(f"{name}: there is no input of this name in {self.section.input_root}")
        return name, fit(self._bytes(self.inputs, partner), self.size, partner), original

    def _bytes(self, source: Any, name: str) -> Picture:
        try:
            content = source.read(name)
        except OSError as error:
            raise DataError(f"{name}: {error.strerror or error}") from None
        self.digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        return decode(content, name)


def _load(config: Config) -> tuple[Any, str]:
    if config.weights is None:
        raise ConfigError("weights: none given; pass -o weights=FILE")
    path = find_file(config.weights)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    network = build(config.generator)
    load_into(network, path)
    network.eval()
    return network, hashlib.sha256(path.read_bytes()).hexdigest()


def _restorer(config: Config, network: Any) -> Callable[[list[Picture]], list[Picture | None]]:
    """Pictures through the same pre- and postprocessing as in prediction; None where the network gave no numbers."""
    from ppgan_fr.export import spec_of
    from ppgan_fr.restorer import eager_run
    from ppgan_fr.shape_guidance import guided_restorer, wants_shape

    spec = spec_of(config, network, None)
    run_network = eager_run(network, *spec.input_names)
    template = named_template(config.pipeline.template).at_size(config.pipeline.size)
    if wants_shape(spec):
        trained = find_file(config.weights) if config.weights else Path(config.output_dir) / "latest"
        restore = guided_restorer(config.pipeline, run_network, spec, beside=trained)
    else:
        fidelity = config.pipeline.fidelity if "fidelity" in spec.input_names else None
        batch_size = config.evaluate.batch_size if config.evaluate else 1
        restore = image_restorer(run_network, spec, fidelity=fidelity, batch_size=batch_size)

    def restored(pictures: list[Picture]) -> list[Picture | None]:
        answers = restore([already_aligned(picture, template) for picture in pictures])
        return [np.rint(one).astype(np.uint8) if np.isfinite(one).all() else None for one in answers]

    return restored


def _write(path: Path, picture: Picture) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())


# ---------------------------------------------------------------- what is measured


def _measures(section: Evaluate, size: int) -> tuple[dict[str, Measure], dict[str, str]]:
    """Metric -> function of (restored, original), and metric -> why it cannot be measured."""
    makers: dict[str, Callable[[Evaluate, int], tuple[str, Measure]]] = {
        "psnr": lambda *_: ("psnr", metrics.psnr),
        "ssim": lambda *_: ("ssim", metrics.ssim),
        "ms_ssim": lambda *_: ("ms_ssim", metrics.ms_ssim),
        "ms_ssim_as_published": lambda *_: (
            "ms_ssim_as_published",
            lambda a, b: metrics.ms_ssim(a, b, as_published=True),
        ),
        "niqe": lambda *_: ("niqe", lambda picture, _: metrics.niqe(picture)),
        "perceptual": _perceptual,
        "lpips": _lpips,
        "identity": _identity,
        "embedding": _embedding,
        "landmarks": _landmarks,
    }
    known = [*makers, "fid"]
    unknown = [name for name in section.metrics if name not in known]
    if unknown:
        raise EvaluateError(f"evaluate.metrics: there is no {', '.join(unknown)}; available: {', '.join(known)}")
    found: dict[str, Measure] = {}
    unavailable: dict[str, str] = {}
    for name in section.metrics:
        if name == "fid":
            continue
        if not section.has_originals and name != "niqe":
            unavailable[name] = "there are no originals to compare with"
            continue
        try:
            key, measure = makers[name](section, size)
            found[key] = measure
        except (EvaluateError, WeightsError) as error:
            unavailable[name] = str(error)
    return found, unavailable


def _perceptual(section: Evaluate, size: int) -> tuple[str, Measure]:
    network = _network(section, "vgg19")
    return "perceptual_distance", lambda a, b: metrics.perceptual_distance(_run(network, a), _run(network, b))


def _lpips(section: Evaluate, size: int) -> tuple[str, Measure]:
    network = _network(section, "lpips")
    return "lpips", lambda a, b: metrics.lpips(_run(network, a), _run(network, b), network.heads())


def _identity(section: Evaluate, size: int) -> tuple[str, Measure]:
    name, embed = _embedder(section, size)
    return f"identity_angle_{name}", lambda a, b: metrics.identity_angle(embed(a), embed(b))


def _embedding(section: Evaluate, size: int) -> tuple[str, Measure]:
    name, embed = _embedder(section, size)
    return f"face_embedding_distance_{name}", lambda a, b: metrics.face_embedding_distance(embed(a), embed(b))


def _embedder(section: Evaluate, size: int) -> tuple[str, Callable[[Picture], np.ndarray]]:
    """The network that knows faces, by name, and the embedding of a picture by it."""
    if "arcface" in section.weights:
        from ppgan_fr.losses import gray_resize

        network = _network(section, "arcface")
        return "arcface", lambda picture: _run(network, picture, gray_resize)
    from ppgan_fr.restorer import shipped

    run_sface = shipped("sface", section.weights.get("sface"))
    landmarks = FFHQ_512.array() * (size / 512)

    def embed(picture: Picture) -> np.ndarray:
        crop = align(picture, landmarks, SFACE_112).image[..., ::-1].transpose(2, 0, 1)
        return run_sface({"image": crop[None].astype(np.float32)})[0]

    return "sface", embed


def _landmarks(section: Evaluate, size: int) -> tuple[str, Measure]:
    import cv2

    from ppgan_fr.data.make_components import find_landmarks
    from ppgan_fr.restorer import face_detector

    detect = face_detector(Detector())

    def distance(picture: Picture, original: Picture | None) -> float:
        points = [find_landmarks(detect, image, cv2) for image in (picture, original)]
        if any(found is None for found in points):
            raise metrics.MetricError("no face found")
        return metrics.landmark_distance(*points)

    return "landmark_distance", distance


def _frechet(section: Evaluate, size: int, restored: list[Picture], unavailable: dict[str, str]) -> dict[str, Any]:
    name, key = (
        ("inception", "fid") if "inception" in section.weights else ("mobilenet_v2", "frechet_mobilenet_distance")
    )
    try:
        network = _network(section, name)
        reference = store(section.reference_root or section.root)
        good = [fit(decode(reference.read(file), file), size, file) for file in reference.names]
        value = metrics.frechet_distance(
            *(np.stack([np.ravel(_run(network, picture)) for picture in pictures]) for pictures in (restored, good))
        )
    except (EvaluateError, WeightsError, metrics.MetricError) as error:
        unavailable["fid"] = str(error)
        return {}
    return {key: {"mean": value, "count": len(restored), "failures": 0, "reason": None}}


def _network(section: Evaluate, name: str) -> Any:
    path = section.weights.get(name)
    if path is None:
        raise EvaluateError(f"needs evaluate.weights.{name}")
    file = find_file(path)
    if not file.is_file():
        raise WeightsError(f"evaluate.weights.{name}: {path}: no such file")
    try:
        module = importlib.import_module(f"ppgan_fr.archs.{name}")
    except ModuleNotFoundError:
        raise EvaluateError(f"there is no network {name} in this version") from None
    network = module.build(module.Config())
    load_into(network, file)
    network.eval()
    return network


def _run(network: Any, picture: Picture, prepare: Callable[[Any], Any] | None = None) -> Any:
    """Features of one picture: (1, 3, S, S) RGB in [-1, 1] through a network."""
    import paddle

    with paddle.no_grad():
        tensor = paddle.to_tensor(to_network(degrade.to_float(picture))[None])
        answer = network(tensor if prepare is None else prepare(tensor))
    if isinstance(answer, dict):
        return {key: value.numpy() for key, value in answer.items()}
    return [value.numpy() for value in answer] if isinstance(answer, (list, tuple)) else answer.numpy()
