"""The worker: Paddle Serving's pipeline with our Ops, behind gRPC. `web_service.py` starts it and starts it again.

The stock server evaluates what clients send, listens everywhere, and ends its whole process group on some errors. Here
the request Op takes strings only, gRPC listens where `config.yml` says, and the worker has a session of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

from deploy.serving_python.limits import Limits, check_token
from deploy.serving_python.restoring import Stages, load_stages
from deploy.serving_python.settings import Settings
from deploy.serving_python.wire import SERVICE, Code, RefusedError, Ticket, open_ticket

READY = "ppgan-serving-worker-ready"
ALIVE = "ppgan-serving-worker-alive"
SETTINGS = "PPGAN_SERVING_SETTINGS"
FAILED = "the photo could not be processed"

log = logging.getLogger("ppgan_serving")


def import_pipeline() -> Any:
    """Paddle Serving's pipeline, without its log files and, on Python 3.10 and newer, without its C++ client."""
    if sys.version_info >= (3, 10) and "paddle_serving_client" not in sys.modules:
        # The client's extension module exists for Python 3.6 to 3.9; the pipeline only asks for the name.
        import types

        stand_in = types.ModuleType("paddle_serving_client")
        stand_in.Client = type("Client", (), {})
        sys.modules["paddle_serving_client"] = stand_in
    from paddle_serving_server import pipeline

    root = logging.getLogger()
    for handler in list(root.handlers):  # up to 15 GB of files, with whole requests in them
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.CRITICAL)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("paddle_serving"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.setLevel(logging.CRITICAL)
    return pipeline


def build(settings: Settings, conf: dict[str, Any], stages: Stages) -> Any:
    """The server: request, detect, restore, paste, response.

    Returns:
        An object with `start()`, `stop(seconds)`.
    """
    pipeline = import_pipeline()
    from paddle_serving_server.pipeline.channel import ChannelTimeoutError
    from paddle_serving_server.pipeline.pipeline_server import PipelineServer
    from paddle_serving_server.pipeline.proto import pipeline_service_pb2, pipeline_service_pb2_grpc

    arrival = threading.local()

    class PhotoRequest(pipeline.RequestOp):
        """Takes strings under known names and nothing else; the stock Op unpickles tensors."""

        def unpack_request_package(self, request: Any) -> tuple:
            try:
                if len(request.tensors):
                    raise RefusedError(Code.BAD_REQUEST, "tensors are not accepted, only strings")
                if request.name not in ("", SERVICE):
                    raise RefusedError(Code.BAD_REQUEST, f"the service is called {SERVICE}")
                ticket = open_ticket(
                    request.key, request.value, max_pixels=settings.max_pixels, max_side=settings.max_side
                )
                ticket.deadline = arrival.deadline
            except RefusedError as refused:
                return {}, request.logid, int(refused.code), str(refused)
            return {"ticket": ticket}, request.logid, None, ""

    class Stage(pipeline.Op):
        """An Op without a network of its own: all work is in `preprocess`."""

        def work(self, ticket: Ticket) -> dict:
            raise NotImplementedError

        def preprocess(self, input_dicts: dict, data_id: int = 0, log_id: int = 0) -> tuple:
            _step_back()
            ticket = next(iter(input_dicts.values()))["ticket"]
            try:
                return self.work(ticket), False, None, ""
            except RefusedError as refused:
                return {}, True, int(refused.code), str(refused)
            except Exception as error:  # noqa: BLE001 - what a photo does to a decoder is answered, not raised
                log.error("op %s: %s", self.name, type(error).__name__)
                return {}, True, int(Code.FAILED), FAILED

    class Detect(Stage):
        def work(self, ticket: Ticket) -> dict:
            stages.open(ticket)
            return {"ticket": ticket}

    class Paste(Stage):
        def work(self, ticket: Ticket) -> dict:
            return stages.close(ticket)

    class Restore(pipeline.Op):
        """The generator. Faces of photos that wait here are restored together."""

        def init_from_dict(self, conf: dict) -> None:
            super().init_from_dict(conf)
            self.with_serving = True

        def init_client(self, client_config: Any, server_endpoints: Any) -> Any:
            return stages

        def preprocess(self, input_dicts: dict, data_id: int = 0, log_id: int = 0) -> tuple:
            ticket = next(iter(input_dicts.values()))["ticket"]
            try:
                ticket.check_deadline()
                return stages.feed(ticket), False, None, ""
            except RefusedError as refused:
                return {}, True, int(refused.code), str(refused)
            except Exception as error:  # noqa: BLE001 - as above
                log.error("op %s: %s", self.name, type(error).__name__)
                return {}, True, int(Code.FAILED), FAILED

        def process(self, feed_batch: list, typical_logid: int = 0) -> tuple:
            start = time.perf_counter()
            try:
                answers = stages.predict(feed_batch[0])
            except Exception as error:  # noqa: BLE001 - an engine's failure is this batch's, not the service's
                log.error("op %s: %s", self.name, type(error).__name__)
                return None, int(Code.FAILED), FAILED
            self.seconds = (time.perf_counter() - start) / max(1, len(answers))
            return {"image": answers}, 0, ""

        def postprocess(self, input_data: dict, fetch_data: dict, data_id: int = 0, log_id: int = 0) -> tuple:
            ticket = next(iter(input_data.values()))["ticket"]
            stages.take(ticket, fetch_data["image"], self.seconds * len(fetch_data["image"]))
            return {"ticket": ticket}, None, ""

        def _auto_batching_generator(
            self, input_channel: Any, op_name: str, batch_size: int, timeout: Any, op_info_prefix: str
        ) -> Any:
            """Waits for one photo, then takes those that are there already: the stock one makes all of them wait."""
            while True:
                batch = [input_channel.front(op_name)]
                while len(batch) < batch_size:
                    try:
                        batch.append(input_channel.front(op_name, 0.001))
                    except ChannelTimeoutError:
                        break
                yield batch

    class Answer(pipeline.ResponseOp):
        """Packs strings; of errors only what was meant for clients."""

        def pack_response_package(self, channeldata: Any) -> Any:
            response = super().pack_response_package(channeldata)
            if response.err_no and not (
                channeldata.prod_error_code is not None and response.err_no in Code._value2member_map_
            ):
                log.error("pipeline error %d", response.err_no)
                response.err_no, response.err_msg = int(Code.FAILED), FAILED
            return response

    class Servicer(pipeline_service_pb2_grpc.PipelineServiceServicer):
        def __init__(self, executor: Any, limits: Limits):
            self.executor, self.limits = executor, limits

        def inference(self, request: Any, context: Any) -> Any:
            inner = context.peer().startswith("unix:")  # the HTTP front, which has done all this
            try:
                if not inner:
                    given = dict(context.invocation_metadata()).get("authorization")
                    check_token(settings.token, given)
                left = context.time_remaining()
                arrival.deadline = time.monotonic() + min(settings.timeout_s, left if left is not None else 1e9)
                with self.limits.admit("front" if inner else _address(context.peer())):
                    return self.executor.call(request)
            except RefusedError as refused:
                return pipeline_service_pb2.Response(err_no=int(refused.code), err_msg=str(refused))
            except Exception as error:  # noqa: BLE001 - the stock server would send its text to the client
                log.error("request: %s", type(error).__name__)
                return pipeline_service_pb2.Response(err_no=int(Code.FAILED), err_msg=FAILED)

    class Server(PipelineServer):
        """Paddle Serving's, with a gRPC server that listens where it is told."""

        def start(self) -> None:
            import grpc
            from paddle_serving_server.pipeline import dag

            executor = dag.DAGExecutor(self._response_op, self._conf, -1)
            executor.start()
            self.limits = _WorkerLimits(settings)
            self.grpc = grpc.server(
                futures.ThreadPoolExecutor(max_workers=settings.worker_num),
                maximum_concurrent_rpcs=2 * settings.max_in_flight + 8,
                options=[
                    ("grpc.max_receive_message_length", settings.max_body),
                    ("grpc.max_send_message_length", -1),
                    ("grpc.so_reuseport", 0),
                    ("grpc.max_metadata_size", 8192),
                    ("grpc.max_connection_idle_ms", 300_000),
                ],
            )
            pipeline_service_pb2_grpc.add_PipelineServiceServicer_to_server(Servicer(executor, self.limits), self.grpc)
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            if not self.grpc.add_insecure_port(f"{host}:{settings.rpc_port}"):
                raise OSError(f"port {settings.rpc_port} is taken")
            self.grpc.add_insecure_port(f"unix:{Path(os.environ['SERVING_HOME']) / 'worker.sock'}")
            self.grpc.start()

        def stop(self, seconds: float) -> None:
            self.limits.close(0)
            self.grpc.stop(seconds).wait(seconds + 5)

    request = PhotoRequest()
    detect = Detect(name="detect", input_ops=[request])
    restore = Restore(name="restore", input_ops=[detect])
    paste = Paste(name="paste", input_ops=[restore])
    server = Server(SERVICE)
    server.set_response_op(Answer(input_ops=[paste]))
    server.prepare_server(yml_dict={**conf, "rpc_port": settings.rpc_port, "worker_num": settings.worker_num})
    return server


class _WorkerLimits(Limits):
    """The front has its own limits; here they hold for gRPC's clients."""

    def __init__(self, settings: Settings):
        super().__init__(
            2 * settings.max_in_flight + 8, settings.max_in_flight_per_client, settings.requests_per_minute_per_client
        )

    def _check(self, client: str) -> None:
        if client != "front":
            super()._check(client)


_thread = threading.local()


def _step_back() -> None:
    """Lets the generator's threads go first: when one of them is held up, the others wait for it."""
    if not getattr(_thread, "behind", False):
        _thread.behind = True
        with contextlib.suppress(OSError, AttributeError):
            if sys.platform == "linux":  # elsewhere it would be the whole process
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + 5)


