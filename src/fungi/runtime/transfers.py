"""Asynchronous copies between host and device."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def upload(values: Shaped[Tensor, "*axes"], device: torch.device) -> Shaped[Tensor, "*axes"]:
    """Return the values on the device. A copy to a GPU uses pinned memory, and the host does not wait for the copy."""
    if device.type == "cuda" and values.device.type == "cpu" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def download(values: Float[Tensor, " n"]) -> Callable[[], list[float]]:
    """Start a copy of numbers to the host, and return a function that waits for the copy and returns the numbers."""
    if values.device.type != "cuda":
        return values.tolist
    host_values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    end_of_copy = torch.cuda.Event()
    end_of_copy.record()

    def read() -> list[float]:
        end_of_copy.synchronize()
        return host_values.tolist()

    return read
