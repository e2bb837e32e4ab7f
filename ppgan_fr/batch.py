"""Many items through three stages at once, in order: read ahead, work, write behind.

Knows nothing of pictures. What comes out depends on the items alone, never on how many are under way: every item goes
through `work` by itself.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Worked = TypeVar("Worked")
Written = TypeVar("Written")


class StoppedError(Exception):
    """Raised by `work` when it gives up half-way because the job is to stop; the item counts as not begun."""


class Stop:
    """Whether the job is to end early, and by which signal.

    As a context, the first SIGINT or SIGTERM only sets the flag: what is under way is finished or given up in good
    order. A second one acts as if nobody had asked.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raises `StoppedError` when the job is to stop."""
        if self:
            raise StoppedError


class Budget:
    """Bounds the sum of sizes under way. A single item larger than the whole budget passes when it is alone."""

    def __init__(self, limit: int):
        self.limit, self.used = limit, 0
        self._changed = threading.Condition()

    def take(self, size: int, ended: threading.Event) -> None:
        """Waits until there is room for `size`, or until the job has ended."""
        with self._changed:
            while self.used and self.used + size > self.limit and not ended.is_set():
                self._changed.wait(0.1)
            self.used += size

    def give(self, size: int) -> None:
        """Returns what was taken."""
        with self._changed:
            self.used -= size
            self._changed.notify_all()


def staged(
    items: Iterable[Item],
    read: Callable[[Item, Callable[[int], None]], Read],
    work: Callable[[Item, Read], Worked],
    write: Callable[[Item, Worked], Written],
    *,
    ahead: int = 4,
    writers: int = 2,
    budget: int = 100_000_000,
    stop: Stop | None = None,
) -> Iterator[tuple[Item, Written]]:
    """Yields each item with what `write` said, in the order of `items`.

    Args:
        items: in order.
        read: called in a thread of its own, one item after the other, with a function to be told the item's size
        before much memory is used for it.
        work: called in the caller's thread, in order; may raise `StoppedError`.
        write: called in one of `writers` threads.
        ahead: how many items may be read and not yet worked on, and how many worked on and not yet written.
        writers: threads that write.
        budget: largest sum of sizes under way.
        stop: when it is set, nothing new is begun; what is worked on is still written and yielded.

    Raises:
        Exception: whatever a stage raises; then nothing new is begun, and what is being written is completed.
    """
    stop = Stop() if stop is None else stop
    ended = threading.Event()
    room = Budget(budget)
    done_reading: queue.Queue[tuple[Any, Any, int, BaseException | None]] = queue.Queue(ahead)

    def read_all() -> None:
        for item in items:
            taken: list[int] = []

            def take(size: int, taken: list[int] = taken) -> None:
                room.take(size, ended)
                taken.append(size)

            answer, error = None, None
            try:
                answer = read(item, take)
            except BaseException as caught:  # noqa: BLE001 - raised again in the caller's thread
                error = caught
            if not _put(done_reading, (item, answer, sum(taken), error), ended) or error is not None:
                return
        _put(done_reading, (None, None, -1, None), ended)

    waiting: deque[tuple[Any, Future]] = deque()
    reader = threading.Thread(target=read_all, name="read", daemon=True)
    reader.start()
    with ThreadPoolExecutor(writers, "write") as pool:
        try:
            while not stop:
                item, answer, size, error = _get(done_reading, stop)
                if size < 0:
                    break
                if error is not None:
                    raise error
                try:
                    worked = work(item, answer)
                except StoppedError:
                    break
                future = pool.submit(write, item, worked)
                # Not when it is yielded: this thread may be waiting for a reader that waits for this very room.
                future.add_done_callback(lambda _, size=size: room.give(size))
                waiting.append((item, future))
                del answer, worked
                while waiting and (waiting[0][1].done() or len(waiting) > ahead):
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            ended.set()
            pool.shutdown(wait=True, cancel_futures=True)
    reader.join(1.0)


def _first(waiting: deque[tuple[Any, Future]]) -> tuple[Any, Any]:
    item, future = waiting.popleft()
    return item, future.result()


def _put(channel: queue.Queue, value: tuple, ended: threading.Event) -> bool:
    while not ended.is_set():
        try:
            channel.put(value, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


def _get(channel: queue.Queue, stop: Stop) -> tuple:
    while not stop:
        try:
            return channel.get(timeout=0.1)
        except queue.Empty:
            continue
    return None, None, -1, None


def patiently(action: Callable[[], Written], transient: frozenset[int], waits: tuple[float, ...] = (0.1, 0.5, 2.0)):
    """Repeats an action that failed for a reason that may pass: a network share that hiccups, a busy device.

    Args:
        action: without arguments.
        transient: `errno`s that are worth another try.
        waits: seconds before each further try.

    Raises:
        OSError: the last one.
    """
    for wait in waits:
        try:
            return action()
        except OSError as error:
            if error.errno not in transient:
                raise
        time.sleep(wait)
    return action()
