"""Restores pictures by the service, over HTTP. Needs nothing but Python.

  python deploy/serving_python/pipeline_http_client.py --image_dir assets/demo --save_dir output/serving

Writes SAVE_DIR/restored/<name> and SAVE_DIR/results.jsonl. Exit code 1 when a picture was refused.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp"}
ROOT = Path(__file__).resolve().parents[2]
Ask = Callable[[dict], dict]
"""From a request to an answer, both in Paddle Serving's form."""


class ClientError(ValueError):
    """The service cannot be reached, or there is nothing to send. One line."""


def arguments(description: str, url: str, example: str) -> argparse.ArgumentParser:
    """What both clients understand."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(url, default=example, help=f"default {example}")
    parser.add_argument("--image_dir", type=Path, default=ROOT / "assets" / "demo", help="a picture or a folder")
    parser.add_argument("--save_dir", type=Path, default=Path("output/serving"), help="where results go")
    parser.add_argument("--fidelity", type=float, help="0 to 1, closer to the input when higher")
    parser.add_argument("--format", choices=("jpeg", "png", "webp", "tiff", "bmp"), help="default: the input's")
    parser.add_argument("--token", default=os.environ.get("PPGAN_SERVING_TOKEN"), help="bearer token")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one picture")
    return parser


def http_ask(url: str, token: str | None, timeout: float) -> Ask:
    """Sends to a URL."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClientError(f"{url}: not a URL")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}

    def ask(request: dict) -> dict:
        connection = kind(parts.hostname, parts.port, timeout=timeout)
        try:
            connection.request("POST", parts.path or "/gfpgan/prediction", json.dumps(request), headers)
            return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ClientError(f"{url}: {error or type(error).__name__}") from None
        finally:
            connection.close()

    return ask


def restore_folder(ask: Ask, args: argparse.Namespace) -> int:
    """Restores every picture, writing each result as it comes.

    Returns:
        0, or 1 when some failed.

    Raises:
        ClientError: the service cannot be reached, or there is no picture.
    """
    source = args.image_dir
    paths = [source] if source.is_file() else sorted(p for p in source.glob("*") if p.suffix.lower() in ENDINGS)
    if not paths:
        raise ClientError(f"{source}: no picture here")
    (args.save_dir / "restored").mkdir(parents=True, exist_ok=True)
    failed = 0
    with (args.save_dir / "results.jsonl").open("w", encoding="utf-8") as records:
        for path in paths:
            line = restore_file(ask, path, args)
            failed += line["status"] == "failed"
            records.write(json.dumps(line) + "\n")
            done = line["error"] or f"{line['output']} ({len(line['faces'])} faces, {line['seconds']:.3f} s)"
            print(f"{path}: {done}", flush=True)
    return 1 if failed else 0


def restore_file(ask: Ask, path: Path, args: argparse.Namespace) -> dict:
    """Restores one picture; returns its line of `results.jsonl`."""
    request = {"key": ["image"], "value": [base64.b64encode(path.read_bytes()).decode("ascii")]}
    for name in ("fidelity", "format"):
        if getattr(args, name) is not None:
            request["key"].append(name)
            request["value"].append(str(getattr(args, name)))
    start = time.perf_counter()
    answer = ask(request)
    line = {
        "input": str(path),
        "output": None,
        "status": "failed",
        "error": answer.get("err_msg") or None,
        "width": None,
        "height": None,
        "faces": [],
        "seconds": round(time.perf_counter() - start, 3),
    }
    if answer.get("err_no") != 0:
        line["error"] = line["error"] or "the service gave no reason"
        return line
    given = dict(zip(answer["key"], answer["value"]))
    ending = (
        path.suffix if args.format is None else {"jpeg": ".jpg", "tiff": ".tif"}.get(args.format, f".{args.format}")
    )
    target = args.save_dir / "restored" / f"{path.stem}{ending}"
    beside = target.with_name(f".{target.name}.part")
    beside.write_bytes(base64.b64decode(given["image"]))
    beside.replace(target)
    faces = json.loads(given["faces"])
    line.update(output=str(target), faces=faces, status="ok" if faces else "no_face")
    line.update(width=int(given["width"]), height=int(given["height"]), stages=json.loads(given["seconds"]))
    return line


def main(given: list[str] | None = None) -> int:
    """Returns the exit code."""
    args = arguments(__doc__.splitlines()[0], "--url", "http://127.0.0.1:18080/gfpgan/prediction").parse_args(given)
    try:
        return restore_folder(http_ask(args.url, args.token, args.timeout), args)
    except (ClientError, OSError) as error:
        print(f"pipeline_http_client.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
