"""Before a projection is drawn, compare the memory that it needs with the free memory."""

from math import prod

import torch

from fungi.errors import FungiError
from fungi.gradients.projection import product_dtype
from fungi.runtime.memory import free_bytes

BITS_ON_DISK = {"binary": 1, "sparse": 2, "gaussian": 32}
"""Kind of a dense matrix -> number of stored bits per entry."""


def require_memory(
    kind: str,
    projection_dim: int,
    gradient_shape: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    advice: str,
) -> None:
    """Raise FungiError if a dense projection `[p G]` does not fit into the free memory.

    The projection needs memory for its stored form in main memory, and for its entries on the device in the dtype of
    the products. A khatri-rao matrix always fits, because it is never dense.

    gradient_shape: `(o, i + 1)` of the layer. dtype: dtype of the model. advice: solution, for the message.
    """
    if kind not in BITS_ON_DISK:
        return
    entries = projection_dim * prod(gradient_shape)
    stored_bytes = entries * BITS_ON_DISK[kind] // 8
    dense_bytes = entries * product_dtype(dtype).itemsize
    cpu = torch.device("cpu")
    bytes_by_device = {cpu: stored_bytes, device: dense_bytes}
    if device.type == "cpu":
        bytes_by_device = {cpu: stored_bytes + dense_bytes}
    for memory_device, needed_bytes in bytes_by_device.items():
        free = free_bytes(memory_device)
        if free is not None and needed_bytes > free:
            raise FungiError(
                f"a {kind} projection of {projection_dim:,} x {prod(gradient_shape):,} entries takes "
                f"{needed_bytes / 1e9:.1f} GB of {memory_device.type} memory, but {free / 1e9:.1f} GB are free."
                f" {advice}"
            )
