"""Compares the `metric: value` lines of logs with a reference file.

    python test_tipc/compare_results.py --gt_file REFERENCE --log_file 'GLOB' --atol 1e-3 --rtol 1e-3

Every log that matches has to hold every metric of the reference, or those whose name matches `--metrics`. Exit code 1
with one line per difference; also when there is no log or no reference. `--gt_file` may be one of the logs.
"""

from __future__ import annotations

import argparse
import fnmatch
import glob
import math
import re
import sys
from pathlib import Path

METRIC = re.compile(r"^([\w.@/-]+): (-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|-?inf)$", re.I)


def read_metrics(path: Path) -> dict[str, float]:
    """The metrics of a file; of one that stands there twice the last counts."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {found[1]: float(found[2]) for line in lines if (found := METRIC.match(line.strip()))}


def differences(reference: dict[str, float], found: dict[str, float], atol: float, rtol: float) -> list[str]:
    """One sentence per metric that is missing or off by more than `atol + rtol * |reference|`."""
    wrong = []
    for name, value in reference.items():
        if name not in found:
            wrong.append(f"{name} is missing")
        elif not math.isfinite(found[name]) or not abs(found[name] - value) <= atol + rtol * abs(value):
            wrong.append(f"{name} is {found[name]}, the reference has {value}")
    return wrong


def compare(reference_file: Path, pattern: str, atol: float, rtol: float, metrics: str = "*") -> list[str]:
    """Everything that keeps the logs from agreeing with the reference; nothing when they do."""
    if not reference_file.is_file():
        return [f"{reference_file}: no such reference file"]
    reference = {name: value for name, value in read_metrics(reference_file).items() if fnmatch.fnmatch(name, metrics)}
    if not reference:
        return [f"{reference_file}: no line '{metrics}: <number>'"]
    logs = sorted(Path(name) for name in glob.glob(pattern))  # noqa: PTH207 - the pattern may be absolute
    if not logs:
        return [f"{pattern}: no such log"]
    wrong = [f"{log}: {line}" for log in logs for line in differences(reference, read_metrics(log), atol, rtol)]
    if not wrong:
        print(f"{len(logs)} logs agree with {reference_file} in {len(reference)} metrics (atol {atol}, rtol {rtol})")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gt_file", type=Path, required=True)
    parser.add_argument("--log_file", required=True, help="a path or a glob pattern")
    parser.add_argument("--atol", type=float, default=1e-3)
    parser.add_argument("--rtol", type=float, default=1e-3)
    parser.add_argument("--metrics", default="*", help="pattern of the names to compare")
    args = parser.parse_args()
    wrong = compare(args.gt_file, args.log_file, args.atol, args.rtol, args.metrics)
    for line in wrong:
        print(line)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
