"""Restore folders on a Ray cluster: what `tools/predict.py` does, by every machine that has joined.

  python deploy/ray_batch/restore.py --input photos --output restored                       # this machine
  python deploy/ray_batch/restore.py --input photos --output restored --address auto        # the cluster it belongs to
  python deploy/ray_batch/restore.py --input s3://bucket/photos --output s3://bucket/restored --address auto --resume

The same arguments, the same files, the same results.jsonl as `tools/predict.py`, byte for byte; inputs and outputs may
also be URIs that pyarrow knows (s3://, gs://, hdfs://). Every finished photo has a record under OUTPUT/.ray, named by
a checksum of its bytes, its name and the settings, and written after its files: a worker or a machine that dies
repeats the photo it was at, and `--resume` goes on after anything. Exit codes as `tools/predict.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import logging
import os
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tqdm import tqdm

from ppgan_fr import predict
from ppgan_fr.face.image_io import READABLE, write_file
from ppgan_fr.predict import RESULTS, Job, Options, PredictError

RECORDS = ".ray"
ATTEMPTS = 3
"""A photo at which workers died this often is left out."""


class RayError(ValueError):
    """The job cannot be done as asked. One line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tools/predict.py`, and those of the cluster."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    predict.add_arguments(parser)
    group = parser.add_argument_group("cluster")
    group.add_argument("--address", help="of a cluster (auto, HOST:6379); without it Ray is started on this machine")
    group.add_argument("--workers", type=int, metavar="N", help="predictors; default: processors / --cpus-per-worker")
    group.add_argument("--cpus-per-worker", type=int, default=2, metavar="N", help="its threads (default 2)")
    group.add_argument("--without-faces", action="store_true", help="no OUTPUT/faces: two files less for each face")
    group.add_argument("--share", type=int, default=16, metavar="N", help="photos handed out at a time (default 16)")
    group.add_argument(
        "--object-store-mb", type=int, default=200, metavar="N", help="of a Ray that is started here (default 200)"
    )


# --- where files are -------------------------------------------------------------------------------------------------


class Place:
    """A folder on this machine (or one that all machines share), or in an object store."""

    def __init__(self, text: str):
        """`text` is a path or a URI.

        Raises:
            RayError: pyarrow does not know this kind of URI, or cannot reach it.
        """
        self.text = text
        self.local = "://" not in text or text.startswith("file://")
        if self.local:
            self.root = text[len("file://") :] if text.startswith("file://") else text
            return
        from pyarrow import fs

        try:
            self.system, root = fs.FileSystem.from_uri(text)
        except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
            raise RayError(f"{text}: {_one_line(error)}") from None
        self.root = root.rstrip("/")
        self.start = text[: len(text) - len(root)] if text.endswith(root) else f"{text.split('://')[0]}://"

    def __reduce__(self) -> tuple:
        return Place, (self.text,)

    def pictures(self, recursive: bool) -> list[PurePosixPath]:
        """The pictures of a folder in an object store, or the one that is named; hidden ones left out."""
        from pyarrow import fs

        try:
            info = self.system.get_file_info(self.root)
            if info.type == fs.FileType.File:
                return [PurePosixPath(self.root)]
            found = self.system.get_file_info(fs.FileSelector(self.root, allow_not_found=True, recursive=recursive))
        except Exception as error:  # noqa: BLE001 - as above
            raise RayError(f"{self.text}: {_one_line(error)}") from None
        paths = [PurePosixPath(one.path) for one in found if one.type == fs.FileType.File]
        inner = {path: path.relative_to(self.root).parts for path in paths}
        paths = [
            path
            for path in paths
            if path.suffix.lower() in READABLE and not any(part.startswith(".") for part in inner[path])
        ]
        if not paths:
            raise RayError(f"{self.text}: no picture here")
        return sorted(paths)

    def uri(self, path: str) -> str:
        """How a path is written in messages and results."""
        return path if self.local else f"{self.start}{path}"

    def read(self, path: str) -> bytes:
        """Raises OSError, FileNotFoundError among them."""
        if self.local:
            return Path(path).read_bytes()
        with self.system.open_input_stream(path) as stream:
            return stream.read()

    def write(self, path: str, content: bytes) -> None:
        """The file appears whole or not at all: beside and renamed, or with one put."""
        if self.local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_file(path, content)
            return
        with self.system.open_output_stream(path) as stream:
            stream.write(content)

    def within(self, relative: str) -> str:
        """A path below this place."""
        return str(Path(self.root) / relative) if self.local else f"{self.root}/{relative}"


# --- the work of one machine -----------------------------------------------------------------------------------------


class Predictor:
    """One worker: the networks, loaded once; photos in, lines of results.jsonl out."""

    def __init__(self, arguments: argparse.Namespace, job: str, ledger: Any, threads: int):
        """`ledger` counts what was begun how often, see `Ledger`."""
        os.environ["PPGAN_CPU_THREADS"] = str(threads)
        self.input, self.output = Place(arguments.input), Place(arguments.output)
        self.resume, self.job, self.ledger = arguments.resume, job, ledger
        self.wanted = ("restored",) if arguments.without_faces else ("restored", "faces")
        self.restorer, self.options = predict.ready(arguments)
        self.settings = settings_of(self.restorer, self.options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        """Ray Data's batch: columns `index` and `photo` in, `index` and `line` out."""
        lines = [json.dumps(self.restore(json.loads(str(photo)))) for photo in batch["photo"]]
        return {"index": list(batch["index"]), "line": lines}

    def restore(self, photo: dict[str, str]) -> dict:
        """One photo, `{"source", "name", "target"}`: what is done already is not done again.

        Returns:
            Its line of results.jsonl; with a key `stop` when no photo can be written any more.
        """
        source = self.input.uri(photo["source"])
        try:
            content = self.input.read(photo["source"])
        except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
            return failed(source, _reason(error))
        what = [self.settings, photo["target"], " ".join(self.wanted), hashlib.sha256(content).hexdigest()]
        key = hashlib.sha256("\0".join(what).encode()).hexdigest()
        record = self.output.within(f"{RECORDS}/{key[:2]}/{key}.json")
        if (line := self._done(record)) is not None:
            return {**line, "input": source}
        if self.ledger is not None and (begun := self.ledger(key)) > ATTEMPTS:
            return failed(source, f"{begun - 1} workers died while they restored it")
        with tempfile.TemporaryDirectory(prefix="ppgan_fr-") as folder:
            return self._restore(photo, source, content, Path(folder), record)

    def _done(self, record: str) -> dict | None:
        """The line of a photo whose record and files are all there: of this job, or with --resume of any."""
        try:
            known = json.loads(self.output.read(record))
            if not (self.resume or known["job"] == self.job):
                return None
            for relative, digest in known["files"].items():
                if hashlib.sha256(self.output.read(self.output.within(relative))).hexdigest() != digest:
                    return None
            return known["line"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _restore(self, photo: dict[str, str], source: str, content: bytes, folder: Path, record: str) -> dict:
        path = folder / "input" / PurePosixPath(photo["source"]).name
        path.parent.mkdir()
        path.write_bytes(content)
        results = folder / "output"
        job = Job(path, photo["name"], results / photo["target"])
        line = predict.restore_file(job, self.restorer, self.options, results)
        if line["error"]:
            line["error"] = line["error"].replace(str(path), source)
        line["input"] = source
        if line["status"] == "failed":
            return line
        target = self.output.within(photo["target"])
        line["output"] = self.output.uri(target)
        files = {}
        try:
            for made in sorted(path for name in self.wanted for path in (results / name).rglob("*") if path.is_file()):
                relative = made.relative_to(results).as_posix()
                data = made.read_bytes()
                self.output.write(self.output.within(relative), data)
                files[relative] = hashlib.sha256(data).hexdigest()
            known = {"job": self.job, "worker": _node(), "files": files, "line": line}
            self.output.write(record, json.dumps(known).encode())
        except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
            reason = f"{self.output.text}: cannot be written ({_reason(error)})"
            return {**failed(source, reason), "stop": reason}
        return line


def settings_of(restorer: Any, options: Options) -> str:
    """A checksum of everything that decides how a photo is restored."""
    return hashlib.sha256(f"{restorer.settings}\n{options}".encode()).hexdigest()


def failed(source: str, reason: str) -> dict:
    """The line of a photo that never came to the networks."""
    return {
        "input": source,
        "output": None,
        "status": "failed",
        "error": f"{source}: {reason}",
        "width": None,
        "height": None,
        "faces": [],
        "seconds": 0.0,
    }


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _reason(error: BaseException) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else _one_line(error)


def _node() -> str:
    """Which machine this is, in Ray's words."""
    if "ray" not in sys.modules:
        return ""
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


class Ledger:
    """Counts how often each photo was begun; lives beside the driver, so that it outlives every worker."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def begin(self, key: str) -> int:
        """Returns which attempt this is."""
        self.begun[key] += 1
        return self.begun[key]

    def repeated(self) -> int:
        """How many photos were begun more than once."""
        return sum(count > 1 for count in self.begun.values())


class _Remote:
    """The ledger as a worker sees it."""

    def __init__(self, actor: Any):
        self.actor = actor

    def __call__(self, key: str) -> int:
        import ray

        return ray.get(self.actor.begin.remote(key))


# --- the job ---------------------------------------------------------------------------------------------------------


def plan(args: argparse.Namespace) -> list[dict[str, str]]:
    """Every photo with its names, as `tools/predict.py` would give them.

    Raises:
        ValueError: of this package, when there is nothing to do or no place for the results.
    """
    source, output = Place(args.input), Place(args.output)
    results = Path(output.root) if output.local else PurePosixPath()
    if source.local:
        paths, folder = predict.inputs(source.root, Path(output.root) if output.local else Path(), args.recursive)
        paths = [path.absolute() for path in paths] if args.address else paths
        folder = folder.absolute() if folder is not None and args.address else folder
    else:
        paths = source.pictures(args.recursive)
        folder = PurePosixPath(source.root) if args.recursive else None
    if output.local:
        predict.prepare_output(Path(output.root))
    else:
        try:
            output.write(output.within(f"{RECORDS}/probe"), b"probe")
        except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
            raise RayError(f"{args.output}: cannot write results here ({_reason(error)})") from None
    jobs = predict.plan(paths, results, folder)
    return [
        {
            "source": str(job.source),
            "name": job.name,
            "target": PurePosixPath(job.target).relative_to(PurePosixPath(results)).as_posix(),
        }
        for job in jobs
    ]


def run(args: argparse.Namespace) -> int:
    """Does the whole job; returns 0, or 1 when some photos failed or the results cannot be written."""
    if args.report and not Place(args.output).local:
        raise RayError("--report: only for an output on this machine")
    for name in ("share", "cpus_per_worker", "object_store_mb"):
        if getattr(args, name) < 1:
            raise RayError(f"--{name.replace('_', '-')} must be at least 1")
    predict.check_arguments(args)
    if args.address:  # workers have other current folders
        args.output = args.output if "://" in args.output else str(Path(args.output).absolute())
    photos = plan(args)
    predict.ready(args)  # what is wrong with configuration or weights is said here, once
    gc.collect()
    lines, repeated = _on_cluster(args, photos)
    stop = next((line["stop"] for line in lines if "stop" in line), None)
    if stop is not None:
        print(f"restore.py: {stop}; --resume goes on", file=sys.stderr)
        return 1
    output = Place(args.output)
    output.write(output.within(RESULTS), b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    if args.report:
        from ppgan_fr.report import write_report

        print(f"report: {write_report(lines, Path(output.root))}")
    count = Counter(line["status"] for line in lines)
    again = f", {repeated} begun again after a worker was lost" if repeated else ""
    print(
        f"{len(lines)} photos: {count['ok']} restored, {count['no_face']} without a face, {count['failed']} failed"
        f"{again}; results in {args.output}"
    )
    return 1 if count["failed"] else 0


def _on_cluster(args: argparse.Namespace, photos: Sequence[dict[str, str]]) -> tuple[list[dict], int]:
    """Lines in the order of the photos, and how many photos were begun more than once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with _ray(args):
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        ledger = ray.remote(num_cpus=0, scheduling_strategy=here)(Ledger).remote()
        lines: list[dict | None] = [None] * len(photos)
        with tqdm(total=len(photos), unit="photo", file=sys.stderr, dynamic_ncols=True) as bar:
            for row in _rows(args, photos, ledger):
                line = json.loads(row["line"])
                if line["status"] == "failed":
                    bar.write(line["error"], file=sys.stderr)
                if lines[row["index"]] is None:
                    bar.update()
                lines[row["index"]] = line
                if "stop" in line:
                    break
        return [line for line in lines if line is not None], ray.get(ledger.repeated.remote())


def _rows(args: argparse.Namespace, photos: Sequence[dict[str, str]], ledger: Any) -> Iterator[dict]:
    """The dataset: photos in shares, through a pool of predictors."""
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 1))
    workers = args.workers or max(1, cpus // args.cpus_per_worker)
    items = [{"index": i, "photo": json.dumps(photo)} for i, photo in enumerate(photos)]
    shares = -(-len(items) // args.share)
    dataset = ray.data.from_items(items, override_num_blocks=shares).map_batches(
        Predictor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, shares), max_tasks_in_flight_per_actor=2),
        fn_constructor_args=(args, uuid.uuid4().hex, _Remote(ledger), args.cpus_per_worker),
        # Next to no processors are reserved: when a machine is lost, its predictor starts anew on one that is full,
        # instead of waiting for ever with its share.
        num_cpus=0.001,
        scheduling_strategy="SPREAD",
    )
    yield from dataset.iter_rows()


@contextlib.contextmanager
def _ray(args: argparse.Namespace) -> Iterator[None]:
    """Ray, joined or started, without dashboard and usage statistics."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")  # noqa: SIM112 - for busy machines
    import ray

    options: dict[str, Any] = {"address": args.address}
    if not args.address:
        options = {"include_dashboard": False, "object_store_memory": args.object_store_mb * 2**20}
    try:
        ray.init(
            **options,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}},
        )
    except Exception as error:  # noqa: BLE001 - Ray raises whatever there is, `Exception` itself among it
        raise RayError(f"Ray: {_one_line(error)}") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield
    finally:
        ray.shutdown()


def main(given: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser("restore.py")
    add_arguments(parser)
    try:
        return run(parser.parse_args(given))
    except ModuleNotFoundError as error:
        if error.name not in ("ray", "pyarrow"):
            raise
        reason = f"the Python package {error.name!r} is missing (pip install -r requirements-ray.txt)"
    except (PredictError, RayError) as error:
        reason = str(error)
    except ValueError as error:
        if type(error).__module__.split(".")[0] != "ppgan_fr":
            raise
        reason = str(error)
    except KeyboardInterrupt:
        print("restore.py: interrupted; --resume goes on", file=sys.stderr)
        return 130
    print(f"restore.py: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    # Workers find the classes by the module's name, which `__main__` is not.
    from deploy.ray_batch.restore import main as by_name

    sys.exit(by_name())
