"""What comes in and goes out: Paddle Serving's form of a request, refusals with their codes, limits read from headers.

A request is `{"key": ["image", ...], "value": ["<base64>", ...]}`, over HTTP as JSON and over gRPC as the message
`Request`. Only strings are taken, only under the names of `OPTIONS`; tensors are refused unread.
"""

from __future__ import annotations

import base64
import binascii
import enum
import importlib.util
import io
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

IMAGE = "image"
OPTIONS = ("fidelity", "only_center", "format")
FORMATS = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "TIFF": "tiff", "BMP": "bmp"}
"""Files that are taken, and the name of each in an answer."""
SERVICE = "gfpgan"
METHOD = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"


class Code(enum.IntEnum):
    """`err_no` of a refusal: Paddle Serving leaves 51 to 99 to the product."""

    BAD_REQUEST = 51
    TOO_LARGE = 52
    NOT_A_PICTURE = 53
    BUSY = 54
    TIMEOUT = 55
    UNAUTHORIZED = 56
    TOO_MANY = 57
    FAILED = 58
    STOPPING = 59
    RESTARTING = 60


STATUS = {
    0: 200,
    Code.BAD_REQUEST: 400,
    Code.TOO_LARGE: 413,
    Code.NOT_A_PICTURE: 422,
    Code.BUSY: 503,
    Code.TIMEOUT: 504,
    Code.UNAUTHORIZED: 401,
    Code.TOO_MANY: 429,
    Code.FAILED: 500,
    Code.STOPPING: 503,
    Code.RESTARTING: 503,
}
"""HTTP status of each code."""


class RefusedError(ValueError):
    """A request is not served. The message is for the client: it says nothing of this machine."""

    def __init__(self, code: Code, message: str):
        super().__init__(message)
        self.code = code


@dataclass
class Ticket:
    """One photo on its way through the pipeline."""

    content: bytes
    kind: str
    """Of `FORMATS`: what the file is."""
    fidelity: float | None = None
    only_center: bool = False
    format: str | None = None
    """Of `FORMATS`: what the answer shall be; None: what the photo is."""
    deadline: float = float("inf")
    """`time.monotonic()` after which nobody waits for the answer."""
    photo: Any = None
    faces: list = field(default_factory=list)
    crops: list = field(default_factory=list)
    answers: list = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def check_deadline(self) -> None:
        """Raises `RefusedError` when it is too late."""
        if time.monotonic() > self.deadline:
            raise RefusedError(Code.TIMEOUT, "the photo was not restored in time")


def parse_json(body: bytes) -> tuple[list[str], list[str]]:
    """Keys and values of the HTTP form.

    Raises:
        RefusedError: it is not that form. Nothing of the body is repeated in the message.
    """
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RefusedError(Code.BAD_REQUEST, "the body is not JSON") from None
    if not isinstance(content, dict):
        raise RefusedError(Code.BAD_REQUEST, 'the body must be {"key": ["image"], "value": ["<base64>"]}')
    if content.get("tensors"):
        raise RefusedError(Code.BAD_REQUEST, "tensors are not accepted, only strings")
    unknown = set(content) - {"key", "value", "tensors", "logid", "clientip", "name", "method"}
    keys, values = content.get("key"), content.get("value")
    if unknown or not isinstance(keys, list) or not isinstance(values, list):
        raise RefusedError(Code.BAD_REQUEST, 'the body must be {"key": ["image"], "value": ["<base64>"]}')
    if not all(isinstance(one, str) for one in [*keys, *values]):
        raise RefusedError(Code.BAD_REQUEST, "keys and values must be strings")
    check_keys(keys, values)
    return keys, values


def _no_constant(_: str) -> None:
    raise ValueError


