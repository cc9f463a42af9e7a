"""Several blocks may wait for the disk: then a slow write does not stop the device. Simulated times, no clock."""

import pytest

from fungi.extraction.writing import WAITING_BLOCKS, HostBlock
from fungi.runtime import background

WRITES = [1, 1, 1, 9] * 25
"""Seconds of each write: now and then the disk is slow. A block takes the device 4 seconds, a write 3 on average."""


class Simulated:
    """A caller, a device with an in-order queue and a thread with an in-order queue, each with a time of its own.

    The caller launches blocks in no time. Stands in for the executor of `in_background`, too.
    """

    def __init__(self) -> None:
        self.caller = self.device = self.thread = self.busy = 0.0
        self.written: list[int] = []

    def launch(self, seconds: float) -> HostBlock:
        self.device, self.busy = max(self.device, self.caller) + seconds, self.busy + seconds
        return HostBlock({}, Moment(self, self.device))

    def write(self, block: HostBlock, number: int) -> None:
        block.wait()
        self.thread += WRITES[number]
        self.written.append(number)

    def submit(self, work: background.Work) -> "Moment":
        self.thread = max(self.thread, self.caller)
        work()
        return Moment(self, self.thread)

    def __enter__(self) -> "Simulated":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left: all work was done when it was handed over."""


class Moment:
    """A time at which a block has arrived on the host, or has been written."""

    def __init__(self, queue: Simulated, time: float) -> None:
        self.queue, self.time = queue, time

    def synchronize(self) -> None:
        self.queue.thread = max(self.queue.thread, self.time)

    def done(self) -> bool:
        return self.time <= self.queue.caller

    def result(self) -> None:
        self.queue.caller = max(self.queue.caller, self.time)


def busy_share(waiting: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the share of the time until the last block is computed in which the device computes."""
    queue = Simulated()
    monkeypatch.setattr(background, "ThreadPoolExecutor", lambda max_workers: queue)
    with background.in_background(waiting) as do:
        for number in range(len(WRITES)):
            block = queue.launch(4)
            do(lambda block=block, number=number: queue.write(block, number))
    assert queue.written == list(range(len(WRITES)))
    assert queue.caller == queue.thread, "at the end everything has been written"
    return queue.busy / queue.device


def test_a_device_is_busier_where_several_blocks_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [busy_share(waiting, monkeypatch) for waiting in range(WAITING_BLOCKS + 1)]
    assert shares == sorted(shares)
    assert shares[0] < shares[1] < shares[-1] == 1, shares
