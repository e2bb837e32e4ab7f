"""Simulates an archive going through a fleet: stragglers, machines that die, and what both cost.

  python benchmarks/fleet.py --results output/album/results.jsonl --output output/fleet
  python benchmarks/fleet.py --results output/album/results.jsonl --photos 1000000 --workers 500 --price 0.02

Seconds per photo are drawn from the `results.jsonl` of a real run. A worker takes a share of photos, runs at a speed of
its own, and dies after an exponentially distributed time; what it had not finished goes to others once that is noticed.
With records (one per finished photo, as `deploy/ray_batch` keeps) only the photo in hand is lost, without them the
share. Prints a table, writes fleet.json and fleet.svg.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

SHARES = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Fleet:
    """A fleet and its misfortunes. Times in seconds."""

    workers: int = 200
    spread: float = 0.1
    """Standard deviation of the logarithm of a worker's speed."""
    slow_share: float = 0.02
    """Part of the workers that are slow all the time."""
    slow_factor: float = 3.0
    between_failures: float = float("inf")
    """Mean time between two failures of one worker."""
    noticed: float = 15.0
    """Until a share that died is given to somebody else."""
    restart: float = 90.0
    """Until a worker that died is back, with its networks loaded."""
    handover: float = 0.05
    """To get a share and to hand in its results."""


@dataclass(frozen=True)
class Outcome:
    """What a run took."""

    seconds: float
    """From the first photo to the last."""
    ideal: float
    """Of the same work, evenly on the same workers, none of which ever died."""
    lost: float
    """Worker seconds of work that had to be done again."""
    waited: float
    """Worker seconds at the end, when there was nothing left to take."""
    failures: int

    @property
    def efficiency(self) -> float:
        """1: no worker ever waited, died or repeated anything."""
        return self.ideal / self.seconds


def simulate(seconds: np.ndarray, fleet: Fleet, share: int, *, records: bool = True, seed: int = 0) -> Outcome:
    """Runs all photos through the fleet.

    Args:
        seconds: of each photo on a worker of speed 1.
        fleet: who works.
        share: photos handed out at a time.
        records: finished photos of a share that dies stay done.
        seed: of speeds and failures.
    """
    rng = np.random.default_rng(seed)
    slowness = np.exp(rng.normal(0, fleet.spread, fleet.workers))
    slowness[rng.permutation(fleet.workers)[: round(fleet.slow_share * fleet.workers)]] *= fleet.slow_factor
    until = np.concatenate([[0.0], np.cumsum(seconds)])
    dies = rng.exponential(fleet.between_failures, fleet.workers) if np.isfinite(fleet.between_failures) else None
    free = [(0.0, worker) for worker in range(fleet.workers)]
    returned: list[tuple[float, int, int]] = []
    taken, lost, waited, failures, last = 0, 0.0, 0.0, 0, 0.0
    idle: list[float] = []
    while free:
        now, worker = heapq.heappop(free)
        if returned and (returned[0][0] <= now or taken >= len(seconds)):
            available, first, end = heapq.heappop(returned)
            waited += max(0.0, available - now)
            now = max(now, available)
        elif taken < len(seconds):
            first, end = taken, min(taken + share, len(seconds))
            taken = end
        else:
            idle.append(now)
            continue
        pace = slowness[worker]
        done = now + fleet.handover + pace * (until[end] - until[first])
        if dies is None or done <= dies[worker]:
            last = max(last, done)
            heapq.heappush(free, (done, worker))
            continue
        death, failures = max(float(dies[worker]), now), failures + 1
        worked = max(0.0, death - now - fleet.handover) / pace
        reached = int(np.searchsorted(until, until[first] + worked, side="right")) - 1 if records else first
        reached = min(max(reached, first), end - 1)
        lost += pace * (worked - (until[reached] - until[first]))
        heapq.heappush(returned, (death + fleet.noticed, reached, end))
        dies[worker] = death + fleet.restart + rng.exponential(fleet.between_failures)
        heapq.heappush(free, (death + fleet.restart, worker))
    ideal = float(until[-1] / (1 / slowness).sum())
    waited += float(sum(max(0.0, last - one) for one in idle))
    return Outcome(last, ideal, lost, waited, failures)


def seconds_of(paths: Sequence[Path]) -> tuple[np.ndarray, int]:
    """Seconds of every photo in some `results.jsonl` that went through, and how many faces they had together.

    Raises:
        ValueError: there is none.
    """
    lines = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    good = [line for line in lines if line["status"] in ("ok", "no_face")]
    if not good:
        raise ValueError("no photo in these results went through")
    return np.array([line["seconds"] for line in good]), sum(len(line["faces"]) for line in good)


def cost(worker_seconds: float, cpus: int, price: float) -> float:
    """What that much work costs, `price` per processor and hour."""
    return worker_seconds / 3600 * cpus * price