def check_keys(keys: Sequence[str], values: Sequence[str]) -> None:
    """Refuses all names but `image` and the options, each once.

    Raises:
        RefusedError: so.
    """
    if len(keys) != len(values):
        raise RefusedError(Code.BAD_REQUEST, "there must be as many values as keys")
    if len(keys) > 1 + len(OPTIONS) or len(set(keys)) != len(keys) or not set(keys) <= {IMAGE, *OPTIONS}:
        raise RefusedError(Code.BAD_REQUEST, f"the keys are {IMAGE} and, if wanted, {', '.join(OPTIONS)}, each once")
    if IMAGE not in keys:
        raise RefusedError(Code.BAD_REQUEST, f"the key {IMAGE} is missing")


def open_ticket(keys: Sequence[str], values: Sequence[str], *, max_pixels: int, max_side: int) -> Ticket:
    """Checks a request to the last detail that can be known without decoding pixels.

    Raises:
        RefusedError: with the first thing that is wrong.
    """
    check_keys(keys, values)
    given = dict(zip(keys, values))
    text = given[IMAGE]
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(Code.BAD_REQUEST, f"{IMAGE} is not base64") from None
    ticket = Ticket(content, look(content, max_pixels, max_side))
    if "fidelity" in given:
        ticket.fidelity = _fraction(given["fidelity"])
    if "only_center" in given:
        if given["only_center"] not in ("true", "false"):
            raise RefusedError(Code.BAD_REQUEST, "only_center must be true or false")
        ticket.only_center = given["only_center"] == "true"
    if "format" in given:
        kinds = {name: kind for kind, name in FORMATS.items()}
        if given["format"] not in kinds:
            raise RefusedError(Code.BAD_REQUEST, f"format must be one of {', '.join(kinds)}")
        ticket.format = kinds[given["format"]]
    return ticket


def _fraction(text: str) -> float:
    try:
        value = float(text) if len(text) <= 32 else -1.0
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RefusedError(Code.BAD_REQUEST, "fidelity must be a number between 0 and 1")
    return value


def look(content: bytes, max_pixels: int, max_side: int) -> str:
    """What kind of file it is, by its header alone, and whether its pixels are few enough to decode.

    Raises:
        RefusedError: no picture of a kind in `FORMATS`, or too large a one.
    """
    if not content:
        raise RefusedError(Code.NOT_A_PICTURE, "the picture is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Only these readers ever see the bytes: others start programs (PostScript) or are rarely looked after.
            with Image.open(io.BytesIO(content), formats=tuple(FORMATS)) as image:
                width, height, kind = image.width, image.height, image.format
    except Image.DecompressionBombError:
        raise RefusedError(Code.TOO_LARGE, f"more than {max_pixels / 1e6:g} million pixels") from None
    except Exception:  # noqa: BLE001 - header readers meet hostile files and raise whatever comes to their mind
        raise RefusedError(Code.NOT_A_PICTURE, f"not a picture ({', '.join(FORMATS.values())} are read)") from None
    if kind == "MPO":  # a JPEG with further views
        kind = "JPEG"
    if kind not in FORMATS or width < 1 or height < 1:
        raise RefusedError(Code.NOT_A_PICTURE, f"not a picture ({', '.join(FORMATS.values())} are read)")
    if width * height > max_pixels or max(width, height) > max_side:
        raise RefusedError(
            Code.TOO_LARGE,
            f"{width} x {height} pixels are too many (limit {max_pixels / 1e6:g} million, {max_side} on a side)",
        )
    return kind


def answer(code: int, message: str, keys: Sequence[str] = (), values: Sequence[str] = ()) -> dict[str, Any]:
    """The HTTP form of an answer."""
    return {"err_no": int(code), "err_msg": message, "key": list(keys), "value": list(values), "tensors": []}


def messages() -> Any:
    """The module with Paddle Serving's messages `Request` and `Response`, without the rest of that package: it would
    load Paddle and open log files.

    Raises:
        ModuleNotFoundError: `paddle-serving-server` is not installed.
    """
    found = importlib.util.find_spec("paddle_serving_server")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'paddle_serving_server'", name="paddle_serving_server")
    path = Path(next(iter(found.submodule_search_locations))) / "pipeline" / "proto" / "pipeline_service_pb2.py"
    spec = importlib.util.spec_from_file_location("paddle_serving_pipeline_messages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
