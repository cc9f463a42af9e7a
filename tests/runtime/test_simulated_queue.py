"""If several blocks may wait for the disk, a slow write does not stop the device. Times are simulated."""

import pytest

from fungi.extraction.writing import WAITING_BLOCKS, HostBlock
from fungi.runtime import background

WRITES = [1, 1, 1, 9] * 25
"""Seconds of each write: every fourth write is slow. Computing a block takes 4 seconds, and a write 3 on average."""


class SimulatedQueues:
    """A caller, a device and a writing thread, each with its own simulated time. Device and thread work in order.

    The caller needs no time to launch a block. The class also replaces the executor of `in_background`.
    """

    def __init__(self) -> None:
        self.caller_time = self.device_time = self.thread_time = self.busy_seconds = 0.0
        self.written: list[int] = []

    def launch(self, seconds: float) -> HostBlock:
        self.device_time = max(self.device_time, self.caller_time) + seconds
        self.busy_seconds += seconds
        return HostBlock({}, SimulatedEvent(self, self.device_time))

    def write(self, block: HostBlock, number: int) -> None:
        block.wait()
        self.thread_time += WRITES[number]
        self.written.append(number)

    def submit(self, work: background.Work) -> "SimulatedEvent":
        self.thread_time = max(self.thread_time, self.caller_time)
        work()
        return SimulatedEvent(self, self.thread_time)

    def __enter__(self) -> "SimulatedQueues":
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: `submit` has already done all work."""


class SimulatedEvent:
    """The moment when a block is on the host, or is written."""

    def __init__(self, queues: SimulatedQueues, time: float) -> None:
        self.queues, self.time = queues, time

    def synchronize(self) -> None:
        self.queues.thread_time = max(self.queues.thread_time, self.time)

    def done(self) -> bool:
        return self.time <= self.queues.caller_time

    def result(self) -> None:
        self.queues.caller_time = max(self.queues.caller_time, self.time)


def busy_share(waiting: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the share of the time in which the device computes, until it has computed the last block."""
    queues = SimulatedQueues()
    monkeypatch.setattr(background, "ThreadPoolExecutor", lambda max_workers: queues)
    with background.in_background(waiting) as submit:
        for number in range(len(WRITES)):
            block = queues.launch(4)
            submit(lambda block=block, number=number: queues.write(block, number))
    assert queues.written == list(range(len(WRITES)))
    assert queues.caller_time == queues.thread_time, "at the end, all blocks are written"
    return queues.busy_seconds / queues.device_time


def test_a_device_computes_more_of_the_time_if_several_blocks_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [busy_share(waiting, monkeypatch) for waiting in range(WAITING_BLOCKS + 1)]
    assert shares == sorted(shares)
    assert shares[0] < shares[1] < shares[-1] == 1, shares