def svg(curves: dict[str, list[tuple[int, float]]], title: str) -> str:
    """A chart of efficiency over the size of a share, which has a logarithmic axis."""
    width, height, left, top, right, bottom = 640, 380, 60, 40, 210, 50
    colours = ("#1b6ca8", "#d1495b", "#2e8b57", "#b8860b", "#6a4c93", "#555555")
    sizes = sorted({size for points in curves.values() for size, _ in points})
    lowest = min(value for points in curves.values() for _, value in points)
    floor = np.floor(min(lowest, 0.9) * 10) / 10

    def x(size: int) -> float:
        span = np.log(sizes[-1] / sizes[0]) or 1.0
        return left + (width - left - right) * float(np.log(size / sizes[0]) / span)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (value - floor) / (1 - floor))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
        ' font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="22" font-size="14">{title}</text>',
        f'<text x="{(left + width - right) / 2}" y="{height - 12}" text-anchor="middle">photos per share</text>',
    ]
    for value in np.arange(floor, 1.001, 0.1 if floor < 0.7 else 0.05):
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{100 * value:.0f} %</text>')
    for size in sizes:
        parts.append(f'<text x="{x(size):.1f}" y="{height - bottom + 18}" text-anchor="middle">{size}</text>')
    for i, (name, points) in enumerate(curves.items()):
        line = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colours[i % 6]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{colours[i % 6]}"/>' for a, b in points]
        place = top + 14 + 20 * i
        parts.append(f'<rect x="{width - right + 12}" y="{place - 9}" width="10" height="10" fill="{colours[i % 6]}"/>')
        parts.append(f'<text x="{width - right + 28}" y="{place}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="results.jsonl of real runs")
    parser.add_argument("--output", type=Path, default=Path("output/fleet"))
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--hours-between-failures", type=float, default=4.0, help="of one worker (default 4)")
    parser.add_argument("--slow-share", type=float, default=0.02, help="part of the workers that are slow (0.02)")
    parser.add_argument("--slow-factor", type=float, default=3.0, help="how much slower these are (3)")
    parser.add_argument("--cpus-per-worker", type=int, default=2)
    parser.add_argument("--price", type=float, default=0.04, help="of a processor and hour (default 0.04)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    args = parse(given)
    measured, faces = seconds_of(args.results)
    photos = np.random.default_rng(args.seed).choice(measured, args.photos)
    calm = Fleet(args.workers, slow_share=args.slow_share, slow_factor=args.slow_factor)
    rough = Fleet(**{**asdict(calm), "between_failures": 3600 * args.hours_between_failures})
    even = Fleet(args.workers, spread=0.0, slow_share=0.0)
    cases = {
        "equal machines": (even, True),
        "some are slow": (calm, True),
        "some slow, some die": (rough, True),
        "the same, no records": (rough, False),
    }
    curves: dict[str, list[tuple[int, float]]] = {}
    rows = []
    print(f"{len(measured)} measured photos, {faces} faces: mean {measured.mean():.2f} s, median", end=" ")
    print(f"{np.median(measured):.2f}, 95 % below {np.percentile(measured, 95):.2f}, longest {measured.max():.2f}")
    print(f"{'case':24} {'share':>6} {'hours':>8} {'efficiency':>10} {'deaths':>7} {'repeated':>9} {'cost':>9}")
    for name, (fleet, records) in cases.items():
        for share in SHARES:
            if share * args.workers > 4 * args.photos:
                continue
            outcome = simulate(photos, fleet, share, records=records, seed=args.seed)
            price = cost(outcome.seconds * args.workers, args.cpus_per_worker, args.price)
            curves.setdefault(name, []).append((share, outcome.efficiency))
            rows.append({"case": name, "share": share, **asdict(outcome), "cost": round(price, 2)})
            repeated = outcome.lost / photos.sum()
            print(
                f"{name:24} {share:6} {outcome.seconds / 3600:8.3f} {outcome.efficiency:10.1%} {outcome.failures:7}"
                f" {repeated:9.2%} {price:9.2f}"
            )
    args.output.mkdir(parents=True, exist_ok=True)
    facts = {
        "photos": args.photos,
        "workers": args.workers,
        "mean_seconds": float(measured.mean()),
        "worker_hours_per_million_photos": float(measured.mean() * 1e6 / 3600),
        "cost_per_million_photos": cost(float(measured.mean()) * 1e6, args.cpus_per_worker, args.price),
        "cost_per_million_faces": cost(float(measured.sum()) / max(faces, 1) * 1e6, args.cpus_per_worker, args.price),
    }
    print(
        f"a million photos: {facts['worker_hours_per_million_photos']:.0f} worker hours,"
        f" {facts['cost_per_million_photos']:.2f} at {args.price} per processor hour;"
        f" a million faces: {facts['cost_per_million_faces']:.2f}"
    )
    (args.output / "fleet.json").write_text(json.dumps({**facts, "runs": rows}, indent=1) + "\n", encoding="utf-8")
    title = f"{args.photos:,} photos, {args.workers} workers: part of the ideal speed"
    (args.output / "fleet.svg").write_text(svg(curves, title), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
