"""Exported networks as `Run` functions, through Paddle Inference: what `predict` and `deploy/inference_python` share.

The predictor lives in one extension module of the wheel. Importing the whole of Paddle for it takes a second and more;
loading that module alone takes a quarter of that, and a later `import paddle` in the same process finds it in place.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import importlib.machinery
import importlib.util
import itertools
import os
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from ppgan_fr.face.spec import ModelSpec, read_spec
from ppgan_fr.face.types import Run

ENGINES = ("openvino", "onednn", "paddle")
"""Fastest first: the OpenVINO engine inside Paddle Inference, oneDNN, and Paddle's own kernels."""
PRECISIONS = ("fp32", "bf16")
_CORE = "paddle.base.libpaddle"
_FLOAT32, _BFLOAT16 = 10, 16  # of `phi::DataType`
_ENGINE_NUMBERS = itertools.count()
_ENGINES_LEFT: dict[tuple[Any, ...], list[str]] = {}
"""Keys of OpenVINO engines that nobody uses any more, by what they were made from. Paddle keeps an engine as long as
the process lives, so the next who loads the same model takes one over instead of making another."""


class EngineError(ValueError):
    """This Paddle, this processor or this model cannot do what was asked. One line."""


def core() -> Any:
    """Paddle's extension module, loaded without the rest of Paddle when nothing else has imported Paddle yet.

    Raises:
        ModuleNotFoundError: Paddle is not installed.
    """
    if _CORE in sys.modules:
        return sys.modules[_CORE]
    os.environ.setdefault("GLOG_minloglevel", "2")
    found = importlib.util.find_spec("paddle")
    if found is None:
        raise ModuleNotFoundError("No module named 'paddle'", name="paddle")
    library = Path(next(iter(found.submodule_search_locations or ("",)))) / "base" / "libpaddle.so"
    if library.is_file() and "paddle" not in sys.modules:
        loader = importlib.machinery.ExtensionFileLoader(_CORE, str(library))
        spec = importlib.util.spec_from_file_location(_CORE, library, loader=loader)
        try:
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
        except ImportError:  # a build whose libraries are found by Paddle's own start-up code
            pass
        else:
            sys.modules[_CORE] = module
            return module
    importlib.import_module("paddle.base.core")
    return sys.modules[_CORE]


def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the words of Linux; empty where that cannot be asked."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 numbers itself."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def offered(model_file: str = "inference.pdmodel") -> list[tuple[str, str]]:
    """The (engine, precision) pairs that this build and this processor have for a model of this form."""
    config = core().AnalysisConfig
    pairs = [("paddle", "fp32")]
    if hasattr(config, "enable_mkldnn"):
        pairs.insert(0, ("onednn", "fp32"))
    if model_file.endswith(".pdmodel") and _has_openvino():
        pairs.insert(0, ("openvino", "fp32"))
        if has_bf16():
            pairs.append(("openvino", "bf16"))
    if hasattr(config, "enable_mkldnn_bfloat16") and has_bf16():
        pairs.append(("onednn", "bf16"))
    return pairs


def _has_openvino() -> bool:
    module = core()
    libraries = Path(module.__file__).resolve().parent.parent / "libs"
    return hasattr(module.AnalysisConfig, "enable_openvino_engine") and any(libraries.glob("libopenvino*"))


