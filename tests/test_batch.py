"""Stages that overlap: in order, bounded, and ended in good order."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

import pytest

from ppgan_fr.batch import Budget, Stop, StoppedError, patiently, staged


def plain(items, *, read=None, work=None, write=None, **kwargs):
    return staged(
        items,
        read or (lambda item, take: item),
        work or (lambda item, answer: answer),
        write or (lambda item, worked: worked),
        **kwargs,
    )


def test_answers_come_in_the_order_of_the_items_however_long_each_takes():
    def write(item, worked):
        time.sleep(0.02 if item % 3 == 0 else 0)
        return worked * 10

    answers = list(plain(range(12), read=lambda item, take: item + 1, write=write, writers=3))
    assert answers == [(item, (item + 1) * 10) for item in range(12)]


def test_reading_and_writing_go_on_while_one_is_worked_on():
    seen = set()

    def work(item, answer):
        if item == 1:
            deadline = time.monotonic() + 5
            while not {("read", 2), ("write", 0)} <= seen and time.monotonic() < deadline:
                time.sleep(0.001)
            assert {("read", 2), ("write", 0)} <= seen
        return answer

    def note(stage):
        return lambda item, answer: seen.add((stage, item))

    assert len(list(plain(range(4), read=note("read"), work=work, write=note("write")))) == 4


def test_no_more_is_under_way_than_allowed():
    under_way, most, lock = [0], [0], threading.Lock()

    def read(item, take):
        take(10)
        with lock:
            under_way[0] += 10
            most[0] = max(most[0], under_way[0])
        return item

    def write(item, _):
        time.sleep(0.002)
        with lock:
            under_way[0] -= 10

    assert len(list(plain(range(30), read=read, write=write, ahead=8, budget=35))) == 30
    assert 10 < most[0] <= 30


def test_room_is_given_back_when_something_is_written_though_nobody_asks_for_it_yet():
    stop = Stop()
    too_long = threading.Timer(20, setattr, (stop, "signal", signal.SIGTERM))
    too_long.start()
    slow = plain(
        range(4), read=lambda item, take: take(10), write=lambda *_: time.sleep(0.05), budget=10, writers=1, stop=stop
    )
    assert [item for item, _ in slow] == [0, 1, 2, 3]
    too_long.cancel()


def test_an_item_larger_than_the_budget_passes_alone():
    budget, ended = Budget(10), threading.Event()
    budget.take(100, ended)
    threading.Timer(0.05, lambda: budget.give(100)).start()
    budget.take(1, ended)
    assert budget.used == 1


@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_an_exception_ends_the_job_and_what_was_done_before_is_given(stage):
    def broken(item, answer):
        if item == 3:
            raise RuntimeError("at 3")
        return item

    given = []
    with pytest.raises(RuntimeError, match="at 3"):
        for item, _ in plain(range(9), **{stage: broken}):
            given.append(item)
    assert given == list(range(len(given)))
    assert len(given) <= 3


def test_a_stop_begins_nothing_new_and_completes_what_is_worked_on():
    stop, worked, written = Stop(), [], []

    def work(item, answer):
        worked.append(item)
        if item == 4:
            stop.signal = signal.SIGTERM
        return item

    def write(item, _):
        time.sleep(0.01)
        written.append(item)

    given = [item for item, _ in plain(range(100), work=work, write=write, stop=stop)]
    assert worked == sorted(written) == given == [0, 1, 2, 3, 4]


def test_an_item_that_gives_up_counts_as_not_begun():
    def work(item, answer):
        if item == 2:
            raise StoppedError
        return item

    assert [item for item, _ in plain(range(5), work=work)] == [0, 1]


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, also where a shell started the tests in the background and had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_sets_the_flag_and_the_second_acts_as_ever(interruptible):
    with Stop() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 5
        while not stop and time.monotonic() < deadline:
            time.sleep(0.001)
        assert stop.signal == signal.SIGINT
        with pytest.raises(StoppedError):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)


def test_a_passing_fault_is_tried_again_and_a_lasting_one_is_not():
    tries = []

    def action(number, times):
        tries.append(1)
        if len(tries) <= times:
            raise OSError(number, os.strerror(number))
        return "done"

    transient = frozenset({errno.EIO})
    assert patiently(lambda: action(errno.EIO, 2), transient, (0, 0, 0)) == "done"
    assert len(tries) == 3
    tries.clear()
    with pytest.raises(OSError, match="Input/output"):
        patiently(lambda: action(errno.EIO, 99), transient, (0, 0, 0))
    assert len(tries) == 4
    tries.clear()
    with pytest.raises(OSError, match="Permission"):
        patiently(lambda: action(errno.EACCES, 99), transient, (0, 0, 0))
    assert len(tries) == 1
