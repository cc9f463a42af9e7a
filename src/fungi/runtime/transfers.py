"""Copies between host and device that the host does not wait for."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def upload(values: Shaped[Tensor, "*axes"], device: torch.device) -> Shaped[Tensor, "*axes"]:
    """Return the values on the device; on a GPU they are copied from pinned memory, behind the work in its queue."""
    if device.type == "cuda" and values.device.type == "cpu" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def download(values: Float[Tensor, " n"]) -> Callable[[], list[float]]:
    """Begin to copy numbers to the host, and return a function that waits for them and returns them."""
    if values.device.type != "cuda":
        return values.tolist
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> list[float]:
        copied.synchronize()
        return host.tolist()

    return read
