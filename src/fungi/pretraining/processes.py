"""One process or several, as torchrun or a job file says in the environment; and signals that ask them to stop.

A run that is asked finishes its step, saves, and ends with the status of the signal.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.errors import FungiError
from fungi.runtime.cores import usable_cores
from fungi.runtime.device import choose_device
from fungi.runtime.log import logger


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def summed(self, values: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Return the sum over processes; the values are overwritten."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def shared(self, model: nn.Module) -> Any:
        """Return the model with gradients that are averaged over processes; its inputs stay on their device."""
        return model if self.size == 1 else nn.parallel.DistributedDataParallel(model)

    def agree(self, step: int, device: torch.device, folder: Path) -> None:
        """Raise FungiError in all processes where they begin at unlike steps: not all see what is in a folder."""
        steps = torch.zeros(self.size, dtype=torch.float64, device=device)
        steps[self.rank] = step
        starts = self.summed(steps).long().tolist()
        if len(set(starts)) > 1:
            raise FungiError(
                f"the processes find unlike states in --output-dir {folder} (after steps "
                f"{', '.join(map(str, starts))}). Put it where all of them see it."
            )


@contextmanager
def joined(device_name: str) -> Iterator[tuple[World, torch.device]]:
    """Join the other processes of RANK, WORLD_SIZE and LOCAL_RANK, and yield this one's place and device.

    A process without these variables is alone.

    NCCL between GPUs, gloo between CPUs. FungiError where processes can't find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device_name)
    if size == 1:
        yield World(), device
        return
    if device.type == "cuda":
        device = choose_device(f"cuda:{own_gpu()}")
        torch.cuda.set_device(device)
    try:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise FungiError(
            f"the {size} processes can't find each other ({str(error).splitlines()[0]}). Start them with torchrun, or "
            "set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."
        ) from None
    try:
        yield World(torch.distributed.get_rank(), size), device
    finally:
        torch.distributed.destroy_process_group()


def own_gpu() -> int:
    """Return the GPU of this process among those it sees: `srun` may show each process all GPUs of the node, or one."""
    return int(os.environ.get("LOCAL_RANK", "0")) % max(torch.cuda.device_count(), 1)


def decoding_workers(workers: int, device: torch.device) -> int:
    """Return the number of worker processes for `--num-workers`.

    -1 picks none beside a CPU; beside a GPU one for each core that the process may use but one. Processes that torchrun
    started on a node (LOCAL_WORLD_SIZE) share its cores.
    """
    if workers >= 0:
        return workers
    if device.type == "cpu":
        return 0
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes of this node
    return max(1, usable_cores() // sharing - 1)


def steps_ahead(device: torch.device) -> int:
    """Return how many steps are launched before the numbers of a step are read: a GPU must not wait for the host."""
    return 1 if device.type == "cuda" else 0


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
def stop_on_signals() -> Iterator[StopRequest]:
    """Note signals instead of ending the process, and restore their handlers afterwards."""
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
