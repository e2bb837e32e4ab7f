"""Crops into a restoring network and back: what lies between a picture and the engine that runs the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppgan_fr.face.spec import ModelSpec
from ppgan_fr.face.types import AlignedFace, Restore, Run

FIDELITY = 1.0
"""Closest to the input: used when a network has the knob and nobody turned it."""


class RestoreError(ValueError):
    """A network asks for something that this pipeline cannot give, or answers in a shape that is no picture."""


def to_tensor(crops: Sequence[np.ndarray], spec: ModelSpec) -> np.ndarray:
    """(H, W, 3) uint8 BGR crops -> (N, 3, H, W) float32, normalised as `spec` says."""
    batch = np.stack(crops)
    if spec.channel_order == "RGB":
        batch = batch[..., ::-1]
    return np.ascontiguousarray((batch.astype(np.float32) - spec.mean).transpose(0, 3, 1, 2)) / np.float32(spec.std)


def to_pixels(tensor: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """(N, 3, H, W) -> (N, H, W, 3) float32 BGR in [0, 255], not rounded; NaN stays NaN."""
    pixels = np.asarray(tensor, np.float32).transpose(0, 2, 3, 1) * np.float32(spec.std) + np.float32(spec.mean)
    if spec.channel_order == "RGB":
        pixels = pixels[..., ::-1]
    return np.clip(pixels, 0, 255)


def image_restorer(run: Run, spec: ModelSpec, *, fidelity: float | None = None, batch_size: int = 1) -> Restore:
    """Makes the function that restores aligned crops with one network.

    Args:
        run: the engine.
        spec: how a picture goes in and comes out.
        fidelity: in [0, 1], closer to the input when higher; for networks that have the input `fidelity`. A face that
            asks for its own has that.
        batch_size: how many crops go through at once.

    Returns:
        A function from aligned faces to float32 BGR crops in [0, 255].

    Raises:
        RestoreError: the network wants an input that is neither a picture nor `fidelity`.
    """
    extra = spec.input_names[1:]
    unknown = [name for name in extra if name != "fidelity"]
    if unknown:
        raise RestoreError(f"{spec.arch}: the network wants {', '.join(unknown)}, which this pipeline does not have")
    if fidelity is not None and not 0 <= fidelity <= 1:
        raise RestoreError(f"fidelity must be between 0 and 1, got {fidelity}")

    def restore(faces: list[AlignedFace]) -> list[np.ndarray]:
        restored: list[np.ndarray] = []
        for start in range(0, len(faces), batch_size):
            batch = faces[start : start + batch_size]
            crops = [face.image for face in batch]
            tensors = {spec.input_names[0]: to_tensor(crops, spec)}
            if extra:
                usual = FIDELITY if fidelity is None else fidelity
                tensors["fidelity"] = _like(spec, [usual if one.fidelity is None else one.fidelity for one in batch])
            answer = np.asarray(run(tensors)[0])
            if answer.ndim != 4 or answer.shape[:2] != (len(crops), 3):
                raise RestoreError(f"{spec.arch}: expected ({len(crops)}, 3, H, W) pictures, got {answer.shape}")
            restored.extend(to_pixels(answer, spec))
        return restored

    return restore


def _like(spec: ModelSpec, values: Sequence[float]) -> np.ndarray:
    """The fidelities in the rank the network declares: (N,), (N, 1), ..."""
    shape = next(tensor.shape for tensor in spec.inputs if tensor.name == "fidelity")
    return np.asarray(values, np.float32).reshape(len(values), *(1 for _ in shape[1:]))
