"""HTTP: the WSGI application in front of the worker. It checks who asks and how much, and passes strings on."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from deploy.serving_python.limits import Limits, check_token
from deploy.serving_python.metrics import Metrics
from deploy.serving_python.settings import Settings
from deploy.serving_python.wire import SERVICE, STATUS, Code, RefusedError, answer, parse_json

PAGE = Path(__file__).resolve().parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
PREDICTION = f"/{SERVICE}/prediction"
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Payload Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]

log = logging.getLogger("ppgan_serving")


class Worker(Protocol):
    """What restores photos."""

    ready: bool
    """Whether it can take requests now."""
    was_ready: bool
    """Whether it ever could."""

    def predict(self, keys: list[str], values: list[str], seconds: float) -> tuple[int, str, list[str], list[str]]:
        """Returns err_no, err_msg, keys, values.

        Raises:
            RefusedError: it died, or did not answer in time.
        """


class Front:
    """The WSGI application."""

    def __init__(self, settings: Settings, worker: Worker, limits: Limits | None = None):
        """Takes the settings and the worker; `limits` for tests."""
        self.settings, self.worker = settings, worker
        self.limits = limits or Limits(
            settings.max_in_flight, settings.max_in_flight_per_client, settings.requests_per_minute_per_client
        )
        self.metrics = Metrics()
        self.metrics.gauge("in_flight", lambda: self.limits.in_flight)
        self.metrics.gauge("ready", lambda: float(self.ready))
        self.page = {path: ((PAGE / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    @property
    def ready(self) -> bool:
        """Whether a photo that comes now will be restored."""
        return self.worker.ready and not self.limits.closed

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        """Answers one request; nothing is raised."""
        start = time.perf_counter()
        identity = secrets.token_hex(8)
        facts: dict[str, Any] = {}
        try:
            status, kind, body, more = self._route(environ, facts)
        except RefusedError as refused:
            status, kind, body, more = self._refusal(refused)
        except Exception as error:  # noqa: BLE001 - the client gets an answer, the log the kind of error
            log.error(json.dumps({"event": "error", "id": identity, "error": type(error).__name__}))
            status, kind, body, more = self._refusal(RefusedError(Code.FAILED, "internal error"))
        seconds = time.perf_counter() - start
        known = environ.get("PATH_INFO") in (PREDICTION, *FILES, "/healthz", "/readyz", "/metrics")
        self.metrics.add("requests_total", path=environ["PATH_INFO"] if known else "other", status=str(status))
        if environ.get("PATH_INFO") == PREDICTION:
            self.metrics.observe(seconds)
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "event": "request",
                "id": identity,
                "client": self._client(environ),
                "status": status,
                "bytes_in": _length(environ),
                "bytes_out": len(body),
                "seconds": round(seconds, 3),
                **facts,
            }
            log.info(json.dumps(line))
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("X-Request-Id", identity)]
        start_response(f"{status} {REASONS[status]}", headers + HEADERS + more)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

    def _refusal(self, refused: RefusedError, status: int | None = None) -> tuple[int, str, bytes, list]:
        more = []
        if refused.code in (Code.BUSY, Code.TOO_MANY, Code.RESTARTING, Code.STOPPING):
            more.append(("Retry-After", "2"))
        if refused.code == Code.UNAUTHORIZED:
            more.append(("WWW-Authenticate", "Bearer"))
        return status or STATUS[refused.code], *_json(answer(refused.code, str(refused))), more

    def _route(self, environ: dict, facts: dict) -> tuple[int, str, bytes, list]:
        path, method = environ.get("PATH_INFO", ""), environ.get("REQUEST_METHOD", "")
        if path == PREDICTION:
            if method != "POST":
                return *self._refusal(RefusedError(Code.BAD_REQUEST, "use POST"), 405)[:3], [("Allow", "POST")]
            return self._predict(environ, facts)
        if path not in FILES and path not in ("/healthz", "/readyz", "/metrics"):
            return self._refusal(RefusedError(Code.BAD_REQUEST, "there is nothing here"), 404)
        if method not in ("GET", "HEAD"):
            return *self._refusal(RefusedError(Code.BAD_REQUEST, "use GET"), 405)[:3], [("Allow", "GET, HEAD")]
        if path == "/healthz":
            good = self.worker.was_ready
            return 200 if good else 503, *_json({"status": "ok" if good else "starting"}), []
        if path == "/readyz":
            word = "stopping" if self.limits.closed else "ready" if self.worker.ready else "starting"
            return 200 if self.ready else 503, *_json({"status": word}), []
        if path == "/metrics":
            check_token(self.settings.token, environ.get("HTTP_AUTHORIZATION"))
            return 200, "text/plain; version=0.0.4; charset=utf-8", self.metrics.text().encode(), []
        body, kind = self.page[path]
        return 200, kind, body, []

    def _predict(self, environ: dict, facts: dict) -> tuple[int, str, bytes, list]:
        check_token(self.settings.token, environ.get("HTTP_AUTHORIZATION"))
        if _foreign(environ):
            return self._refusal(RefusedError(Code.BAD_REQUEST, "a page of another site may not use this service"), 403)
        length = _length(environ)
        if length is None:
            return self._refusal(RefusedError(Code.BAD_REQUEST, "the length of the body must be given"), 411)
        if length > self.settings.max_body:
            raise RefusedError(Code.TOO_LARGE, f"a request may have {self.settings.max_body_mb:g} MB")
        deadline = time.monotonic() + self.settings.timeout_s
        with self.limits.admit(self._client(environ)):
            keys, values = parse_json(environ["wsgi.input"].read(length))
            if not self.worker.ready:
                raise RefusedError(Code.RESTARTING, "the service is starting; try again shortly")
            left = deadline - time.monotonic()
            code, message, keys, values = self.worker.predict(keys, values, left)
        if code:
            try:
                raise RefusedError(Code(code), message)
            except ValueError as error:
                if isinstance(error, RefusedError):
                    raise
                raise RefusedError(Code.FAILED, "the photo could not be processed") from None
        given = dict(zip(keys, values))
        faces, seconds = json.loads(given["faces"]), json.loads(given["seconds"])
        facts.update(faces=len(faces), width=int(given["width"]), height=int(given["height"]), stages=seconds)
        self.metrics.add("photos_total")
        self.metrics.add("faces_total", len(faces))
        for name, value in seconds.items():
            self.metrics.add("stage_seconds_total", value, stage=name)
        return 200, *_json(answer(0, "", keys, values)), []

    def _client(self, environ: dict) -> str:
        """The address that a request came from, the nearest one that is no trusted proxy."""
        address = environ.get("REMOTE_ADDR", "")
        if address not in self.settings.trusted_proxies:
            return address
        for name in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
            name = name.strip()
            if name and name not in self.settings.trusted_proxies:
                return name[:64]
        return address


def _json(content: dict) -> tuple[str, bytes]:
    return "application/json", json.dumps(content).encode()


def _length(environ: dict) -> int | None:
    text = environ.get("CONTENT_LENGTH") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _foreign(environ: dict) -> bool:
    """Whether a browser sends this for a page of another site, which may not spend this machine's time."""
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        return True
    origin = environ.get("HTTP_ORIGIN")
    return origin is not None and origin.partition("://")[2] != environ.get("HTTP_HOST")
