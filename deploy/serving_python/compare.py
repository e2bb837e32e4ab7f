"""Throughput of a running service against the bare predictor, in turns, on the same photos and processors.

  bash deploy/serving_python/start.sh
  build/serving/venv/bin/python deploy/serving_python/compare.py --rounds 3 --photos 48

The bare predictor is `deploy/inference_python/infer.py` with this interpreter and the service's own networks: one photo
after the other, files in and files out, without loading and warm-up. The service gets the same files over HTTP from 16
clients, compares crops and results with SFace besides (infer.py does not), and its clients run on the same processors.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from deploy.serving_python.soak import Load, pictures


def bare(model_dir: Path, photos: Path) -> float:
    """Photos per second of infer.py over a folder."""
    with tempfile.TemporaryDirectory(prefix="ppgan_compare_") as output:
        words = ["--model_dir", model_dir, "--image_dir", photos, "--save_dir", output, "--benchmark", "True"]
        command = [sys.executable, str(ROOT / "deploy" / "inference_python" / "infer.py"), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"photos_per_minute: ([0-9.]+)", done.stdout)
    if done.returncode or found is None:
        raise SystemExit(f"compare.py: infer.py failed: {done.stderr.strip()[-500:]}")
    return float(found[1]) / 60


def served(url: str, token: str | None, contents: list[bytes], requests: int) -> tuple[float, float]:
    """Photos per second of the service, and its 99th percentile of seconds, with a client for each picture."""
    load = Load(url, token, requests, None)
    threads = [threading.Thread(target=load.client, args=(content,)) for content in contents]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if load.lost or load.wrong:
        raise SystemExit(f"compare.py: {load.lost} answers were lost and {load.wrong} wrong")
    return requests / seconds, sorted(load.seconds)[min(requests - 1, requests * 99 // 100)]


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:18080")
    parser.add_argument("--token")
    parser.add_argument("--model_dir", type=Path, default=ROOT / "build" / "serving" / "models")
    parser.add_argument("--image", type=Path, default=ROOT / "assets" / "demo" / "astronaut.jpg")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--photos", type=int, default=48, help="in each turn")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    contents = pictures(args.image, args.clients)
    rates: dict[str, list[float]] = {"bare": [], "service": []}
    served(args.url, args.token, contents, args.clients)  # warm-up
    with tempfile.TemporaryDirectory(prefix="ppgan_compare_") as folder:
        for i in range(args.photos):
            (Path(folder) / f"{i:04d}.png").write_bytes(contents[i % args.clients])
        for i in range(args.rounds):
            rates["bare"].append(bare(args.model_dir, Path(folder)))
            rate, slowest = served(args.url, args.token, contents, args.photos)
            rates["service"].append(rate)
            facts = {"round": i, "bare": rates["bare"][-1], "service": rate, "ratio": rate / rates["bare"][-1]}
            print(
                json.dumps({name: round(value, 3) for name, value in {**facts, "p99_s": slowest}.items()}), flush=True
            )
    both = {name: round(statistics.median(values), 3) for name, values in rates.items()}
    print(json.dumps({**both, "ratio": round(both["service"] / both["bare"], 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
