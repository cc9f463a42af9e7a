"""One process or several: what torchrun, or a job file, says in the environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fungi.errors import FungiError
from fungi.runtime.device import choose_device


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def summed(self, values: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values


@contextmanager
def joined(device_name: str) -> Iterator[tuple[World, torch.device]]:
    """This process's place and device, as RANK, WORLD_SIZE and LOCAL_RANK say; alone where they are not set.

    NCCL between GPUs, gloo between CPUs. FungiError where processes can't find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device_name)
    if size == 1:
        yield World(), device
        return
    if device.type == "cuda":
        device = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
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


def decoding_workers(asked: int, device: torch.device) -> int:
    """Worker processes for `--num-workers`; -1 picks none beside a CPU, and up to 10 beside a GPU."""
    if asked >= 0:
        return asked
    return 0 if device.type == "cpu" else max(1, min(10, len(os.sched_getaffinity(0)) - 1))
