"""SGPN's helpers out of a configuration: its shape network and face model, made into a restorer for the pipeline."""

from __future__ import annotations

from pathlib import Path

from ppgan_fr.config import ConfigError, Pipeline, build, find_file, make_config
from ppgan_fr.face.face_model import FaceModel, FaceModelError
from ppgan_fr.face.sgpn import shape_guided_restorer, unguided_restorer
from ppgan_fr.face.spec import ModelSpec
from ppgan_fr.face.synthetic_model import load_face_model
from ppgan_fr.face.types import Detect, Restore, Run
from ppgan_fr.weights import WeightsError, load_into

INPUTS = ("rendered", "coefficients")
"""Inputs beside the picture that tell a generator to be guided by a shape."""

NO_SHAPE = "none"
"""As `pipeline.face_model`: restore without a shape, as a generator of `recipe.use_shape=false` was trained."""


def wants_shape(spec: ModelSpec) -> bool:
    """Whether the generator has SGPN's inputs."""
    return all(name in spec.input_names for name in INPUTS)


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
