"""The table of engines: one network, every way to run it that this machine has, in one interleaved run.

python benchmarks/engines.py --arch gfpgan --threads 2 --json output/engines.json
python benchmarks/engines.py -c configs/gfpgan_mobile.yaml

Each measurement is a process of its own (so that its peak memory is its own), and every round visits every engine, so
that a change of the machine's load meets all of them. Read the ratios. The eager network, which is slow, is visited in
the first round only. Weights are random unless -c names some: no engine's speed depends on them.

PyTorch's GFP-GAN is measured where `torch`, `gfpgan` and `basicsr` are installed (in the interpreter given by
--torch-python): for `--arch gfpgan` the same network with the same weights; for every other one GFP-GAN 1.4's network,
so that `x PyTorch` is always against what people use today.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GLOG_minloglevel", "2")


def main() -> int:
    """Prints the table; writes it as JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="gfpgan_mobile", help="a file in ppgan_fr/archs, with its default sizes")
    parser.add_argument("-c", "--config", help="a configuration instead of --arch; its weights when it names some")
    parser.add_argument("-o", "--override", nargs="*", action="extend", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--threads", type=int, default=None, help="default: every processor this process may use")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3, help="timed calls per process, after the first")
    parser.add_argument("--engines", nargs="*", help="only these, e.g. eager openvino/fp32")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter that has torch and gfpgan")
    parser.add_argument("--torch-path", default="", help="folders put before its PYTHONPATH, e.g. a GFPGAN checkout")
    parser.add_argument("--work", type=Path, help="keep what was prepared here, and find it again")
    parser.add_argument("--prepare", action="store_true", help="fill --work and stop")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(json.loads(args.worker))
    from ppgan_fr.inference import default_threads

    threads = args.threads or default_threads()
    with tempfile.TemporaryDirectory(prefix="ppgan_fr_bench_") as temporary:
        scratch = args.work or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        job = prepare(args, scratch)
        if args.prepare:
            return 0
        rows = measure(args, job, scratch, threads)
    print(table(rows))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        beside = args.json.with_name(f"{args.json.name}.part")
        beside.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        beside.replace(args.json)
    return 0


def measure(args: argparse.Namespace, job: dict[str, Any], scratch: Path, threads: int) -> list[dict[str, Any]]:
    """Visits every engine `rounds` times, the eager network once."""
    names = engines(args, job)
    peak = peak_gflops(threads, scratch)
    work = f"{job['macs'] / 1e9:.1f} GMAC" if job["macs"] else "any size"
    print(f"{job['arch']}: {work}, {threads} threads; {cpu()}; peak {peak}", file=sys.stderr)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(args.rounds):
        for name in names:
            if name == "eager" and number:
                continue
            runs = 1 if name == "eager" else args.runs
            answer = call_worker(args, {**job, "engine": name, "threads": threads, "runs": runs})
            if answer is not None:
                found[name].append(answer)
                print(f"round {number + 1} {name}: {min(answer['seconds']):.3f} s", file=sys.stderr)
    return [row(name, answers, found, job, peak) for name, answers in found.items() if answers]


def prepare(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Builds the network, saves its weights for eager and PyTorch, exports it, and converts it to ONNX if possible."""
    known = scratch / "job.json"
    if known.is_file():
        return json.loads(known.read_text(encoding="utf-8"))
    import paddle

    from ppgan_fr import export, weights
    from ppgan_fr.config import build, dump_config, find_file, load_config, make_config

    sections = ("recipe", "data", "train", "evaluate")
    if args.config:
        config = load_config(args.config, args.override, without=sections)
    else:
        config = make_config({"name": args.arch, "generator": {"arch": args.arch}}, args.override)
    paddle.seed(0)
    path = find_file(config.weights) if config.weights else None
    network = export.load_network(config.generator, path) if path else build(config.generator)
    network.eval()
    state = scratch / "weights.pdparams"
    weights.save(network, state)
    np.savez(scratch / "weights.npz", **{name: value.numpy() for name, value in network.state_dict().items()})
    (scratch / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    model = scratch / "model"
    model.mkdir()
    spec = export.spec_of(config, network, None)
    export.save(network, spec, model, fidelity=config.export.fidelity)
    export.write_spec(spec, model)
    np.savez(scratch / "input.npz", **example(spec))
    onnx = None
    if importlib.util.find_spec("paddle2onnx") and importlib.util.find_spec("onnxruntime"):
        from ppgan_fr.export_onnx import to_onnx

        try:
            to_onnx(model, model / "inference.onnx", batches=())  # the table compares
            onnx = str(model / "inference.onnx")
        except ValueError as error:
            print(f"onnx: {error}", file=sys.stderr)
    section = config.generator.model_dump(mode="json")
    job = {
        "arch": config.generator.arch,
        "scratch": str(scratch),
        "model": str(model),
        "onnx": onnx,
        "torch": section if config.generator.arch == "gfpgan" else gfpgan_14(),
        "macs": count_macs(model, spec) if all(side > 0 for side in spec.inputs[0].shape[1:]) else None,
    }
    known.write_text(json.dumps(job), encoding="utf-8")
    return job


def example(spec: Any) -> dict[str, np.ndarray]:
    """One picture; where any size will do, 640 x 480 pixels."""
    from ppgan_fr import export

    sides = iter((480, 640))
    free = [
        dataclasses.replace(tensor, shape=(-1, *(next(sides) if side < 0 else side for side in tensor.shape[1:])))
        for tensor in spec.inputs
    ]
    return export.example_inputs(dataclasses.replace(spec, inputs=tuple(free)), 1)


def gfpgan_14() -> dict[str, Any]:
    """The network of GFP-GAN 1.2 to 1.4, as a `generator` section."""
    from ppgan_fr.archs.gfpgan import Config

    return Config(variant="clean", out_size=512, channel_multiplier=2).model_dump(mode="json")


def count_macs(model: Path, spec: Any) -> int:
    """Multiply-adds of one picture, counted in the exported program: convolutions and matrix products."""
    import paddle

    with paddle.pir_utils.OldIrGuard():
        program = paddle.static.Program.parse_from_string((model / spec.model_file).read_bytes())
    block = program.global_block()
    return sum(_macs_of(block, operator) for operator in block.ops)


def _macs_of(block: Any, operator: Any) -> int:
    def shape(name: str) -> list[int]:
        return [1 if side < 0 else side for side in block.var(name).shape]

    if operator.type in ("conv2d", "depthwise_conv2d"):
        out, kernel = shape(operator.output("Output")[0]), shape(operator.input("Filter")[0])
        return int(np.prod(kernel)) * out[2] * out[3]
    if operator.type in ("conv2d_transpose", "depthwise_conv2d_transpose"):
        given, kernel = shape(operator.input("Input")[0]), shape(operator.input("Filter")[0])
        return int(np.prod(kernel)) * given[2] * given[3]
    if operator.type in ("matmul_v2", "matmul", "mul"):
        out, first = shape(operator.output("Out")[0]), shape(operator.input("X")[0])
        return int(np.prod(out)) * first[-1]
    return 0


def engines(args: argparse.Namespace, job: dict[str, Any]) -> list[str]:
    """Everything that can be measured here; eager first."""
    from ppgan_fr.inference import offered

    names = ["eager", *(f"{engine}/{precision}" for engine, precision in offered())]
    if job["onnx"]:
        names.append("onnxruntime/fp32")
        if importlib.util.find_spec("openvino"):
            names += ["openvino-native/fp32", "openvino-native/bf16"]
    if _torch_has_gfpgan(args):
        names.append("pytorch/fp32")
    return [name for name in names if not args.engines or name in args.engines]


def _torch_has_gfpgan(args: argparse.Namespace) -> bool:
    command = [args.torch_python, str(Path(__file__).with_name("torch_gfpgan.py"))]
    return subprocess.run(command, env=_env(args, "pytorch"), check=False).returncode == 0


def _env(args: argparse.Namespace, name: str) -> dict[str, str]:
    folders = [args.torch_path if name.startswith("pytorch") else "", os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders)), "OMP_WAIT_POLICY": "passive"}


def call_worker(args: argparse.Namespace, job: dict[str, Any]) -> dict[str, Any] | None:
    """One process: load, first call, timed calls."""
    name = job["engine"]
    python = args.torch_python if name.startswith("pytorch") else sys.executable
    command = [python, str(Path(__file__).resolve()), "--worker", json.dumps(job)]
    env = {**_env(args, name), "OMP_NUM_THREADS": str(job["threads"])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"{name}: {reason}", file=sys.stderr)
        return None
    return json.loads(lines[-1])


# --- in the process of one engine ------------------------------------------------------------------------------------


def worker(job: dict[str, Any]) -> int:
    """Measures one engine and prints one line of JSON."""
    with np.load(Path(job["scratch"]) / "input.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    start = time.perf_counter()
    run = open_engine(job)
    load = time.perf_counter() - start
    start = time.perf_counter()
    answer = run(arrays)
    first = time.perf_counter() - start
    seconds = []
    for _ in range(job["runs"]):
        start = time.perf_counter()
        run(arrays)
        seconds.append(time.perf_counter() - start)
    np.save(Path(job["scratch"]) / f"{job['engine'].replace('/', '_')}.npy", answer)
    print(json.dumps({"load": load, "first": first, "seconds": seconds, "memory": peak_memory_mb()}))
    return 0


def peak_memory_mb() -> float:
    """Most memory this process has held; getrusage would count the parent's at the moment of the fork as well."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:  # not on this system
        return float("nan")
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: nan")
    return float(line.split()[1]) / 1024


def open_engine(job: dict[str, Any]) -> Any:
    """A function from arrays to the first output."""
    engine, _, precision = job["engine"].partition("/")
    if engine == "eager":
        return _eager(job)
    if engine == "onnxruntime":
        from deploy.onnx_python.infer import ort_run

        session = ort_run(Path(job["onnx"]), job["threads"])
        return lambda arrays: session(arrays)[0]
    if engine == "openvino-native":
        return _openvino(job, precision)
    if engine == "pytorch":
        return _pytorch(job)
    from ppgan_fr.inference import paddle_run

    run = paddle_run(job["model"], engine=engine, precision=precision, cpu_threads=job["threads"])
    return lambda arrays: run(arrays)[0]


def _eager(job: dict[str, Any]) -> Any:
    import paddle

    from ppgan_fr import export
    from ppgan_fr.config import load_config

    config = load_config(Path(job["scratch"]) / "config.yaml")
    network = export.load_network(config.generator, Path(job["scratch"]) / "weights.pdparams")

    def run(arrays: dict[str, np.ndarray]) -> np.ndarray:
        with paddle.no_grad():
            answer = network(*(paddle.to_tensor(value) for value in arrays.values()))
        return (answer[0] if isinstance(answer, (list, tuple)) else answer).numpy()

    return run


def _openvino(job: dict[str, Any], precision: str) -> Any:
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": job["threads"],
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    from ppgan_fr.face.spec import read_spec

    core = openvino.Core()
    single = read_spec(job["model"]).single_file  # what Paddle's engine gets
    network = core.read_model(Path(job["model"]) / single if single else job["onnx"])
    network.reshape({tensor: [1, *list(tensor.partial_shape)[1:]] for tensor in network.inputs})
    model = core.compile_model(network, "CPU", options)
    names = [tensor.any_name for tensor in model.inputs]
    return lambda arrays: model([arrays[name] for name in names])[0]


def _pytorch(job: dict[str, Any]) -> Any:
    import torch

    from benchmarks import torch_gfpgan

    torch.set_num_threads(job["threads"])
    network = torch_gfpgan.gfpgan(job["torch"])
    if job["arch"] == "gfpgan":
        torch_gfpgan.load(network, Path(job["scratch"]) / "weights.npz")

    def run(given: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            picture = torch.from_numpy(next(iter(given.values())))
            return network(picture, return_rgb=False, randomize_noise=False)[0].numpy()

    return run


# --- numbers ---------------------------------------------------------------------------------------------------------


def row(
    name: str, answers: list[dict], found: dict[str, list[dict]], job: dict[str, Any], peak: dict[str, float]
) -> dict[str, Any]:
    """One line of the table."""
    engine, _, precision = name.partition("/")
    precision = precision or "fp32"
    seconds = _median(answers)
    eager = _median(found["eager"]) if found.get("eager") else None
    limit = peak.get(precision)
    if not job["macs"] or (engine == "pytorch" and job["arch"] != "gfpgan"):  # another network, another amount of work
        limit = None
    return {
        "engine": engine,
        "precision": precision,
        "seconds": round(seconds, 4),
        "ratio_to_eager": None if eager is None else round(eager / seconds, 3),
        "ratio_to_pytorch": round(_median(found["pytorch/fp32"]) / seconds, 3) if found.get("pytorch/fp32") else None,
        "load_seconds": round(statistics.median(answer["load"] for answer in answers), 3),
        "first_seconds": round(statistics.median(answer["first"] for answer in answers), 3),
        "peak_memory_mb": round(max(answer["memory"] for answer in answers), 1),
        "psnr_to_eager": _psnr(job, name),
        "fraction_of_peak": None if limit is None else round(2e-9 * job["macs"] / seconds / limit, 3),
    }


def _median(answers: list[dict]) -> float:
    return statistics.median(second for answer in answers for second in answer["seconds"])


def _psnr(job: dict[str, Any], name: str) -> float | None:
    scratch = Path(job["scratch"])
    eager, other = scratch / "eager.npy", scratch / f"{name.replace('/', '_')}.npy"
    if name == "eager" or not eager.is_file() or not other.is_file():
        return None
    if name.startswith("pytorch") and job["arch"] != "gfpgan":  # another network
        return None
    reference, value = np.load(eager).astype(np.float64), np.load(other).astype(np.float64)
    scale = max(1.0, float(np.abs(reference).max()))
    error = float(np.mean(((reference - value) / scale) ** 2))
    return 999.0 if error == 0 else round(float(10 * np.log10(4 / error)), 1)


def peak_gflops(threads: int, scratch: Path) -> dict[str, float]:
    """Measured multiply-add peak by precision; numpy's matrix product where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    program = scratch / "peak"
    source = Path(__file__).with_name("peak.c")
    if compiler:
        command = [compiler, "-O2", "-march=native", str(source), "-o", str(program), "-lpthread"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            done = subprocess.run([str(program), str(threads)], capture_output=True, text=True, check=True)
            fp32, bf16 = map(float, done.stdout.split())
            return {"fp32": fp32, "bf16": bf16} if bf16 else {"fp32": fp32}
    a = np.random.default_rng(0).random((2048, 2048), np.float32)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start) * 1e-9)
    return {"fp32": round(best, 1)}


def cpu() -> str:
    """The processor by what it can do."""
    from ppgan_fr.inference import cpu_flags

    flags = cpu_flags()
    known = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "fma")
    name = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    return f"{name} with {', '.join(flag for flag in known if flag in flags)}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    columns = {
        "engine": "engine",
        "precision": "precision",
        "seconds": "median s",
        "ratio_to_eager": "x eager",
        "ratio_to_pytorch": "x PyTorch",
        "load_seconds": "load s",
        "first_seconds": "first s",
        "peak_memory_mb": "peak MB",
        "psnr_to_eager": "dB to eager",
        "fraction_of_peak": "of peak",
    }
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    for one in sorted(rows, key=lambda one: one["seconds"]):
        lines.append("| " + " | ".join("" if one[key] is None else str(one[key]) for key in columns) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
