"""Networks and weights of a configuration, ready to restore pictures: what `predict`, the video command and `facebench`
share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppgan_fr.config import CHECKOUT, Config, ConfigError, find_file, load_config, make_config, resolved
from ppgan_fr.export import cached_export, load_network, sha256_of, spec_of
from ppgan_fr.face.align import Template, named_template
from ppgan_fr.face.detect import detector
from ppgan_fr.face.identity import TABLE, Embed, embedder
from ppgan_fr.face.pipeline import Policies, restore_image
from ppgan_fr.face.restore import FIDELITY, image_restorer
from ppgan_fr.face.spec import ModelSpec, read_spec
from ppgan_fr.face.strength import WEIGHTS as STRENGTH
from ppgan_fr.face.types import Detect, Restore, Restored, RestoredFace, Run
from ppgan_fr.inference import paddle_run
from ppgan_fr.mixed_guidance import Guide, guided_run
from ppgan_fr.shape_guidance import guided_restorer, shape_weights, wants_shape
from ppgan_fr.weights import WeightsError, load_into

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
    policies: Policies = Policies()

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
            policies=self.policies,
        )

    def similarities(self, faces: Sequence[RestoredFace]) -> list[float | None]:
        """How alike each face and its restoration are to a face recogniser, -1 to 1; None without one."""
        if self.similarity is None or not faces:
            return [None] * len(faces)
        known = [_known_similarity(one) for one in faces]
        asked = iter(self.similarity([one for one, value in zip(faces, known) if value is None]))
        return [next(asked) if value is None else value for value in known]


def load_restorer(
    config: Config | str | Path,
    overrides: Iterable[str] = (),
    weights: str | None = None,
    fidelity: float | str | None = None,
    *,
    aligned: bool = False,
    engine: str = "exported",
    guide: Guide | None = None,
    identity: str = "off",
    colour: str = "auto",
) -> Restorer:
    """Builds everything that a configuration names and loads its weights.

    Args:
        config: a configuration, or the path or name of one.
        overrides: `a.b=c`, when `config` is a path.
        weights: of the generator, instead of the configuration's.
        fidelity: of the generator, instead of the configuration's; "auto": as each face needs it.
        aligned: only face crops will come; no detector is loaded.
        engine: "exported" (Paddle Inference, exported once and kept beside the weights) or "eager".
        guide: a second picture that guides the network, eager (HiFaceGAN).
        identity: "off", "warn" or "gate": what becomes of a face that is somebody else after its restoration.
        colour: "auto" or "keep", see `face.colour`.

    Raises:
        ConfigError: the configuration is wrong, or names no weights.
        WeightsError: weights are missing, unreadable, or belong to another network.
    """
    if not isinstance(config, Config):
        config = load_config(config, overrides, without=("recipe", "data", "train", "evaluate"), deferred=True)
    pipeline = config.pipeline
    if pipeline.shape is not None:
        pipeline = pipeline.model_copy(update={"shape": resolved(pipeline.shape)})
    path = weights or config.weights
    if path is None:
        raise ConfigError("weights: none given; pass --weights FILE or set it in the configuration")
    path = find_file(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        run, spec = generator_run(config, path, engine) if guide is None else guided_run(config, path, guide)
    except WeightsError as error:
        raise WeightsError(_in_one_line(error)) from None
    has_knob = "fidelity" in spec.input_names
    automatic = fidelity == "auto"
    fidelity = None if automatic else fidelity
    fidelity = pipeline.fidelity if fidelity is None else fidelity
    if fidelity is not None and not has_knob:
        raise ConfigError(f"fidelity: {config.generator.arch} has no such knob; leave --fidelity out")
    used = (FIDELITY if fidelity is None else float(fidelity)) if has_knob else None
    if wants_shape(spec):
        # A crop that was not cut here has its landmarks anywhere; the shape network needs to know where.
        locate = face_detector(pipeline.detector) if aligned else None
        restore = guided_restorer(pipeline, run, spec, locate=locate, engine=engine, beside=path)
    else:
        restore = image_restorer(run, spec, fidelity=used)
    model = None if pipeline.face_model is None else find_file(pipeline.face_model)
    checksums = [sha256_of(file) for file in (path, shape_weights(pipeline, path), model) if file and file.is_file()]
    recogniser = recognise_faces()
    if recogniser is None and identity == "gate":
        raise WeightsError("identity gate: weights/sface.npz is not there")
    policies = Policies(colour, "off" if recogniser is None else identity, recogniser, automatic)
    settings = [spec.arch, checksums, used, pipeline.model_dump_json(), *([] if guide is None else [guide])]
    watched = policies.identity != "off"
    tables = [*([STRENGTH] if watched or automatic else []), *([TABLE] if watched else [])]
    settings += [colour, policies.identity, automatic, *map(sha256_of, tables)]
    return Restorer(
        detect_faces=None if aligned else face_detector(pipeline.detector),
        restore_faces=restore,
        template=named_template(pipeline.template).at_size(spec.size),
        mask=pipeline.mask,
        min_eye_distance=pipeline.min_eye_distance,
        parse=face_parser(pipeline.parsing_weights) if pipeline.mask == "parsing" else None,
        similarity=None if recogniser is None else similarity_by(recogniser),
        fidelity=used,
        policies=policies,
        scale=pipeline.upscale,
        settings=repr(settings),
    )


def generator_run(config: Config, weights: Path, engine: str = "exported") -> tuple[Run, ModelSpec]:
    """The generator as a `Run`, and how pictures go in."""
    if engine == "exported":
        folder = cached_export(config, weights)
        return paddle_run(folder), read_spec(folder)
    network = load_network(config.generator, weights)
    spec = spec_of(config, network, weights)
    return eager_run(network, *spec.input_names), spec


def _in_one_line(error: WeightsError) -> str:
    """How many names differ, and the first of them; `tools/convert_weights.py` lists them all."""
    first, *rest = (line.strip() for line in str(error).splitlines())
    return f"{first} {rest[0]}, ..." if len(rest) > 1 else " ".join([first, *rest])


def eager_run(network: Any, *names: str) -> Run:
    """Runs a Paddle network as it stands; `names` are its inputs in order."""
    import paddle

    network.eval()

    def run(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        with paddle.no_grad():
            answer = network(*(paddle.to_tensor(arrays[name]) for name in names))
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
    """A small network whose converted weights come with the package (`weights/<name>.npz`), exported once."""
    config = make_config({"name": name, "generator": {"arch": name}, "weights": weights}, deferred=True)
    return paddle_run(cached_export(config))


def recognise_faces() -> Embed | None:
    """SFace on restored crops; None when its weights are not there. Loaded with the first face."""
    if not (CHECKOUT / "weights" / "sface.npz").is_file():
        return None
    loaded: list[Embed] = []

    def embed(crops: Sequence[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
        if not loaded:
            loaded.append(embedder(shipped("sface")))
        return loaded[0](crops, landmarks)

    return embed


def similarity_by(embed: Embed) -> Similarity:
    """Compares faces before and after."""

    def similarity(faces: Sequence[RestoredFace]) -> list[float]:
        pairs = [embed([one.aligned.image, one.image], one.aligned.landmarks) for one in faces]
        return [float(before @ after) for before, after in pairs]

    return similarity


def _known_similarity(one: RestoredFace) -> float | None:
    """What the gate has measured already, and what needs no measuring."""
    if one.left_alone is not None:
        return 1.0
    if one.identity is None:
        return None
    return one.identity.similarity if one.identity.final_similarity is None else one.identity.final_similarity
