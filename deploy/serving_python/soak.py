"""Puts the service under load and says how it went: throughput, latencies, wrong answers, memory.

  python deploy/serving_python/soak.py --url http://127.0.0.1:18080 --clients 16 --requests 200
  python deploy/serving_python/soak.py --clients 4 --minutes 10

Every client sends its own picture and compares every answer with the first one it got for it. Exit code 1 when an
answer was lost or wrong, or when memory grew by 5 % or more after the warm-up (a fifth of the time).
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import cv2

ROOT = Path(__file__).resolve().parents[2]


def pictures(source: Path, count: int) -> list[bytes]:
    """As many different pictures: each with a mark of its own in a corner."""
    image = cv2.imread(str(source))
    if image is None:
        raise SystemExit(f"soak.py: {source}: not a picture")
    marked = []
    for i in range(count):
        copy = image.copy()
        cv2.rectangle(copy, (2 + 8 * i, 2), (8 + 8 * i, 8), (0, 0, 255), -1)
        marked.append(cv2.imencode(".png", copy)[1].tobytes())
    return marked


class Load:
    """Clients that send until the requests or the time are used up."""

    def __init__(self, url: str, token: str | None, requests: int | None, seconds: float | None):
        """`requests` in all, or for `seconds`."""
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port or 80
        self.headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        self.left, self.end = requests, None if seconds is None else time.monotonic() + seconds
        self.lock = threading.Lock()
        self.seconds: list[float] = []
        self.wrong = self.lost = self.busy = 0

    def more(self) -> bool:
        """Takes one request from what is left."""
        with self.lock:
            if self.end is not None:
                return time.monotonic() < self.end
            self.left -= 1
            return self.left >= 0

    def client(self, picture: bytes) -> None:
        """Sends one picture again and again."""
        body = json.dumps({"key": ["image"], "value": [base64.b64encode(picture).decode()]})
        first = None
        while self.more():
            start = time.perf_counter()
            status, image = self.ask(body)
            while status in (429, 503):
                with self.lock:
                    self.busy += 1
                time.sleep(0.5)
                status, image = self.ask(body)
            with self.lock:
                self.seconds.append(time.perf_counter() - start)
                self.lost += status != 200
                self.wrong += first is not None and image is not None and image != first
            first = first or image

    def ask(self, body: str) -> tuple[int, str | None]:
        """One request: status and picture."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=300)
        try:
            connection.request("POST", "/gfpgan/prediction", body, self.headers)
            answer = connection.getresponse()
            content = json.loads(answer.read())
            return answer.status, dict(zip(content["key"], content["value"])).get("image")
        except (OSError, ValueError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()


def memory_mb(pid: int) -> float:
    """Resident memory of a process and all it started."""
    total, pending = 0.0, [pid]
    while pending:
        one = pending.pop()
        try:
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
            for path in Path(f"/proc/{one}/task").glob("*/children"):
                pending += map(int, path.read_text().split())
        except (OSError, StopIteration):
            continue
    return total


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:18080")
    parser.add_argument("--token")
    parser.add_argument("--image", type=Path, default=ROOT / "assets" / "demo" / "astronaut.jpg")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--minutes", type=float, help="instead of a number of requests")
    parser.add_argument("--pid", type=int, help="of web_service.py, to watch its memory (start.sh's pid file)")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    args = parser.parse_args()
    load = Load(args.url, args.token, args.requests, None if args.minutes is None else 60 * args.minutes)
    threads = [threading.Thread(target=load.client, args=(one,)) for one in pictures(args.image, args.clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    sizes: list[float] = []
    while any(thread.is_alive() for thread in threads):
        if args.pid is not None:
            sizes.append(memory_mb(args.pid))
        time.sleep(1)
    report = summary(load, time.perf_counter() - start, sizes)
    for name, value in report.items():
        print(f"{name}: {value}")
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    grown = report.get("memory_growth_percent", 0)
    return 1 if load.lost or load.wrong or (args.minutes is not None and grown >= 5) else 0


def summary(load: Load, seconds: float, sizes: list[float]) -> dict[str, float]:
    """The numbers of a run. Memory: the middle of the last fifth against the middle of the second."""
    ordered = sorted(load.seconds) or [0.0]
    report = {
        "requests": len(load.seconds),
        "lost": load.lost,
        "wrong": load.wrong,
        "told_to_wait": load.busy,
        "seconds": round(seconds, 2),
        "per_second": round(len(load.seconds) / seconds, 3),
        **{f"p{p}_seconds": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 3) for p in (50, 90, 99)},
    }
    if len(sizes) >= 10:
        fifth = len(sizes) // 5
        before, after = sorted(sizes[fifth : 2 * fifth])[fifth // 2], sorted(sizes[-fifth:])[fifth // 2]
        report["memory_mb"] = round(after, 1)
        report["memory_growth_percent"] = round(100 * (after / before - 1), 2)
    return report


if __name__ == "__main__":
    sys.exit(main())