def _address(peer: str) -> str:
    """`ipv4:127.0.0.1:4711` -> `127.0.0.1`."""
    return peer.partition(":")[2].rpartition(":")[0]


def main() -> int:
    """Serves until the front closes our standard input, then lets accepted requests finish."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the front hears them, drains, and then closes our standard input
    _die_with_parent()
    content = json.loads(os.environ.pop(SETTINGS))
    content["settings"]["trusted_proxies"] = tuple(content["settings"]["trusted_proxies"])
    settings = Settings(**content["settings"])
    try:
        stages = load_stages(
            Path(settings.model_dir),
            engine=settings.engine,
            cpu_threads=settings.cpu_threads,
            max_pixels=settings.max_pixels,
            faces_per_call=settings.faces_per_call,
        )
        stages.warm_up()
        server = build(settings, content["pipeline"], stages)
        server.start()
    except (ValueError, OSError, ImportError, SystemExit) as error:
        print(f"worker: {error}", file=sys.stderr, flush=True)
        return 2
    print(READY, flush=True)
    while sys.stdin.buffer.read(1):
        print(ALIVE, flush=True)
    server.stop(settings.drain_s)
    return 0


def _die_with_parent() -> None:
    # Not on every system; there the closed standard input says the same, a little later.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    log.addHandler(logging.StreamHandler(sys.stderr))
    log.setLevel(logging.INFO)
    log.propagate = False
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Paddle Serving's threads would keep the process
