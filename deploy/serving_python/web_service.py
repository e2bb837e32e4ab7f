"""The service: an HTTP front that never touches a picture, and a worker (Paddle Serving) that it watches over.

  python deploy/serving_python/web_service.py --config deploy/serving_python/config.yml --model_dir DIR [--port P]

start.sh calls this in the serving environment. SIGTERM or SIGINT: no new request is taken, accepted ones finish, the
worker is stopped. A worker that dies is started again; whoever waited for it gets an error at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [
    str(ROOT),
    *(path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent),
]

from deploy.serving_python.front import Front
from deploy.serving_python.settings import Settings, SettingsError, load_settings
from deploy.serving_python.wire import METHOD, SERVICE, Code, RefusedError, messages

WORKER_START = 180.0
"""Seconds until a worker must have loaded its networks."""
READY = "ppgan-serving-worker-ready"
ALIVE = "ppgan-serving-worker-alive"
log = logging.getLogger("ppgan_serving")


class WorkerProcess:
    """Keeps one worker alive and passes requests to it over a socket in a private folder."""

    def __init__(self, settings: Settings, conf: dict[str, Any], folder: Path):
        """Starts nothing yet. `folder` is this process's own, and short: it holds the socket."""
        import grpc

        self.settings, self.conf, self.folder = settings, conf, folder
        self._ready = self.was_ready = False
        self.restarts = 0
        self.process: subprocess.Popen | None = None
        self._stopping = threading.Event()
        self._grpc = grpc
        self._messages = messages()
        self._thread = threading.Thread(target=self._watch, name="worker", daemon=True)
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_reconnect_backoff_ms", 500),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.enable_http_proxy", 0),
        ]
        self._channel = grpc.insecure_channel(f"unix:{folder / 'worker.sock'}", options=options)
        self._call = self._channel.unary_unary(
            METHOD,
            request_serializer=self._messages.Request.SerializeToString,
            response_deserializer=self._messages.Response.FromString,
        )
        self._late = 0
        self._unanswered = 0

    @property
    def ready(self) -> bool:
        """Whether it said so and still runs: its pipes, which `_watch` reads, may outlive it in its children."""
        return self._ready and self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts the worker and the thread that watches it."""
        self._thread.start()

    def predict(self, keys: list[str], values: list[str], seconds: float) -> tuple[int, str, list[str], list[str]]:
        """See `front.Worker`."""
        request = self._messages.Request(key=keys, value=values, name=SERVICE, method="prediction", clientip="front")
        try:
            response = self._call(request, timeout=max(0.1, seconds))
        except self._grpc.RpcError as error:
            code = error.code()
            if code == self._grpc.StatusCode.DEADLINE_EXCEEDED:
                self._was_late()
                raise RefusedError(Code.TIMEOUT, "the photo was not restored in time") from None
            if code == self._grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise RefusedError(Code.BUSY, "the service is busy; try again shortly") from None
            log.error(json.dumps({"event": "worker_error", "code": code.name}))
            raise RefusedError(Code.RESTARTING, "the photo was lost with the worker; try again shortly") from None
        self._late = 0
        return response.err_no, response.err_msg, list(response.key), list(response.value)

    def _was_late(self) -> None:
        """Several deadlines missed in a row and nothing done in between: the worker hangs, and starts afresh."""
        self._late += 1
        if self._late >= max(3, self.settings.worker_num):
            self._late = 0
            log.error(json.dumps({"event": "worker_hangs"}))
            self._kill()

    def _watch(self) -> None:
        pause = 0.5
        while not self._stopping.is_set():
            began = time.monotonic()
            code = self._run_once()
            self._ready = False
            if self._stopping.is_set():
                return
            self.restarts += 1
            pause = 0.5 if time.monotonic() - began > 60 else min(30.0, pause * 2)
            log.error(json.dumps({"event": "worker_ended", "code": code, "restart_in_s": pause}))
            if not self.was_ready and (code == 2 or self.restarts == 3):  # wrong settings or models: it never will
                os.kill(os.getpid(), signal.SIGTERM)
                return
            self._stopping.wait(pause)

    def _run_once(self) -> int:
        (self.folder / "worker.sock").unlink(missing_ok=True)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "SERVING_HOME": str(self.folder),
            "SERVING_LOG_PATH": str(self.folder),
            "GLOG_minloglevel": "2",
            # Threads that wait for each other sleep: the processors are for the Op that works.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            "PPGAN_SERVING_SETTINGS": json.dumps(
                {"settings": dataclasses.asdict(self.settings), "pipeline": self.conf}
            ),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.serving_python.ops"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env=environment,
            start_new_session=True,  # Paddle Serving kills its whole process group on some errors
        )
        timer = threading.Timer(WORKER_START, self._kill)
        timer.start()
        errors = threading.Thread(target=self._log_errors, args=(self.process.stderr,), daemon=True)
        errors.start()
        for line in iter(self.process.stdout.readline, b""):
            if line.strip() == ALIVE.encode():
                self._unanswered = 0
            elif line.strip() == READY.encode():
                timer.cancel()
                self._ready = self.was_ready = True
                self._unanswered = 0
                threading.Thread(target=self._ask_for_life, args=(self.process,), daemon=True).start()
                log.info(json.dumps({"event": "ready", "pid": self.process.pid, "front": os.getpid()}))
        timer.cancel()
        code = self.process.wait()
        errors.join(1)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()
        return code

    def _ask_for_life(self, process: subprocess.Popen) -> None:
        """A question every second; a worker that leaves many unanswered is frozen, and nobody shall wait for it.

        Questions are counted and not seconds, so that a pause of the whole machine is not taken for the worker's.
        """
        while not self._stopping.wait(1) and process.poll() is None:
            self._unanswered += 1
            if self._unanswered > self.settings.hang_s:
                log.error(json.dumps({"event": "worker_hangs", "silent_s": self._unanswered - 1}))
                process.kill()
                return
            try:
                os.write(process.stdin.fileno(), b"?")
            except (OSError, ValueError):  # it is ending
                return

    def _log_errors(self, stream: Any) -> None:
        try:
            for line in iter(lambda: stream.readline(2000), b""):
                log.warning(json.dumps({"event": "worker", "line": line.decode("utf-8", "replace").strip()[:300]}))
        except ValueError:  # closed
            pass

    def _kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def stop(self, seconds: float) -> None:
        """Lets the worker finish by closing its standard input; kills it when that takes too long."""
        self._stopping.set()
        process = self.process
        if process is not None and process.poll() is None:
            try:
                process.stdin.close()
                process.wait(seconds)
            except (OSError, ValueError, subprocess.TimeoutExpired):
                self._kill()
        self._thread.join(10)
        self._channel.close()


def serve(settings: Settings, conf: dict[str, Any], folder: Path) -> int:
    """Serves until a signal ends it."""
    worker = WorkerProcess(settings, conf, folder)
    front = Front(settings, worker)
    front.metrics.gauge("worker_restarts", lambda: worker.restarts)
    try:
        server = _http_server(front, settings)
    except OSError as error:
        raise SettingsError(f"port {settings.http_port}: {error.strerror or 'cannot be used'}") from None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    worker.start()
    threading.Thread(target=server.run, name="http", daemon=True).start()
    log.info(
        json.dumps({"event": "listening", "host": settings.host, "http": settings.http_port, "rpc": settings.rpc_port})
    )
    stop.wait()
    started = worker.was_ready
    log.info(json.dumps({"event": "stopping", "in_flight": front.limits.in_flight}))
    clean = front.limits.close(settings.drain_s)
    worker.stop(settings.drain_s if clean else 1)
    time.sleep(0.3)  # the last answers are on their way out
    server.close()
    log.info(json.dumps({"event": "stopped", "clean": clean}))
    return 0 if started else 2


def _http_server(front: Front, settings: Settings) -> Any:
    """Waitress: reads slow clients without spending a thread on them."""
    from waitress.channel import HTTPChannel
    from waitress.server import TcpWSGIServer

    class Server(TcpWSGIServer):
        def maintenance(self, now: float) -> None:
            super().maintenance(now)
            for channel in self.active_channels.values():
                began = getattr(channel, "began", None)
                if began is not None and now - began > settings.receive_timeout_s:
                    channel.will_close = True  # a client that sends a byte now and then
                    channel.close_when_flushed = True

    class Channel(HTTPChannel):
        began = None

        def received(self, data: bytes) -> bool:
            done = super().received(data)
            if self.request is None:
                self.began = None
            elif self.began is None:
                self.began = time.time()
            return done

    logging.getLogger("waitress").setLevel(logging.ERROR)
    Server.channel_class = Channel
    options = {
        "host": settings.host,
        "port": settings.http_port,
        "threads": settings.max_in_flight + 8,
        "connection_limit": 512,
        "channel_timeout": int(settings.receive_timeout_s),
        "cleanup_interval": 5,
        "max_request_body_size": settings.max_body + 1,
        "max_request_header_size": 32768,
        "ident": None,
        "expose_tracebacks": False,
        "clear_untrusted_proxy_headers": False,
        "outbuf_overflow": 1 << 28,
        "recv_bytes": 65536,
    }
    return Server(front, **options)


def _set_up_log(settings: Settings, path: str | None) -> None:
    if path is None:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
    else:
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=int(settings.log_mb * 1e6), backupCount=2)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def main(given: list[str] | None = None) -> int:
    """Returns the exit code: 0 stopped as asked, 2 wrong settings or models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(Path(__file__).with_name("config.yml")))
    parser.add_argument("--model_dir", help="export folder with yunet/, onet/, sface/")
    parser.add_argument("--host")
    parser.add_argument("--port", dest="http_port", type=int, help="of HTTP; gRPC gets the next one")
    parser.add_argument("--rpc_port", type=int)
    parser.add_argument("--log", metavar="FILE", help="default: standard error")
    args = vars(parser.parse_args(given))
    config, log_path = args.pop("config"), args.pop("log")
    try:
        settings, conf = load_settings(config, **args)
        if settings.model_dir is None or not (Path(settings.model_dir) / "inference.yml").is_file():
            raise SettingsError(f"{settings.model_dir or 'service.model_dir'}: no export folder; run setup.sh")
        if not (Path(settings.model_dir) / "yunet" / "inference.yml").is_file():
            raise SettingsError(f"{settings.model_dir}/yunet: the exported detector is not there")
        settings = dataclasses.replace(settings, model_dir=str(Path(settings.model_dir).resolve()))
        if not settings.is_loopback and settings.token is None:
            print(
                f"web_service.py: {settings.host} is not loopback and there is no token: everybody may use it",
                file=sys.stderr,
            )
        _set_up_log(settings, log_path)
        with tempfile.TemporaryDirectory(prefix="ppgan_serving_") as folder:
            return serve(settings, conf, Path(folder))
    except (SettingsError, ModuleNotFoundError) as error:
        print(f"web_service.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