def default_threads() -> int:
    """As many threads as this process may use processors; `PPGAN_CPU_THREADS` says otherwise, for many processes on
    one machine.
    """
    said = os.environ.get("PPGAN_CPU_THREADS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_engine(spec: ModelSpec, engine: str | None, precision: str, use_gpu: bool = False) -> str:
    """The engine to use: the one asked for, or the one that was found fastest at export, if it exists here.

    Raises:
        EngineError: it does not exist here, with the reason.
    """
    if precision not in PRECISIONS:
        raise EngineError(f"precision: must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if use_gpu:
        return "paddle"
    pairs = offered(spec.model_file)
    if engine is None:
        candidates = [name for name, kind in pairs if kind == precision]
        recorded = [name for name in candidates if f"{name}/{precision}" in spec.engines]
        if spec.engine in candidates and (not recorded or spec.engine in recorded):
            return spec.engine
        if recorded or candidates:
            return (recorded or candidates)[0]
        raise EngineError(f"precision {precision}: this processor has neither avx512_bf16 nor amx_bf16")
    if engine not in ENGINES:
        raise EngineError(f"engine: must be one of {', '.join(ENGINES)}, got {engine!r}")
    if (engine, precision) in pairs:
        return engine
    if precision == "bf16" and not has_bf16():
        raise EngineError("precision bf16: this processor has neither avx512_bf16 nor amx_bf16")
    if (engine, "fp32") in pairs:
        raise EngineError(f"engine {engine} has no {precision}")
    if engine == "openvino" and not spec.model_file.endswith(".pdmodel"):
        raise EngineError(f"engine openvino reads .pdmodel only, this model is {spec.model_file}")
    raise EngineError(f"engine {engine}: this build of Paddle does not have it")


def paddle_run(
    directory: str | Path,
    *,
    engine: str | None = None,
    precision: str = "fp32",
    cpu_threads: int | None = None,
    use_gpu: bool = False,
    use_tensorrt: bool = False,
    gpu_id: int = 0,
) -> Run:
    """Loads an exported network.

    Args:
        directory: an export folder with `inference.yml`.
        engine: of `ENGINES`; None: the fastest of the export.
        precision: "fp32", or "bf16" on processors that have it.
        cpu_threads: None: every processor this process may use.
        use_gpu: run on a GPU; needs a build of Paddle with CUDA.
        use_tensorrt: also compile for TensorRT; needs a build that has it.
        gpu_id: which GPU.

    Returns:
        A function from named float32 arrays to the list of outputs. Calls from several threads wait for each other.

    Raises:
        EngineError: the engine does not exist here, or cannot load the model.
        SpecError: there is no readable `inference.yml`.
    """
    directory = Path(directory)
    spec = read_spec(directory)
    module = core()
    if use_gpu and not module.is_compiled_with_cuda():
        raise EngineError("use_gpu: this build of Paddle has no CUDA; install paddlepaddle-gpu")
    if use_tensorrt and not use_gpu:
        raise EngineError("use_tensorrt: TensorRT runs on a GPU; pass use_gpu as well")
    chosen = choose_engine(spec, engine, precision, use_gpu)
    single = spec.single_file if chosen == "openvino" else None
    model, parameters = directory / (single or spec.model_file), directory / spec.params_file
    if single:
        parameters = model.with_suffix(".pdiparams")
    for path in (model, parameters):
        if not path.is_file():
            raise EngineError(f"{path}: no such file")
        size, whole = path.stat().st_size, spec.file_bytes.get(path.name)
        if whole not in (None, size):  # half a file of parameters would be read without complaint
            raise EngineError(f"{path}: damaged, {size} bytes instead of {whole}")
    threads = cpu_threads or default_threads()
    try:
        if chosen == "openvino":
            predictor = _openvino_predictor(module, model, parameters, precision, threads)
        else:
            if model.suffix == ".pdmodel":
                _parsed(module, model)
            config = module.AnalysisConfig(str(model), str(parameters))
            config.disable_glog_info()
            config.switch_ir_optim(True)
            config.enable_memory_optim()
            if not spec.model_file.endswith(".pdmodel"):
                config.enable_new_executor(True)
            if use_gpu:
                config.enable_use_gpu(256, gpu_id)
                if use_tensorrt:
                    _enable_tensorrt(config, module, precision)
            else:
                config.disable_gpu()
                _set_cpu_engine(config, chosen, precision, threads)
            predictor = module.create_predictor(config)
    except EngineError:
        raise
    except (RuntimeError, ValueError, OSError, SystemError) as error:
        raise EngineError(f"{directory}: engine {chosen} cannot load it ({_first_line(error)})") from None
    _return_freed_memory()
    run = _as_run(predictor, chosen)
    return _one_by_one(run) if single else run


def _openvino_predictor(module: Any, model: Path, parameters: Path, precision: str, threads: int) -> Any:
    """A predictor of a program that is OpenVINO's engine and nothing else.

    `enable_openvino_engine` arrives at the same program, but loads the parameters and runs its passes over every
    operator before, and makes OpenVINO write what it compiled to a file, as large as the parameters, that nobody reads.
    """
    written = _parsed(module, model)  # must outlive what is read from it
    given = written.block(0)
    operators = [given.op(i) for i in range(given.op_size())]
    names = {
        "feed": [op.output("Out")[0] for op in operators if op.type() == "feed"],
        "fetch": [op.input("X")[0] for op in operators if op.type() == "fetch"],
    }
    if not all(names.values()):
        raise EngineError(f"{model}: not an inference program")
    shapes = {name: list(given.find_var(name.encode()).shape()) for name in names["feed"] + names["fetch"]}
    made_from = (*map(_identity, (model, parameters)), precision, threads)
    left = _ENGINES_LEFT.setdefault(made_from, [])
    key = left.pop() if left else f"{model.resolve()} {next(_ENGINE_NUMBERS)}"
    program = _engine_program(
        module,
        names["feed"],
        names["fetch"],
        shapes,
        {
            "model_program_path": str(model.resolve()),
            "model_params_path": str(parameters.resolve()),
            "model_opt_cache_dir": "",
            "inference_precision": _BFLOAT16 if precision == "bf16" else _FLOAT32,
            "inference_num_threads": threads,
            "engine_key": key,
        },
    )
    config = module.AnalysisConfig()
    config.set_model_buffer(program, len(program), b"", 0)
    config.disable_glog_info()
    config.disable_gpu()
    config.switch_ir_optim(False)
    if hasattr(config, "disable_mkldnn"):
        config.disable_mkldnn()
    config.set_cpu_math_library_num_threads(threads)
    predictor = module.create_predictor(config)
    # The engine is made by the first run. Where every side is known, that one is refused for its number of axes before
    # anything is computed; where not, it is a small one.
    known = all(min(shapes[name]) > 0 for name in names["feed"])
    for name in names["feed"]:
        shape = [1] if known else [side if side > 0 else 64 if axis else 1 for axis, side in enumerate(shapes[name])]
        handle = predictor.get_input_handle(name)
        handle.reshape(shape)
        handle._copy_from_cpu_bind(np.zeros(shape, np.float32))
    try:
        predictor.run()
    except RuntimeError as error:
        if not known or "requires input_shape" not in str(error):
            raise
    weakref.finalize(predictor, left.append, key)
    return predictor


def _identity(path: Path) -> tuple[str, int, int]:
    about = path.stat()
    return str(path.resolve()), about.st_size, about.st_mtime_ns


def _parsed(module: Any, model: Path) -> Any:
    """The program of a `.pdmodel`; asked first, because a predictor ends the process over a file of zeros.

    Raises:
        EngineError: it is none.
    """
    try:
        program = module.ProgramDesc(model.read_bytes())
    except ValueError:
        program = None
    if program is None or not program.num_blocks():
        raise EngineError(f"{model}: not a program of Paddle, or a damaged one")
    return program


def _engine_program(
    module: Any, inputs: list[str], outputs: list[str], shapes: dict[str, list[int]], attributes: dict[str, Any]
) -> bytes:
    """Feed, the OpenVINO engine with these attributes, fetch; serialised."""
    program = module.ProgramDesc()
    block, kinds = program.block(0), module.VarDesc.VarType
    for name, kind in (("feed", kinds.FEED_MINIBATCH), ("fetch", kinds.FETCH_LIST)):
        variable = block.var(name.encode())
        variable.set_type(kind)
        variable.set_persistable(True)
    for name in inputs + outputs:
        variable = block.var(name.encode())
        variable.set_type(kinds.DENSE_TENSOR)
        variable.set_shape(shapes[name])
        variable.set_dtype(kinds.FP32)

    def add(kind: str, taken: tuple[str, list[str]], made: tuple[str, list[str]], said: dict[str, Any]) -> None:
        op = block.append_op()
        op.set_type(kind)
        op.set_input(*taken)
        op.set_output(*made)
        for name, value in said.items():
            op._set_attr(name, value)

    for column, name in enumerate(inputs):
        add("feed", ("X", ["feed"]), ("Out", [name]), {"col": column})
    kinds_made = {"origin_fetch_outputs_dtype": [int(kinds.FP32)] * len(outputs)}
    add("openvino_engine", ("Xs", inputs), ("Ys", outputs), {**attributes, **kinds_made})
    for column, name in enumerate(outputs):
        add("fetch", ("X", [name]), ("Out", ["fetch"]), {"col": column})
    return program.serialize_to_string()


def _return_freed_memory() -> None:
    """Gives the memory that loading took and freed, nearly the size of the parameters, back to the system.

    glibc would keep it, and the first run takes new memory for its features beside it.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _one_by_one(run: Run) -> Run:
    """Takes a batch apart for a network that wants one picture at a time."""

    def run_each(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        count = len(next(iter(arrays.values())))
        answers = [run({name: value[i : i + 1] for name, value in arrays.items()}) for i in range(count)]
        return [np.concatenate(pictures) for pictures in zip(*answers)]

    return run_each


def _set_cpu_engine(config: Any, engine: str, precision: str, threads: int) -> None:
    config.set_cpu_math_library_num_threads(threads)
    if engine == "onednn":
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(4)  # one entry per input shape; without a limit it grows with every new one
        if precision == "bf16":
            config.enable_mkldnn_bfloat16()
    elif hasattr(config, "disable_mkldnn"):
        config.disable_mkldnn()


def _enable_tensorrt(config: Any, module: Any, precision: str) -> None:
    kind = module.AnalysisConfig.Precision
    try:
        config.enable_tensorrt_engine(
            workspace_size=1 << 30,
            max_batch_size=1,
            min_subgraph_size=3,
            precision_mode=kind.Bfloat16 if precision == "bf16" else kind.Float32,
            use_static=False,
            use_calib_mode=False,
        )
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"use_tensorrt: this build of Paddle does not have it ({_first_line(error)})") from None


def _as_run(predictor: Any, engine: str) -> Run:
    inputs = predictor.get_input_names()
    outputs = predictor.get_output_names()
    lock = threading.Lock()

    def run(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        missing = [name for name in inputs if name not in arrays]
        if missing:
            raise EngineError(f"the network wants {', '.join(inputs)}; {missing[0]} is missing")
        with lock:
            for name in inputs:
                value = np.ascontiguousarray(arrays[name])
                handle = predictor.get_input_handle(name)
                handle.reshape(value.shape)
                handle._copy_from_cpu_bind(value)
            try:
                predictor.run()
            except (RuntimeError, ValueError, SystemError) as error:
                raise EngineError(f"engine {engine} cannot run the network ({_first_line(error)})") from None
            return [np.array(predictor.get_output_handle(name).copy_to_cpu()) for name in outputs]

    return run


def _first_line(error: BaseException) -> str:
    """The sentence of Paddle's long error reports that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error:" in line and "Message Summary" not in line]
    return (told or lines or [type(error).__name__])[0][:300]


def main(arguments: list[str] | None = None) -> int:
    """Runs every batch of an `.npz` twice and writes answers and seconds: export compares engines in own processes.

    A wrong engine may end the process; that must not be the process of the export.
    """
    parser = argparse.ArgumentParser("ppgan_fr.inference", description=main.__doc__)
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--engine", choices=ENGINES)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--cpu_threads", type=int)
    parser.add_argument("--inputs", required=True, help=".npz with arrays `<batch>/<input>`")
    parser.add_argument("--outputs", required=True, help=".npz with `<batch>/<output>`, repeated and seconds")
    args = parser.parse_args(arguments)
    with np.load(args.inputs, allow_pickle=False) as file:
        given = {key: file[key] for key in file.files}
    try:
        run = paddle_run(args.model_dir, engine=args.engine, precision=args.precision, cpu_threads=args.cpu_threads)
        answers: dict[str, np.ndarray] = {}
        for batch in sorted({key.partition("/")[0] for key in given}, key=int):
            arrays = {key.partition("/")[2]: value for key, value in given.items() if key.startswith(f"{batch}/")}
            first = run(arrays)
            start = time.perf_counter()
            second = run(arrays)
            seconds = [time.perf_counter() - start]
            while sum(seconds) < 0.5 and len(seconds) < 5:  # a short time says little: the best of a few
                start = time.perf_counter()
                run(arrays)
                seconds.append(time.perf_counter() - start)
            answers[f"seconds/{batch}"] = np.array(min(seconds))
            answers[f"repeats/{batch}"] = np.array(
                all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second))
            )
            answers.update({f"{batch}/{i}": value for i, value in enumerate(second)})
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    np.savez(args.outputs, **answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
