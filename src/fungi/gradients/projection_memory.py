"""Compare the memory that a projection needs with the free memory, before it is drawn."""

from math import prod

import torch

from fungi.errors import FungiError
from fungi.gradients.projection import product_dtype
from fungi.runtime.memory import free_bytes

BITS_ON_DISK = {"binary": 1, "sparse": 2, "gaussian": 32}


def require_memory(
    kind: str,
    projection_dim: int,
    gradient_shape: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    way_out: str,
) -> None:
    """Raise FungiError if a dense projection `[p G]` does not fit into the free memory.

    This counts the stored form in main memory, and the entries on the device in the dtype of the products. A
    khatri-rao matrix always fits, because it is never dense. gradient_shape: `(o, i + 1)` of the layer; dtype: that of
    the model; way_out: the solution, for the message.
    """
    if kind not in BITS_ON_DISK:
        return
    entries = projection_dim * prod(gradient_shape)
    drawn, dense = entries * BITS_ON_DISK[kind] // 8, entries * product_dtype(dtype).itemsize
    main = torch.device("cpu")
    needs = {main: drawn + dense} if device.type == "cpu" else {main: drawn, device: dense}
    for place, need in needs.items():
        free = free_bytes(place)
        if free is not None and need > free:
            raise FungiError(
                f"a {kind} projection of {projection_dim:,} x {prod(gradient_shape):,} entries takes "
                f"{need / 1e9:.1f} GB of {place.type} memory, but {free / 1e9:.1f} GB are free. {way_out}"
            )
