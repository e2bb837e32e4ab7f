"""From (seed, step, process) to batches. Which pictures a step sees is a function of these numbers and nothing else.

A resumed run needs only its step number, and a run on several processes sees exactly the pictures of a run on one:
process r of w takes every w-th picture of the batch, beginning with the r-th. (Every w-th, not a block, so that the
groups of StyleGAN2's minibatch statistics are the same ones when the batch of a process is a multiple of the group.)
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

LOGGER = logging.getLogger("ppgan_fr")

Sample = dict[str, np.ndarray]


class DataError(ValueError):
    """A data set that cannot be used, or a file of it that cannot be read."""


class Source(Protocol):
    """What a data set has to offer."""

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    def name(self, index: int) -> str:
        """What to call picture `index` in a message."""
        ...

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Picture `index`, with every random choice drawn from `rng`; raises DataError when it cannot be read."""
        ...


class Place(NamedTuple):
    """Which picture, and in which pass over the data (which decides its random numbers)."""

    epoch: int
    index: int


def indices(seed: int, step: int, batch_size: int, count: int, process: int = 0, processes: int = 1) -> list[Place]:
    """The pictures of one pass of one process.

    Every epoch is a new permutation of the `count` pictures; a batch may reach over its end.

    Args:
        seed: of the run.
        step: number of the pass, from 0.
        batch_size: pictures of the pass over all processes.
        count: number of pictures in the data set.
        process: number of this process.
        processes: how many there are; `batch_size` must be a multiple.

    >>> everything = indices(0, 7, 4, 10)
    >>> indices(0, 7, 4, 10, 0, 2) == everything[::2] and indices(0, 7, 4, 10, 1, 2) == everything[1::2]
    True
    """
    if batch_size % processes:
        raise DataError(f"data.batch_size: {batch_size} pictures cannot be divided among {processes} processes")
    places = []
    for position in range(step * batch_size + process, (step + 1) * batch_size, processes):
        epoch, place = divmod(position, count)
        places.append(Place(epoch, int(_permutation(seed, epoch, count)[place])))
    return places


def generator(seed: int, place: Place) -> np.random.Generator:
    """The random numbers of one picture in one epoch: the same on any process, worker and after a resume."""
    return np.random.default_rng([seed, place.epoch, place.index])


class Loader:
    """Reads the batches of one process ahead of the training, in threads (OpenCV and numpy let them run in parallel).

    A file that cannot be read is reported once, counted in `bad`, and replaced by the next one of the data set that
    can; too many of them end the run with a DataError instead of training on what is left.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int,
        batch_size: int,
        workers: int = 0,
        max_bad_fraction: float = 0.1,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.source, self.seed, self.batch_size = source, seed, batch_size
        self.process, self.processes = process, processes
        self.workers, self.max_bad_fraction = workers, max_bad_fraction
        self.bad: dict[str, str] = {}
        """Name of every file that could not be read -> why."""
        self.seconds_waited = 0.0

    def batches(self, first: int = 0) -> Iterator[Sample]:
        """Endless batches from pass number `first` (0 is the first): dictionaries of arrays, stacked."""
        if not self.workers:
            for step in _count(first):
                yield self._timed(lambda step=step: self._stack([self._read(place) for place in self._places(step)]))
        ahead: deque[list[Future[Sample]]] = deque()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="data") as pool:
            try:
                for step in _count(first):
                    while len(ahead) <= 2:
                        places = self._places(step + len(ahead))
                        ahead.append([pool.submit(self._read, place) for place in places])
                    waiting = ahead.popleft()
                    yield self._timed(lambda waiting=waiting: self._stack([one.result() for one in waiting]))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _places(self, step: int) -> list[Place]:
        return indices(self.seed, step, self.batch_size, len(self.source), self.process, self.processes)

    def _timed(self, read: Callable[[], Sample]) -> Sample:
        began = time.perf_counter()
        batch = read()
        self.seconds_waited = time.perf_counter() - began
        return batch

    def _read(self, place: Place) -> Sample:
        for offset in range(len(self.source)):
            index = (place.index + offset) % len(self.source)
            name = self.source.name(index)
            if name in self.bad:
                continue
            try:
                return self.source.sample(index, generator(self.seed, Place(place.epoch, index)))
            except DataError as error:
                self._report(name, str(error))
        raise DataError(f"none of the {len(self.source)} files of the data set can be used")

    def _report(self, name: str, reason: str) -> None:
        self.bad[name] = reason
        LOGGER.warning("data: skipped %s", reason if name in reason else f"{name}: {reason}")
        if len(self.bad) > self.max_bad_fraction * len(self.source):
            raise DataError(
                f"{len(self.bad)} of {len(self.source)} files cannot be used, more than data.max_bad_fraction "
                f"({self.max_bad_fraction:g}) allows; the last: {reason}"
            )

    @staticmethod
    def _stack(samples: list[Sample]) -> Sample:
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


_PERMUTATIONS: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    key = (seed, epoch, count)
    if key not in _PERMUTATIONS:
        while len(_PERMUTATIONS) > 8:
            _PERMUTATIONS.pop(next(iter(_PERMUTATIONS)))
        _PERMUTATIONS[key] = np.random.default_rng([seed, epoch]).permutation(count)
    return _PERMUTATIONS[key]


def _count(first: int) -> Iterator[int]:
    step = first
    while True:
        yield step
        step += 1
