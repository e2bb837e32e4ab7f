"""Networks and weights of a configuration, ready to restore pictures: what `predict`, the video command and `facebench`
share.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppgan_fr.config import CHECKOUT, Config, ConfigError, build, find_file, load_config
from ppgan_fr.face.align import Template, align, named_template
from ppgan_fr.face.detect import detector
from ppgan_fr.face.pipeline import restore_image
from ppgan_fr.face.restore import FIDELITY, image_restorer
from ppgan_fr.face.spec import ModelSpec, TensorSpec
from ppgan_fr.face.types import Detect, Restore, Restored, RestoredFace, Run
from ppgan_fr.weights import WeightsError, from_torch, load_into

Similarity = Callable[[Sequence[RestoredFace]], list]


@dataclass(frozen=True)
class Restorer:
    """A configuration come to life."""

    detect_faces: Detect | None
    restore_faces: Restore
    template: Template
    mask: str
    min_eye_distance: float = 0.0
    parse: Callable[[np.ndarray], np.ndarray] | None = None
    similarity: Similarity | None = None
    fidelity: float | None = None
    """Of the restored faces; None when the network has no such knob."""
    scale: float = 1.0
    """The configuration's `pipeline.upscale`."""
    settings: str = ""
    """Changes whenever the same photo may be restored differently."""

    def restore(self, image: np.ndarray, options: Any, on_face: Callable[[int, int], None] | None = None) -> Restored:
        """Restores one picture, (H, W, 3) uint8 or uint16 BGR, with `scale`, `only_center` and `aligned` of
        `options`.
        """
        return restore_image(
            image,
            None if options.aligned else self.detect_faces,
            self.restore_faces,
            mask=self.mask,
            template=self.template,
            scale=options.scale,
            only_center=options.only_center,
            min_eye_distance=self.min_eye_distance,
            parse=self.parse,
            on_face=on_face,
        )

    def similarities(self, faces: Sequence[RestoredFace]) -> list[float | None]:
        """How alike each face and its restoration are to a face recogniser, -1 to 1; None without one."""
        if self.similarity is None or not faces:
            return [None] * len(faces)
        return self.similarity(faces)


