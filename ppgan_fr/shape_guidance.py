"""SGPN's helpers out of a configuration: its shape network and face model, made into a restorer for the pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from ppgan_fr.config import ConfigError, Pipeline, build, find_file, make_config
from ppgan_fr.face.face_model import FaceModel, FaceModelError, write_face_model
from ppgan_fr.face.sgpn import NO_SHAPE, shape_guided_restorer, unguided_restorer
from ppgan_fr.face.sgpn import wants_shape as wants_shape
from ppgan_fr.face.spec import ModelSpec, read_spec, write_spec
from ppgan_fr.face.synthetic_model import load_face_model
from ppgan_fr.face.types import Detect, Restore, Run
from ppgan_fr.weights import WeightsError, load_into

SHAPE_FOLDER, FACE_MODEL_FILE = "shape", "face_model.npz"
"""What an export folder calls them."""


def guided_restorer(
    pipeline: Pipeline,
    run: Run,
    spec: ModelSpec,
    *,
    locate: Detect | None = None,
    engine: str = "eager",
    beside: Path | None = None,
) -> Restore:
    """The restorer that draws each face's shape before it restores it.

    Args:
        pipeline: names the shape network, its weights and the face model.
        run: engine of the generator.
        spec: of the generator.
        locate: finds landmarks in crops; None where crops were cut by their landmarks.
        engine: "exported" (Paddle Inference, exported once and kept beside the weights) or "eager".
        beside: file or folder of a checkpoint; its `shape.pdparams` is taken when `pipeline.shape_weights` names none.

    Raises:
        ConfigError: one of the three is not named.
        FaceModelError: the face model is missing or damaged.
        WeightsError: the shape network's weights are missing or belong to another network.
    """
    if pipeline.face_model == NO_SHAPE:
        return unguided_restorer(run)
    weights = shape_weights(pipeline, beside)
    for field, value in (("shape", pipeline.shape), ("shape_weights", weights), ("face_model", pipeline.face_model)):
        if value is None:
            raise ConfigError(f"pipeline.{field}: {spec.arch} needs it; see docs/sgpn.md")
    # The cheap things that can go wrong come first: nobody waits for a network to hear that a file is missing.
    if not weights.is_file():
        raise WeightsError(f"{weights}: no such file (pipeline.shape_weights)")
    model = _face_model(pipeline.face_model)
    run_shape = shape_run(pipeline, weights, engine)
    return shape_guided_restorer(run_shape, run, model, size=spec.size or pipeline.size, locate=locate)


@dataclasses.dataclass(frozen=True)
class Companions:
    """What goes into the export folder beside the generator."""

    weights: Path | None
    """Of the shape network; None: it restores without a shape."""
    model: FaceModel | None


def companions(pipeline: Pipeline, beside: Path | None) -> Companions | None:
    """The shape network's weights and the face model of a configuration, checked; None when it names neither.

    Args:
        pipeline: see `guided_restorer`.
        beside: see `guided_restorer`.

    Raises:
        ConfigError: it names only one of the two.
        FaceModelError, WeightsError: see `guided_restorer`.
    """
    if pipeline.face_model == NO_SHAPE:
        return Companions(None, None)
    weights = shape_weights(pipeline, beside)
    if pipeline.face_model is None and weights is None:
        return None
    for field, value in (("shape", pipeline.shape), ("shape_weights", weights), ("face_model", pipeline.face_model)):
        if value is None:
            raise ConfigError(f"pipeline.{field}: missing; see docs/sgpn.md")
    if not weights.is_file():
        raise WeightsError(f"{weights}: no such file (pipeline.shape_weights)")
    return Companions(weights, _face_model(pipeline.face_model))


def add_companions(found: Companions, pipeline: Pipeline, folder: Path) -> None:
    """Lays them into a finished export folder, and names them in its `inference.yml` when they are there."""
    names: Mapping[str, str] = {"face_model": NO_SHAPE}
    if found.weights is not None and found.model is not None:
        from ppgan_fr.export import cached_export, copy_export

        section = pipeline.shape.model_dump()
        source = cached_export(make_config({"name": "shape", "generator": section}), found.weights)
        copy_export(source, folder / SHAPE_FOLDER)
        write_face_model(found.model, folder / FACE_MODEL_FILE)
        names = {"shape": SHAPE_FOLDER, "face_model": FACE_MODEL_FILE}
    write_spec(dataclasses.replace(read_spec(folder), companions=names), folder)


def shape_weights(pipeline: Pipeline, beside: Path | None = None) -> Path | None:
    """The file named by the configuration, or else the one that a training wrote beside the generator's."""
    if pipeline.shape_weights is not None:
        return find_file(pipeline.shape_weights)
    if beside is None:
        return None
    trained = (beside if beside.is_dir() else beside.parent) / "shape.pdparams"
    return trained if trained.is_file() else None


def shape_run(pipeline: Pipeline, weights: Path, engine: str = "eager") -> Run:
    """The shape network as an engine."""
    if engine == "exported":
        from ppgan_fr.export import cached_export
        from ppgan_fr.inference import paddle_run

        section = pipeline.shape.model_dump()
        return paddle_run(cached_export(make_config({"name": "shape", "generator": section}), weights))
    import paddle

    network = build(pipeline.shape)
    load_into(network, weights)
    network.eval()

    def run(arrays):
        with paddle.no_grad():
            return [network(paddle.to_tensor(arrays["image"])).numpy()]

    return run


def _face_model(path: str) -> FaceModel:
    try:
        return load_face_model(find_file(path))
    except FaceModelError as error:
        raise FaceModelError(f"pipeline.face_model: {error}") from None
