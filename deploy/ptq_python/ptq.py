"""Quantises an exported network to 8 bits after training, calibrated with faces, and says what it costs.

python deploy/ptq_python/ptq.py --model_dir inference/gfpgan_mobile --save_dir inference/int8

Convolutions get 8-bit weights, a scale per output channel, and 8-bit inputs, a scale per tensor; everything else stays
as it is. The result is an export folder that `deploy/inference_python/infer.py --precision int8` reads. It is written
only when its answers are as close to the given network's as `--min_psnr` says, on faces that did not calibrate it.
Needs nothing beside PaddlePaddle, whose own quantisation does the work.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("GLOG_minloglevel", "2")

from deploy.restore_folder import DEMO, InferError, open_detector, parse
from ppgan_fr.face.align import AlignError, align, named_template
from ppgan_fr.face.image_io import ImageError, list_images, read_image
from ppgan_fr.face.restore import FIDELITY, to_tensor
from ppgan_fr.face.spec import ModelSpec, read_spec, write_spec
from ppgan_fr.inference import EngineError, paddle_run

MIN_PSNR = 40.0
"""Decibels below which an 8-bit network is not offered."""
CONVOLUTIONS = ["conv2d", "depthwise_conv2d"]


class PtqError(ValueError):
    """The network cannot be quantised, or not well enough. One line."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, also as `key=value`."""
    parser = argparse.ArgumentParser("ptq.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", type=Path, required=True, help="export folder with inference.yml")
    parser.add_argument("--save_dir", type=Path, required=True, help="export folder to write")
    parser.add_argument("--image_dir", type=Path, default=DEMO, help="photos, or face crops, to calibrate with")
    parser.add_argument("--detector_dir", type=Path, help="folder with yunet/ and onet/; default: the model's own")
    parser.add_argument("--count", type=int, default=8, help="faces to calibrate with; half as many more are compared")
    parser.add_argument("--algo", default="avg", help="of Paddle: avg, abs_max, mse, hist, KL")
    parser.add_argument("--min_psnr", type=float, default=MIN_PSNR, help="decibels that are wanted")
    parser.add_argument("--cpu_threads", type=int, default=None)
    parser.set_defaults(batch_size=1, upscale=1.0)  # what `parse` checks
    return parse(parser, given)


def faces(folder: Path, spec: ModelSpec, args: argparse.Namespace, count: int) -> list[np.ndarray]:
    """Crops for the network: the faces of photos, or square pictures as they are.

    Raises:
        PtqError: there is no face at all.
    """
    size = spec.size or 512
    template = named_template(spec.template if spec.template != "none" else "ffhq_512").at_size(size)
    detect = open_detector(_open, args)
    crops: list[np.ndarray] = []
    for path in list_images(folder):
        with contextlib.suppress(ImageError):
            image = read_image(path)
            found = []
            for face in detect(image):
                with contextlib.suppress(AlignError):
                    found.append(align(image, face, template).image)
            if not found and image.shape[0] == image.shape[1]:
                found = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)]
            crops += found
        if len(crops) >= count:
            return crops[:count]
    if not crops:
        raise PtqError(f"{folder}: no face to calibrate with")
    return crops


def _open(folder: Path, args: argparse.Namespace) -> object:
    return paddle_run(folder, cpu_threads=args.cpu_threads)


def feed(crop: np.ndarray, spec: ModelSpec) -> dict[str, np.ndarray]:
    """One picture as the network takes it.

    Raises:
        PtqError: the network wants something that a picture alone does not give.
    """
    arrays = {}
    for index, tensor in enumerate(spec.inputs):
        if index == 0:
            arrays[tensor.name] = to_tensor([crop], spec)
        elif tensor.name == "fidelity":
            arrays[tensor.name] = np.full([1, *tensor.shape[1:]], FIDELITY, np.float32)
        else:
            raise PtqError(f"{spec.arch}: cannot be calibrated with pictures alone, it also takes {tensor.name}")
    return arrays


def quantise(source: Path, target: Path, spec: ModelSpec, feeds: Sequence[dict[str, np.ndarray]], algo: str) -> None:
    """Writes the 8-bit model files into `target`.

    Raises:
        PtqError: the model is not a `.pdmodel`.
    """
    if not spec.model_file.endswith(".pdmodel"):
        raise PtqError(f"{source}: 8 bits need a .pdmodel; export with -o export.format=pdmodel")
    import paddle
    from paddle.static.quantization import PostTrainingQuantization

    paddle.enable_static()

    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield from feeds

    with paddle.pir_utils.OldIrGuard():
        work = PostTrainingQuantization(
            executor=paddle.static.Executor(paddle.CPUPlace()),
            model_dir=str(source),
            model_filename=spec.model_file,
            params_filename=spec.params_file,
            data_loader=batches,
            batch_nums=len(feeds),
            algo=algo,
            quantizable_op_type=CONVOLUTIONS,
            weight_quantize_type="channel_wise_abs_max",
            onnx_format=True,  # quantize_linear and dequantize_linear, which OpenVINO's reader knows
        )
        work.quantize()
        work.save_quantized_model(str(target), model_filename=spec.model_file, params_filename=spec.params_file)


def compare(
    source: Path, target: Path, feeds: Sequence[dict[str, np.ndarray]], threads: int | None
) -> tuple[float, float]:
    """The smallest agreement of both networks in decibels, of a range of 2, and how many times faster 8 bits are."""
    runs = [
        paddle_run(source, cpu_threads=threads),
        paddle_run(target, engine="openvino", precision="int8", cpu_threads=threads),
    ]
    seconds: list[list[float]] = [[], []]
    worst = math.inf
    for arrays in [feeds[0], *feeds]:  # the first call compiles
        answers = []
        for run, times in zip(runs, seconds):
            start = time.perf_counter()
            answers.append(run(arrays)[0])
            times.append(time.perf_counter() - start)
        error = float(np.mean((answers[0].astype(np.float64) - answers[1]) ** 2))
        worst = min(worst, math.inf if error == 0 else 10 * math.log10(4 / error))
    first, second = (float(np.median(times[1:])) for times in seconds)
    return worst, first / second


def run(given: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 with one line."""
    args = arguments(given)
    target = args.save_dir
    try:
        spec = read_spec(args.model_dir)
        crops = faces(args.image_dir, spec, args, args.count + max(1, args.count // 2))
        held_out = crops[args.count :] or crops[-1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        try:
            quantise(args.model_dir, folder, spec, [feed(crop, spec) for crop in crops[: args.count]], args.algo)
            quantised = dataclasses.replace(spec, engine="openvino", engines=("openvino/int8",))
            write_spec(quantised, folder)
            psnr, ratio = compare(args.model_dir, folder, [feed(crop, spec) for crop in held_out], args.cpu_threads)
            print(f"{len(crops[: args.count])} faces calibrated; {psnr:.1f} dB, {ratio:.2f} times the speed")
            if psnr < args.min_psnr:
                raise PtqError(f"{psnr:.1f} dB to the network of {args.model_dir}, {args.min_psnr:g} are wanted")
            for name in ("yunet", "onet"):
                if (args.model_dir / name).is_dir():
                    shutil.copytree(args.model_dir / name, folder / name)
            folder.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except (PtqError, EngineError, InferError, ImageError, FileNotFoundError) as error:
        print(f"ptq.py: {error}", file=sys.stderr)
        return 2
    print(f"quantised: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(run())
