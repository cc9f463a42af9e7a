"""Run work in a background thread, so that blocks are checked and written while the device computes the next block."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

Work = Callable[[], None]
WAITING = 1
"""Default number of functions that may wait for the thread."""


@contextmanager
def in_background(waiting: int = WAITING) -> Iterator[Callable[[Work], None]]:
    """Yield a function `submit(work)` that runs the work in one background thread, in order of submission.

    waiting: number of functions that may wait for the thread. If more are submitted, `submit` waits.

    If a function raises an error, a later `submit` or the end of the `with` statement raises this error in the caller.
    An error of the caller itself takes precedence. All work has finished at the end of the `with` statement.
    """
    futures: deque[Future[None]] = deque()

    def submit(work: Work) -> None:
        while futures and (futures[0].done() or len(futures) > waiting):
            futures.popleft().result()  # waits, and raises the error of the function
        futures.append(thread.submit(work))

    with ThreadPoolExecutor(max_workers=1) as thread:
        yield submit
        for future in futures:
            future.result()
