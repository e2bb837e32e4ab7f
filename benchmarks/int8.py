"""An experiment: an exported restorer in 8 bits by OpenVINO's own quantisation after training, beside fp32 and bf16.

python benchmarks/int8.py --model_dir inference/gfpgan_mobile --faces data/faces --count 16

Needs `openvino` and `nncf` (not in the requirements: nothing that ships uses them; Paddle's engine cannot read the
result). Calibrates on degraded faces of a folder, compares on others of it. Prints decibels against fp32 and seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    """Prints one line per precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", type=Path, required=True, help="an export folder")
    parser.add_argument("--faces", type=Path, required=True, help="aligned faces")
    parser.add_argument("--count", type=int, default=16, help="faces to calibrate with")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    import nncf
    import openvino

    from ppgan_fr.face.spec import read_spec

    spec = read_spec(args.model_dir)
    inputs = degraded(args.faces, args.count + 8, spec)
    if len(inputs) <= args.count:
        parser.error(f"{args.faces}: {len(inputs)} pictures, more than --count {args.count} are needed")
    core = openvino.Core()
    model = core.read_model(args.model_dir / spec.model_file)
    model.reshape({tensor: [1, *list(tensor.partial_shape)[1:]] for tensor in model.inputs})
    calibration = nncf.Dataset(inputs[: args.count])
    quantised = nncf.quantize(
        model, calibration, preset=nncf.QuantizationPreset.MIXED, subset_size=args.count, fast_bias_correction=True
    )
    options = {"INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = {
        name: core.compile_model(network, "CPU", {**options, "INFERENCE_PRECISION_HINT": hint})
        for name, network, hint in (("fp32", model, "f32"), ("bf16", model, "bf16"), ("int8", quantised, "f32"))
    }
    compiled["int8, bf16 between"] = core.compile_model(
        quantised, "CPU", {**options, "INFERENCE_PRECISION_HINT": "bf16"}
    )
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    errors: dict[str, list[float]] = {name: [] for name in compiled}
    for picture in inputs[args.count :]:
        expected = compiled["fp32"](picture)[0]
        for name, network in compiled.items():
            errors[name].append(float(np.mean((network(picture)[0].astype(np.float64) - expected) ** 2)))
    for _ in range(args.rounds):
        for name, network in compiled.items():
            start = time.perf_counter()
            network(inputs[0])
            seconds[name].append(time.perf_counter() - start)
    for name in compiled:
        loss = float(np.mean(errors[name]))
        psnr = "" if loss == 0 else f"{10 * np.log10(4 / loss):.1f} dB"
        print(f"{name:<20} {statistics.median(seconds[name]):.3f} s  {psnr}")
    return 0


def degraded(folder: Path, count: int, spec) -> list[dict[str, np.ndarray]]:
    """Inputs of the network: faces of a folder, made two to six times smaller and compressed."""
    import cv2

    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg"))[:count]
    found = []
    for i, path in enumerate(files):
        picture = cv2.resize(cv2.imread(str(path)), (spec.size, spec.size), interpolation=cv2.INTER_AREA)
        small = cv2.resize(picture, None, fx=1 / (2 + i % 5), fy=1 / (2 + i % 5), interpolation=cv2.INTER_AREA)
        _, packed = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 40 + i % 4 * 15])
        picture = cv2.resize(cv2.imdecode(packed, cv2.IMREAD_COLOR), (spec.size, spec.size))
        tensor = (picture[..., ::-1].astype(np.float32) - spec.mean) / spec.std
        extra = {other.name: np.full((1, *other.shape[1:]), 0.5, np.float32) for other in spec.inputs[1:]}
        found.append({spec.inputs[0].name: np.ascontiguousarray(tensor.transpose(2, 0, 1)[None]), **extra})
    return found


if __name__ == "__main__":
    sys.exit(main())
