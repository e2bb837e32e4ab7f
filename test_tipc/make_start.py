"""Weights to start a chain's training from: seeded, with a last layer that answers in the range of a picture.

    python test_tipc/make_start.py -c configs/smoke/gfpgan.yaml --faces test_tipc/data/lite/val --output start.pdparams

A network with random weights answers far outside of it: clipped to one colour, its pictures would look alike whatever
an engine computes. Only the parameters named `to_rgb` are scaled and shifted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr import weights
from ppgan_fr.config import build, load_config
from ppgan_fr.export import example_inputs, spec_of

MEAN, DEVIATION = 127.0, 45.0
"""Wanted of the answer, in grey levels."""


def read_faces(folder: Path, spec) -> np.ndarray:
    """Two faces as the network takes them."""
    pictures = [cv2.imread(str(path)) for path in sorted(folder.iterdir())[:2]]
    faces = np.stack([cv2.resize(picture, (spec.size, spec.size))[..., ::-1] for picture in pictures])
    return ((faces.transpose(0, 3, 1, 2) - spec.mean) / spec.std).astype(np.float32)


def calibrate(network, spec, faces: np.ndarray) -> tuple[float, float]:
    """Scales and shifts the last layers; returns mean and deviation of the answer in grey levels."""
    arrays = {**example_inputs(spec, len(faces)), spec.inputs[0].name: faces}
    inputs = [paddle.to_tensor(arrays[tensor.name]) for tensor in spec.inputs]
    last = [
        value for name, value in network.named_parameters() if "to_rgb" in name.lower() and "modulation" not in name
    ]
    scales, shifts = [value for value in last if value.size > 3], [value for value in last if value.size == 3]
    if not scales or not shifts:
        raise SystemExit("make_start.py: the network has no weight and bias named to_rgb")
    shift = shifts[-1]

    def answer() -> np.ndarray:
        with paddle.no_grad():
            image = network(*inputs)
        return (image[0] if isinstance(image, tuple | list) else image).numpy() * spec.std + spec.mean

    for value in scales:  # small first: an answer that is clipped inside the network says nothing of its size
        value.set_value(value * 1e-3)
    for _ in range(12):
        ratio = float(np.clip(DEVIATION / max(answer().std(), 1e-9), 1e-2, 1e2))
        for value in scales:
            value.set_value(value * ratio)
        error = (MEAN - answer().mean(axis=(0, 2, 3))) / spec.std
        shift.set_value(shift + paddle.to_tensor(error.astype(np.float32)).reshape(shift.shape))
    return float(answer().mean()), float(answer().std())


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("-o", "--override", nargs="*", default=[], help="generator.narrow=0.03125 ...")
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    overrides = [word for word in args.override if word.startswith("generator.")]
    config = load_config(args.config, overrides, without=("recipe", "data", "train", "evaluate"))
    paddle.seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002 - some initialisers of Paddle draw from it
    network = build(config.generator)
    network.eval()
    spec = spec_of(config, network, None)
    mean, deviation = calibrate(network, spec, read_faces(args.faces, spec))
    weights.save(network, args.output)
    print(f"{args.output}: answers with mean {mean:.1f} and deviation {deviation:.1f} grey levels")
    return 0 if abs(mean - MEAN) < 40 and 10 < deviation < 90 else 1


if __name__ == "__main__":
    sys.exit(main())
