"""What a search takes and gives: keys, and the nearest of them."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

Keys = Callable[[], Iterable[tuple[slice, Float[Tensor, "b d"]]]]
"""Gives the keys from the start, as (their places, `[b d]`): they may come from memory or from files."""


class Found(NamedTuple):
    """The nearest keys of each query, best first.

    scores: squared distances (`euclidean`, ascending) or products (`inner-product`, descending), in float32; rows:
    places of the keys. Both are on the device of the queries.
    """

    scores: Float[Tensor, "q k"]
    rows: Int64[Tensor, "q k"]


@runtime_checkable
class StoredKeys(Protocol):
    """Keys that need not fit into memory, as a bank of patches holds them."""

    rows: int
    dim: int

    def windows(self, size: int) -> Iterator[tuple[int, Float[np.ndarray, "n d"]]]:
        """Return all rows, `size` at a time, each window with its first row."""


def in_memory(keys: Float[Tensor, "n d"]) -> Keys:
    """Return keys that are one tensor."""
    return lambda: [(slice(0, keys.shape[0]), keys)]


def in_windows(stored: StoredKeys, size: int, device: torch.device) -> Keys:
    """Return stored keys, `size` at a time, in float32 on a device."""
    return lambda: (
        (slice(start, start + len(window)), torch.from_numpy(window).to(device).float())
        for start, window in stored.windows(size)
    )


def recall(indices: Int64[Tensor, "q k"], truth: Int64[Tensor, "q k"]) -> float:
    """Return the share of the true neighbours that an approximate search returns."""
    hits = [len(set(mine) & set(right)) for mine, right in zip(indices.tolist(), truth.tolist(), strict=True)]
    return sum(hits) / truth.numel()
