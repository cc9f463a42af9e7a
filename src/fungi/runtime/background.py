"""Run work in a background thread, so that blocks are checked and written while the device computes the next block."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

Work = Callable[[], None]
WAITING = 1


@contextmanager
def in_background(waiting: int = WAITING) -> Iterator[Callable[[Work], None]]:
    """`with in_background() as do: do(work)`: one thread does all work, in order.

    waiting: number of pieces of work that may wait for the thread. If one more is added, the caller waits.

    The first error of a piece of work is raised in the caller, at a later `do` or at the end of the block. An error of
    the caller takes precedence. All work has finished when the block ends.
    """
    under_way: deque[Future[None]] = deque()

    def do(work: Work) -> None:
        while under_way and (under_way[0].done() or len(under_way) > waiting):
            under_way.popleft().result()
        under_way.append(thread.submit(work))

    with ThreadPoolExecutor(max_workers=1) as thread:
        yield do
        for future in under_way:
            future.result()
