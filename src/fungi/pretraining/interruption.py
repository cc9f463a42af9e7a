"""Signals that ask a run to stop: it finishes its step, saves, and ends with the status of the signal."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fungi.runtime.log import logger

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass
class StopRequest:
    """The signal that came, if any."""

    signal: int = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    @property
    def status(self) -> int:
        """What a shell reports of a process that this signal ended."""
        return 128 + (self.signal or signal.SIGTERM)


@contextmanager
def heeded() -> Iterator[StopRequest]:
    """Signals are noted instead of ending the process; as before afterwards."""
    request = StopRequest()

    def note(number: int, _frame: object) -> None:
        request.signal = number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def queue_again(request: StopRequest) -> None:
    """Put this SLURM job back into the queue, where the warning before the time limit (SIGUSR1) came to this process.

    A job's script that gets the warning itself sees to the queue (FUNGI_JOB_REQUEUES).
    """
    job = os.environ.get("SLURM_JOB_ID") if not os.environ.get("FUNGI_JOB_REQUEUES") else None
    if request.signal == signal.SIGUSR1 and job and shutil.which("scontrol"):
        logger.info(f"out of time: job {job} goes back into the queue")
        subprocess.run(["scontrol", "requeue", job], check=False)
