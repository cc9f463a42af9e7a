"""Connect the processes of a distributed training, and stop a run after a signal.

The processes are described by the environment variables of torchrun. After a signal, a run finishes its step, saves a
checkpoint and exits with the status of the signal.
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
    """The rank of this process, and the number of processes that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def summed(self, values: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Return the sum of the values of all processes. Overwrites `values`."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def gathered(self, items: list[Any]) -> list[Any]:
        """Return the items of all processes, in the order of the processes."""
        if self.size == 1:
            return items
        lists: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(lists, items)
        return [item for items_of_process in lists for item in items_of_process]

    def shared(self, model: nn.Module) -> Any:
        """Return the model in a wrapper that averages gradients over processes. Inputs stay on their device."""
        return model if self.size == 1 else nn.parallel.DistributedDataParallel(model)

    def require_same_step(self, step: int, device: torch.device, folder: Path) -> None:
        """Raise FungiError in all processes if the processes start at different steps.

        Different steps mean that some processes cannot see the checkpoint in the folder.
        """
        steps = torch.zeros(self.size, dtype=torch.float64, device=device)
        steps[self.rank] = step
        starts = self.summed(steps).long().tolist()
        if len(set(starts)) > 1:
            raise FungiError(
                f"the processes find different checkpoints in --output-dir {folder} (after steps "
                f"{', '.join(map(str, starts))}). Use a folder that all processes share."
            )


_GROUPS: list[Any] = []
"""Process groups, which have to outlive the model.

If the model has the last reference to a group, the end of the model waits for the thread of gloo and holds Python's
lock (GIL). This thread may need the lock to free a tensor, so the process would hang. If this list has the last
reference, the end of the group does not hold the lock.
"""


@contextmanager
def process_group(device_name: str) -> Iterator[tuple[World, torch.device]]:
    """Connect this process with the other processes. Yield the `World` and the device of this process.

    The environment variables RANK, WORLD_SIZE and LOCAL_RANK describe the processes. Without these variables, there is
    a single process. GPUs communicate with NCCL, CPUs with gloo. Raises FungiError if the processes cannot connect.
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
            f"the {size} processes cannot connect ({str(error).splitlines()[0]}). Start them with torchrun, or "
            "set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."
        ) from None
    _GROUPS.append(torch.distributed.group.WORLD)
    try:
        yield World(torch.distributed.get_rank(), size), device
    finally:
        torch.distributed.destroy_process_group()


def own_gpu() -> int:
    """Return the index of the GPU of this process.

    With `srun`, a process may see all GPUs of the node, or only its own GPU.
    """
    return int(os.environ.get("LOCAL_RANK", "0")) % max(torch.cuda.device_count(), 1)


def decoding_workers(workers: int, device: torch.device) -> int:
    """Return the number of worker processes for `--num-workers`.

    -1 means no workers on a CPU, and all usable cores except one on a GPU. The processes that torchrun started on a
    node (LOCAL_WORLD_SIZE) share the cores of the node.
    """
    if workers >= 0:
        return workers
    if device.type == "cpu":
        return 0
    processes_of_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, usable_cores() // processes_of_node - 1)


def steps_ahead(device: torch.device) -> int:
    """Return the number of steps that may start before the loss of a step is read. With 1, a GPU does not wait."""
    return 1 if device.type == "cuda" else 0


SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass
class StopRequest:
    """The signal that this process received; 0 if it received no signal."""

    signal: int = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    @property
    def status(self) -> int:
        """The exit status that a shell reports after this signal, or after SIGTERM if only other processes got one."""
        return 128 + (self.signal or signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Record signals instead of ending the process. Restore the signal handlers at the end."""
    request = StopRequest()

    def record(number: int, _frame: object) -> None:
        request.signal = number

    earlier_handlers = {number: signal.signal(number, record) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in earlier_handlers.items():
            signal.signal(number, handler)


def queue_again(request: StopRequest) -> None:
    """Requeue this SLURM job if this process received SIGUSR1, the warning before the time limit.

    If FUNGI_JOB_REQUEUES is set, do nothing, because the job script requeues the job.
    """
    job = os.environ.get("SLURM_JOB_ID") if not os.environ.get("FUNGI_JOB_REQUEUES") else None
    if request.signal == signal.SIGUSR1 and job and shutil.which("scontrol"):
        logger.info(f"the time limit is near: job {job} is queued again")
        subprocess.run(["scontrol", "requeue", job], check=False)