def load_restorer(
    config: Config | str | Path,
    overrides: Iterable[str] = (),
    weights: str | None = None,
    fidelity: float | None = None,
    *,
    aligned: bool = False,
    engine: str = "exported",
) -> Restorer:
    """Builds everything that a configuration names and loads its weights.

    Args:
        config: a configuration, or the path or name of one.
        overrides: `a.b=c`, when `config` is a path.
        weights: of the generator, instead of the configuration's.
        fidelity: of the generator, instead of the configuration's.
        aligned: only face crops will come; no detector is loaded.
        engine: "exported" (Paddle Inference, exported once and kept beside the weights) or "eager".

    Raises:
        ConfigError: the configuration is wrong, or names no weights.
        WeightsError: weights are missing, unreadable, or belong to another network.
    """
    if not isinstance(config, Config):
        config = load_config(config, overrides, without=("recipe", "data", "train", "evaluate"))
    pipeline = config.pipeline
    path = weights or config.weights
    if path is None:
        raise ConfigError("weights: none given; pass --weights FILE or set it in the configuration")
    path = find_file(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    run, spec = generator_run(config, path, engine)
    has_knob = "fidelity" in spec.input_names
    fidelity = pipeline.fidelity if fidelity is None else fidelity
    if fidelity is not None and not has_knob:
        raise ConfigError(f"fidelity: {config.generator.arch} has no such knob; leave --fidelity out")
    used = (FIDELITY if fidelity is None else float(fidelity)) if has_knob else None
    settings = [spec.arch, sha256_of(path), used, pipeline.model_dump_json()]
    return Restorer(
        detect_faces=None if aligned else face_detector(pipeline.detector),
        restore_faces=image_restorer(run, spec, fidelity=used),
        template=named_template(pipeline.template),
        mask=pipeline.mask,
        min_eye_distance=pipeline.min_eye_distance,
        parse=face_parser(pipeline.parsing_weights) if pipeline.mask == "parsing" else None,
        similarity=identity_similarity(),
        fidelity=used,
        scale=pipeline.upscale,
        settings=repr(settings),
    )


def generator_run(config: Config, weights: Path, engine: str = "exported") -> tuple[Run, ModelSpec]:
    """The generator as a `Run`, and how pictures go in."""
    network = build(config.generator)
    load_into(network, weights)
    return eager_run(network, "lq"), _spec_of(config, network)


def _spec_of(config: Config, network: Any) -> ModelSpec:
    size = config.pipeline.size
    inputs = [TensorSpec("lq", (-1, 3, size, size))]
    if "fidelity" in inspect.signature(network.forward).parameters:
        inputs.append(TensorSpec("fidelity", (-1, 1, 1, 1)))
    return ModelSpec(
        arch=config.generator.arch,
        inputs=tuple(inputs),
        size=size,
        template=config.pipeline.template,
        mask=config.pipeline.mask,
    )


def eager_run(network: Any, *names: str) -> Run:
    """Runs a Paddle network as it stands; `names` are its positional inputs, other arrays go in by name."""
    import paddle

    network.eval()

    def run(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        tensors = {name: paddle.to_tensor(value) for name, value in arrays.items()}
        positional = [tensors.pop(name) for name in names]
        with paddle.no_grad():
            answer = network(*positional, **tensors)
        answers = answer if isinstance(answer, (list, tuple)) else [answer]
        return [item.numpy() for item in answers if hasattr(item, "numpy")]

    return run


def face_detector(section: Any) -> Detect:
    """The detector of `pipeline.detector`."""
    if section.name == "yunet":
        threshold = {} if section.threshold is None else {"score": section.threshold}
        sizes = {} if section.size is None else {"sizes": (section.size,)}
        points = shipped("onet", section.landmark_weights) if section.refine_landmarks else None
        return detector(shipped("yunet", section.weights), points, **threshold, **sizes)
    if section.weights is None:
        raise ConfigError(f"pipeline.detector.weights: {section.name} does not ship with the package; name a file")
    if section.name == "retinaface":
        from ppgan_fr.archs import retinaface as network
        from ppgan_fr.face.retinaface import detector as make
    else:
        from ppgan_fr.archs import yolov5_face as network
        from ppgan_fr.face.yolov5_face import detector as make
    layer = network.build(network.Config())
    load_into(layer, find_file(section.weights))
    options = {"score": section.threshold, "size": section.size}
    return make(eager_run(layer, "image"), **{key: value for key, value in options.items() if value is not None})


def face_parser(weights: str | None) -> Callable[[np.ndarray], np.ndarray]:
    """Labels the pixels of a 512 crop with facexlib's parsing network."""
    from ppgan_fr.archs import parsenet
    from ppgan_fr.face.restore import to_tensor

    if weights is None:
        raise ConfigError("pipeline.parsing_weights: the mask 'parsing' needs the weights of the parsing network")
    network = parsenet.build(parsenet.Config())
    load_into(network, find_file(weights))
    run, spec = eager_run(network, "image"), ModelSpec(arch="parsenet", kind="parser", template="none", mask="none")
    return lambda crop: run({"image": to_tensor([crop], spec)})[0][0].argmax(0)


def shipped(name: str, weights: str | None = None) -> Run:
    """A network whose converted weights come with the package (`weights/<name>.npz`), eager: they are small."""
    import importlib

    module = importlib.import_module(f"ppgan_fr.archs.{name}")
    network = module.build(module.Config())
    if weights is not None:
        load_into(network, find_file(weights))
    else:
        path = CHECKOUT / "weights" / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                state = {key: file[key] for key in file.files}
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a file of arrays"
            raise WeightsError(f"{path}: cannot be read ({reason})") from None
        from_torch(network, module.expand(state) if hasattr(module, "expand") else state)
    return eager_run(network, "image")


def identity_similarity() -> Similarity | None:
    """Compares faces before and after by SFace; None when its weights are not there. Loaded with the first face."""
    if not (CHECKOUT / "weights" / "sface.npz").is_file():
        return None
    loaded: list[Run] = []

    def similarity(faces: Sequence[RestoredFace]) -> list[float]:
        from ppgan_fr.archs.sface import TEMPLATE_112

        if not loaded:
            loaded.append(shipped("sface"))
        template = Template("sface_112", tuple(map(tuple, TEMPLATE_112)), 112, solver="umeyama", border=(0, 0, 0))
        crops = [
            align(picture, one.aligned.landmarks, template).image[..., ::-1].transpose(2, 0, 1)
            for one in faces
            for picture in (one.aligned.image, one.image)
        ]
        vectors = np.concatenate(
            [loaded[0]({"image": np.stack(crops[i : i + 8]).astype(np.float32)})[0] for i in range(0, len(crops), 8)]
        )
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return [float(a @ b) for a, b in zip(vectors[::2], vectors[1::2])]

    return similarity


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
