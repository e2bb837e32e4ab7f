"""Training from a configuration: build, resume, step, log, save, evaluate. One loop for every recipe."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from ppgan_fr import weights
from ppgan_fr.config import Config, ConfigError, build, dump_config, find_file
from ppgan_fr.data.datasets import dataset
from ppgan_fr.data.loader import Loader
from ppgan_fr.metrics import BETTER
from ppgan_fr.train import checkpoint, distributed, log
from ppgan_fr.train.recipe import Batch, Recipe, Terms, lr_factor
from ppgan_fr.train.step import DivergedError, Stepper, check_finite

LOGGER = log.LOGGER


class StoppedError(ValueError):
    """The run was asked to stop (SIGTERM, SIGINT) and saved what it had."""


@dataclass
class Run:
    """A training run between two steps."""

    config: Config
    generator: nn.Layer
    recipe: Recipe
    stepper: Stepper
    output_dir: Path
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def latest(self) -> Path:
        """The folder of the newest checkpoint."""
        return self.output_dir / "latest"


def train(config: Config) -> None:
    """Trains until `train.total_steps`.

    Raises:
        ConfigError: a section that training needs is missing.
        DataError, WeightsError, CheckpointError: something it needs cannot be read.
        DivergedError: a loss became NaN or infinite; the last checkpoint is kept.
        StoppedError: a signal ended the run after its step; the checkpoint is written.
        ProcessLostError: another process of the run ended.
    """
    settings, data = _needed(config)
    set_device(config.device)
    distributed.start()
    first = distributed.rank() == 0
    output_dir = Path(config.output_dir)
    log.set_up(output_dir if first else None)
    run = start(config)
    source = dataset(data)
    loader = Loader(
        source,
        seed=config.seed,
        batch_size=data.batch_size,
        workers=data.num_workers,
        max_bad_fraction=data.max_bad_fraction,
        process=distributed.rank(),
        processes=distributed.world_size(),
    )
    if first:
        LOGGER.info("%s: %d pictures, %s", data.root, len(source), _sizes(run.recipe))
        if settings.precision != "float32" and paddle.device.get_device() == "cpu":
            LOGGER.info("train.precision: a CPU computes in float32 all the same")
    if run.step == 0 and first and not settings.benchmark:
        save(run)  # from the first moment there is something to go back to
    journal = log.Journal(output_dir, settings.visualdl) if first else None
    try:
        with _signals(run) as asked:
            _steps(run, loader, journal, asked)
    except DivergedError as error:
        kept = checkpoint.find(run.latest)
        where = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
        raise DivergedError(f"{error}; stopped, {where}") from None
    except distributed.ProcessLostError as error:
        raise distributed.ProcessLostError(
            f"{error}; stopped at step {run.step}, continue with --resume from {run.latest}"
        ) from None
    finally:
        if journal is not None:
            journal.close()
        if loader.bad:
            LOGGER.warning("data: %d of %d files could not be used", len(loader.bad), len(source))


def start(config: Config) -> Run:
    """Builds everything a run needs and, when asked, puts it back to where the checkpoint was."""
    settings, data = _needed(config)
    paddle.seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002 - some initialisers of Paddle draw from it
    generator = build(config.generator)
    load_initial_weights(config, generator)
    recipe: Recipe = build(config.recipe, generator)
    for network in recipe.networks.values():
        network.train()
        distributed.same_start(network)
    missing = set(recipe.batch_keys) - _keys(data)
    if missing:
        raise ConfigError(f"data: the recipe needs {', '.join(sorted(missing))}, which this section does not give")
    stepper = Stepper(recipe, precision=settings.precision, seed=config.seed)
    run = Run(config, generator, recipe, stepper, Path(config.output_dir))
    if settings.resume:
        resume(run)
    if settings.to_static:
        paddle.jit.to_static(generator)
    return run


def load_initial_weights(config: Config, generator: nn.Layer) -> None:
    """Loads `weights` into the whole generator, or `generator.decoder_load_path` into its decoder (the prior)."""
    prior = getattr(config.generator, "decoder_load_path", None)
    if prior:
        weights.load_into(generator.stylegan_decoder, find_file(prior))
    if config.weights:
        weights.load_into(generator, find_file(config.weights))


def save(run: Run) -> None:
    """Writes `latest/` and, at the steps asked for, its copy `step_<n>/`."""
    networks = {name: network.state_dict() for name, network in run.recipe.networks.items()}
    if run.stepper.ema is not None:
        networks["generator_ema"] = run.stepper.ema.state_dict()
    slots = {
        phase.name: checkpoint.optimizer_state(run.stepper.optimizers[phase.name], phase.network)
        for phase in run.recipe.phases
    }
    scalers = {name: _plain(scaler.state_dict()) for name, scaler in run.stepper.scalers.items() if scaler.is_enable()}
    counters = {"step": run.step, "best": run.best, "scalers": scalers}
    checkpoint.save(run.latest, checkpoint.Checkpoint(networks, slots, counters, dump_config(run.config)))
    every = run.config.train.milestone_every if run.config.train else 0
    if every and run.step and run.step % every == 0:
        checkpoint.copy(run.latest, run.output_dir / f"step_{run.step:08d}")


def resume(run: Run) -> None:
    """Continues from `latest/`, exactly; without a checkpoint the run starts at its beginning."""
    folder = checkpoint.find(run.latest)
    if folder is None:
        LOGGER.warning("nothing to resume in %s: starting at step 0", run.latest)
        return
    kept = checkpoint.load(folder)
    wanted = [*run.recipe.networks, *(["generator_ema"] if run.stepper.ema is not None else [])]
    missing = [name for name in wanted if name not in kept.networks]
    if missing:
        raise checkpoint.CheckpointError(f"{folder}: has no {', '.join(missing)}; was another recipe trained there?")
    for name, network in run.recipe.networks.items():
        weights.assign(network, dict(kept.networks[name]))
    if run.stepper.ema is not None:
        run.stepper.ema.load(dict(kept.networks["generator_ema"]))
    for phase in run.recipe.phases:
        optimizer = run.stepper.optimizers[phase.name]
        checkpoint.load_optimizer_state(optimizer, phase.network, kept.optimizers.get(phase.name, {}))
    for name, state in kept.counters.get("scalers", {}).items():
        if run.stepper.scalers[name].is_enable():
            run.stepper.scalers[name].load_state_dict({k: _array(v) for k, v in state.items()})
    run.step, run.best = int(kept.counters["step"]), dict(kept.counters.get("best", {}))
    LOGGER.info("resumed from %s at step %d", folder, run.step)


def set_device(name: str) -> str:
    """Chooses where Paddle computes; `auto` is the first GPU when this Paddle has one.

    Raises:
        ConfigError: this Paddle, or this machine, has no such device.
    """
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    chosen = ("gpu" if has_gpu else "cpu") if name == "auto" else name
    if chosen == "gpu" and not has_gpu:
        raise ConfigError("device: there is no GPU that this Paddle can use; set device=cpu")
    try:
        return str(paddle.device.set_device(chosen))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"device: {chosen} cannot be used ({str(error).strip().splitlines()[-1]})") from None


def _needed(config: Config) -> tuple[Any, Any]:
    absent = [name for name in ("recipe", "data", "train") if getattr(config, name) is None]
    if absent:
        raise ConfigError("\n".join(f"{name}: missing, training needs it" for name in absent))
    return config.train, config.data


def _keys(data: Any) -> set[str]:
    keys = {"lq", "gt"}
    if data.component_boxes is not None and data.kind == "degraded_faces":
        keys.add("boxes")
    if data.kind == "latent_pairs":
        keys.add("latent")
    return keys


def _steps(run: Run, loader: Loader, journal: log.Journal | None, asked: list[str]) -> None:
    settings, data = _needed(run.config)
    batches = loader.batches(run.step * settings.accumulate)
    meter, bar = log.Meter(), _progress(run)
    profiler = _profiler(settings.profiler_options, run.output_dir)
    last_saved = run.step
    while run.step < settings.total_steps:
        step = run.step + 1
        parts, waited = _next(batches, loader, settings.accumulate)
        terms = run.stepper.step(parts, step)
        run.step = step
        if profiler is not None:
            profiler.step()
        meter.step(waited, data.batch_size * settings.accumulate)
        bar.update()
        if step == 1 and journal is not None:
            journal.graph(run.generator, [paddle.static.InputSpec(parts[0]["lq"].shape, "float32")])
        if step % settings.log_every == 0 or step == settings.total_steps:
            _log(run, terms, parts, meter, journal, len(loader.source))
        if settings.benchmark:
            continue
        evaluates = bool(settings.evaluate_every) and step % settings.evaluate_every == 0
        if evaluates or step % settings.save_every == 0 or step == settings.total_steps or asked:
            check_finite(run.recipe.networks, step)
            if distributed.rank() == 0:
                save(run)
            last_saved = step
        if evaluates and distributed.rank() == 0:
            _evaluate(run, journal)
            meter.restart()
        if asked:
            raise StoppedError(f"{asked[0]}: stopped after step {last_saved}, continue with --resume")
    bar.close()
    if profiler is not None:
        profiler.stop()
    if settings.benchmark and journal is not None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ips = meter.steps_done * data.batch_size * settings.accumulate / max(meter.seconds, 1e-9)
        LOGGER.info("[BENCHMARK] ips: %.5f images/sec, cpu_rss(MB): %.1f", ips, memory)


def _next(batches: Iterator[dict[str, np.ndarray]], loader: Loader, count: int) -> tuple[list[Batch], float]:
    parts, waited = [], 0.0
    for _ in range(count):
        parts.append({key: paddle.to_tensor(value) for key, value in next(batches).items()})
        waited += loader.seconds_waited
    return parts, waited


def _log(
    run: Run, terms: Terms, parts: list[Batch], meter: log.Meter, journal: log.Journal | None, pictures: int
) -> None:
    settings, data = _needed(run.config)
    names = list(terms)
    values = distributed.average(paddle.stack([terms[name].reshape([]) for name in names]))
    numbers = dict(zip(names, (float(value) for value in values.numpy()), strict=True))
    if journal is None:
        meter.restart()
        return
    shown = next((phase for phase in run.recipe.phases if phase.network is run.generator), run.recipe.phases[0])
    rate = shown.optim.lr * lr_factor(run.recipe.schedule, run.step)
    minimised = [name for name in numbers if name.startswith(f"{shown.name}/") and name in run.stepper.minimised]
    loss = sum(numbers[name] for name in minimised)
    costs = meter.summary(settings.total_steps - run.step)
    epoch = (run.step * settings.accumulate * data.batch_size - 1) // pictures + 1
    LOGGER.info("%s", log.line(epoch, run.step, settings.total_steps, rate, loss, numbers, costs))
    journal.record(run.step, {"lr": rate, "loss": loss, **numbers, **costs})
    if journal.writer is not None and run.recipe.pictures is not None:
        journal.pictures(run.step, _pictures(run, parts[0]))


@paddle.no_grad()
def _pictures(run: Run, batch: Batch) -> dict[str, np.ndarray]:
    shown = run.recipe.pictures(run.recipe.sample(batch, run.step)) if run.recipe.pictures else {}
    return {name: _rows(value) for name, value in shown.items()}


def _rows(value: Tensor) -> np.ndarray:
    pixels = np.clip((value[:4].astype("float32").numpy() + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    return np.concatenate(list(pixels.transpose(0, 2, 3, 1)), axis=1)


def _evaluate(run: Run, journal: log.Journal | None) -> None:
    from ppgan_fr.evaluate import evaluate

    settings, _ = _needed(run.config)
    if run.config.evaluate is None:
        raise ConfigError("train.evaluate_every: there is no section 'evaluate'")
    began = time.perf_counter()
    if run.stepper.ema is not None:
        with run.stepper.ema.applied() as network:
            report = evaluate(run.config, network)
    else:
        run.generator.eval()
        report = evaluate(run.config, run.generator)
        run.generator.train()
    metrics = report["metrics"]
    shown = ", ".join(f"{name}: {value:.4f}" for name, value in metrics.items() if value is not None)
    LOGGER.info("[EVAL] iter: %d, %s, seconds: %.1f", run.step, shown, time.perf_counter() - began)
    if journal is not None:
        journal.record(run.step, {f"eval/{name}": value for name, value in metrics.items()})
    name = settings.best_metric
    if metrics.get(name) is None:
        raise ConfigError(f"train.best_metric: {name!r} is not measured; available: {', '.join(metrics)}")
    score = metrics[name] if BETTER.get(name, "lower") == "higher" else -metrics[name]
    if not run.best or score > run.best["score"]:
        run.best = {"score": score, "metric": name, "value": metrics[name], "step": run.step}
        checkpoint.copy(run.latest, run.output_dir / "best")


def _progress(run: Run) -> Any:
    from tqdm import tqdm

    total = run.config.train.total_steps if run.config.train else 0
    hidden = None if run.config.train and run.config.train.progress and distributed.rank() == 0 else True
    return tqdm(total=total, initial=run.step, disable=hidden, unit="step", dynamic_ncols=True, desc=run.config.name)


class _signals:  # noqa: N801 - used like a function
    """Within this context SIGTERM and SIGINT are remembered, so that the step can be finished and saved.

    When a process of several dies, the launcher sends SIGTERM to the others, which may hang in a collective operation
    that nobody will answer, where Python handles no signal. A thread waits for that, says so and ends the process.
    """

    PATIENCE = 12.0
    """Seconds; the launcher kills after 30."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.asked: list[str] = []
        self.before: dict[int, Any] = {}
        self.finished = threading.Event()

    def __enter__(self) -> list[str]:
        if threading.current_thread() is not threading.main_thread():
            return self.asked
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._remember)
        if distributed.world_size() > 1:
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        return self.asked

    def _remember(self, number: int, _frame: object) -> None:
        if self.asked and number == signal.SIGINT:  # asked twice by a person: at once
            sys.exit(128 + number)
        self.asked.append(signal.Signals(number).name)

    def _watch(self, reader: int) -> None:
        while (number := os.read(reader, 1)[0]) != signal.SIGTERM:
            pass
        if not self.finished.wait(self.PATIENCE):
            text = (
                f"ppgan-fr train: process {distributed.rank()} of {distributed.world_size()}: "
                f"{signal.Signals(number).name} while waiting for another process, which probably ended; "
                f"stopped after step {self.run.step}, continue with --resume from {self.run.latest}\n"
            )
            os.write(2, text.encode())
            os._exit(1)  # checkpoints are atomic; the main thread will never come back

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finished.set()
        for number, before in self.before.items():
            signal.signal(number, before)
        if kind in (distributed.ProcessLostError, StoppedError) and distributed.world_size() > 1:
            # The launcher asks several times, and is about to end this process anyhow; it shall say why before that.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _profiler(options: str | None, output_dir: Path) -> Any:
    if not options or distributed.rank() != 0:
        return None
    fields = dict(part.strip().partition("=")[::2] for part in options.split(";") if part.strip())
    found = re.fullmatch(r"\[(\d+),\s*(\d+)\]", fields.get("batch_range", ""))
    if found is None:
        raise ConfigError(f"train.profiler_options: expected 'batch_range=[10,20]', got {options!r}")
    from paddle import profiler

    target = Path(fields.get("profile_path", str(output_dir / "profile")))
    made = profiler.Profiler(
        scheduler=(int(found[1]), int(found[2])), on_trace_ready=profiler.export_chrome_tracing(str(target))
    )
    made.start()
    return made


def _sizes(recipe: Recipe) -> str:
    counts = {name: sum(p.size for p in network.parameters()) for name, network in recipe.networks.items()}
    return ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items())


def _plain(state: dict) -> dict:
    return {k: (np.asarray(v).tolist() if isinstance(v, np.ndarray | Tensor) else v) for k, v in state.items()}


def _array(value: Any) -> Any:
    return np.asarray(value, np.float32) if isinstance(value, list) else value
