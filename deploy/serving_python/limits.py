"""Who may come in now: so many requests at once, so many of one client, so many a minute, and the right token."""

from __future__ import annotations

import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.serving_python.wire import Code, RefusedError

REMEMBERED = 4096
"""Clients whose pace is kept in mind; beyond that the one not seen for longest is forgotten."""


class Limits:
    """Counts requests. Safe to use from several threads."""

    def __init__(
        self,
        max_in_flight: int,
        max_per_client: int,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`per_minute` requests of one client are allowed; after a pause as many may come at once."""
        self.max_in_flight, self.max_per_client, self.per_minute = max_in_flight, max_per_client, per_minute
        self.clock = clock
        self.in_flight = 0
        self._by_client: dict[str, int] = {}
        self._pace: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._closed = False

    @contextmanager
    def admit(self, client: str) -> Iterator[None]:
        """Holds a place while a request is served.

        Raises:
            RefusedError: busy, stopping, or this client asks too much.
        """
        with self._lock:
            self._check(client)
            self.in_flight += 1
            self._by_client[client] = self._by_client.get(client, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1
                self._by_client[client] -= 1
                if not self._by_client[client]:
                    del self._by_client[client]
                self._idle.notify_all()

    def _check(self, client: str) -> None:
        if self._closed:
            raise RefusedError(Code.STOPPING, "the service is stopping")
        if self.in_flight >= self.max_in_flight:
            raise RefusedError(Code.BUSY, "the service is busy; try again shortly")
        if self._by_client.get(client, 0) >= self.max_per_client:
            raise RefusedError(Code.TOO_MANY, f"at most {self.max_per_client} requests of one client at a time")
        now = self.clock()
        left, seen = self._pace.pop(client, (self.per_minute, now))
        left = min(self.per_minute, left + (now - seen) * self.per_minute / 60)
        allowed = left >= 1
        self._pace[client] = (left - 1 if allowed else left, now)
        if len(self._pace) > REMEMBERED:
            self._pace.popitem(last=False)
        if not allowed:
            raise RefusedError(Code.TOO_MANY, f"at most {self.per_minute:g} requests of one client a minute")

    def close(self, seconds: float) -> bool:
        """Lets nobody in any more and waits for those inside; whether all of them left in time."""
        with self._lock:
            self._closed = True
            return self._idle.wait_for(lambda: self.in_flight == 0, seconds)

    @property
    def closed(self) -> bool:
        """Whether the service is stopping."""
        return self._closed


def check_token(expected: str | None, header: str | None) -> None:
    """Compares `Authorization: Bearer ...` in constant time.

    Raises:
        RefusedError: another token, or none where one is needed.
    """
    if expected is None:
        return
    kind, _, given = (header or "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), expected.encode("utf-8"))
    if kind.lower() != "bearer" or not same:
        raise RefusedError(Code.UNAUTHORIZED, "a bearer token is needed")
