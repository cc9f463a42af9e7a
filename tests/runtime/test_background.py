"""Work in the background: in order, all of it, and no error lost."""

import threading
from functools import partial

import pytest

from fungi.runtime.background import WAITING, in_background


def test_all_work_is_done_in_order_in_the_background() -> None:
    done: list[tuple[int, bool]] = []
    with in_background() as do:
        for number in range(20):
            do(partial(lambda n: done.append((n, threading.current_thread() is threading.main_thread())), number))
    assert done == [(number, False) for number in range(20)]


def test_the_caller_goes_on_while_few_pieces_wait_and_stops_at_more() -> None:
    release, started = threading.Event(), threading.Semaphore(0)

    def slow() -> None:
        started.release()
        assert release.wait(10)

    with in_background() as do:
        for _ in range(WAITING + 1):
            do(slow)
        assert started.acquire(timeout=10)
        caller = threading.Thread(target=do, args=(slow,))
        caller.start()
        caller.join(0.2)
        held = caller.is_alive()
        release.set()
        caller.join(10)
    assert held


def fail() -> None:
    raise ValueError("full")


def endless(done: list[str]) -> None:
    with in_background() as do:
        do(fail)
        while True:
            do(partial(done.append, "later"))


def broken() -> None:
    with in_background() as do:
        do(fail)
        raise KeyError("before")


def once() -> None:
    with in_background() as do:
        do(fail)


def test_the_first_error_reaches_the_caller() -> None:
    done: list[str] = []
    with pytest.raises(ValueError, match="full"):
        endless(done)
    assert len(done) <= WAITING + 1
    with pytest.raises(ValueError, match="full"):
        once()


def test_an_error_of_the_caller_goes_first() -> None:
    with pytest.raises(KeyError):
        broken()
