"""Counters in the text form of Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Callable

BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)
PREFIX = "ppgan_serving_"


class Metrics:
    """Counters, gauges read when asked for, and one histogram of seconds per request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, str], float] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Raises a counter. Label values come from fixed lists, never from a request."""
        text = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        with self._lock:
            self._counters[name, text] = self._counters.get((name, text), 0) + amount

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Declares a value that is read whenever somebody asks."""
        self._gauges[name] = read

    def observe(self, seconds: float) -> None:
        """Counts a request that was served."""
        with self._lock:
            index = next((i for i, limit in enumerate(BUCKETS) if seconds <= limit), len(BUCKETS))
            self._buckets[index] += 1
            self._seconds += seconds

    def text(self) -> str:
        """The page `/metrics`."""
        lines = []
        with self._lock:
            for name in sorted({name for name, _ in self._counters}):
                lines.append(f"# TYPE {PREFIX}{name} counter")
                for (other, labels), value in sorted(self._counters.items()):
                    if other == name:
                        lines.append(f"{PREFIX}{name}{{{labels}}} {value:g}" if labels else f"{PREFIX}{name} {value:g}")
            lines.append(f"# TYPE {PREFIX}request_seconds histogram")
            total = 0
            for limit, count in zip((*BUCKETS, "+Inf"), self._buckets):
                total += count
                lines.append(f'{PREFIX}request_seconds_bucket{{le="{limit}"}} {total}')
            lines.append(f"{PREFIX}request_seconds_sum {self._seconds:.6f}")
            lines.append(f"{PREFIX}request_seconds_count {total}")
        for name, read in sorted(self._gauges.items()):
            lines += [f"# TYPE {PREFIX}{name} gauge", f"{PREFIX}{name} {read():g}"]
        return "\n".join(lines) + "\n"
