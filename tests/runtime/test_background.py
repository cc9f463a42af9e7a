"""Work in the background is done in order and completely, and its errors reach the caller."""

import threading
from functools import partial

import pytest

from fungi.runtime.background import WAITING, in_background


def test_background_work_is_done_in_order_in_another_thread() -> None:
    done: list[tuple[int, bool]] = []
    with in_background() as submit:
        for number in range(20):
            submit(partial(lambda n: done.append((n, threading.current_thread() is threading.main_thread())), number))
    assert done == [(number, False) for number in range(20)]


def test_the_caller_waits_only_if_too_many_pieces_of_work_wait() -> None:
    release, started = threading.Event(), threading.Semaphore(0)

    def slow() -> None:
        started.release()
        assert release.wait(10)

    with in_background() as submit:
        for _ in range(WAITING + 1):
            submit(slow)
        assert started.acquire(timeout=10)
        caller = threading.Thread(target=submit, args=(slow,))
        caller.start()
        caller.join(0.2)
        caller_waits = caller.is_alive()
        release.set()
        caller.join(10)
    assert caller_waits


def fail() -> None:
    raise ValueError("full")


def submit_after_a_failure(done: list[str]) -> None:
    with in_background() as submit:
        submit(fail)
        while True:
            submit(partial(done.append, "later"))


def raise_after_a_failure() -> None:
    with in_background() as submit:
        submit(fail)
        raise KeyError("error of the caller")


def end_after_a_failure() -> None:
    with in_background() as submit:
        submit(fail)


def test_the_first_error_reaches_the_caller() -> None:
    done: list[str] = []
    with pytest.raises(ValueError, match="full"):
        submit_after_a_failure(done)
    assert len(done) <= WAITING + 1
    with pytest.raises(ValueError, match="full"):
        end_after_a_failure()


def test_an_error_of_the_caller_has_priority_over_an_error_of_the_work() -> None:
    with pytest.raises(KeyError, match="error of the caller"):
        raise_after_a_failure()
