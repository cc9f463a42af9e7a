"""Work that goes on beside the caller: blocks are checked and written while the device computes the next one."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

Work = Callable[[], None]
WAITING = 1


@contextmanager
def in_background(waiting: int = WAITING) -> Iterator[Callable[[Work], None]]:
    """`with in_background() as do: do(work)`: one thread does all work, in order.

    waiting: pieces of work that may wait for the thread; a further one makes the caller wait.

    The first error of a piece of work is raised in the caller, at a later `do` or at the end; an error of the caller
    goes first. At the end everything has been done.
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
