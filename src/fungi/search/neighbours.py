"""Input and output of a search: blocks of keys, and the nearest keys."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

Keys = Callable[[], Iterable[tuple[slice, Float[Tensor, "b d"]]]]
"""Each call yields all blocks of keys, as (slice of their rows, `[b d]`), from memory or from files."""


class Neighbours(NamedTuple):
    """The nearest keys of each query, nearest first.

    scores: squared distances (`euclidean`, ascending) or products (`inner-product`, descending), in float32; rows:
    indices of the keys. Both are on the device of the queries.
    """

    scores: Float[Tensor, "q k"]
    rows: Int64[Tensor, "q k"]


@runtime_checkable
class StoredKeys(Protocol):
    """Keys that may be too large for memory, such as a bank of patches."""

    rows: int
    dim: int

    def windows(self, size: int) -> Iterator[tuple[int, Float[np.ndarray, "n d"]]]:
        """Yield windows of at most `size` rows, each with the index of its first row."""


def in_memory(keys: Float[Tensor, "n d"]) -> Keys:
    """Return the keys in a tensor as a single block."""
    return lambda: [(slice(0, keys.shape[0]), keys)]


def in_windows(stored: StoredKeys, size: int, device: torch.device) -> Keys:
    """Return stored keys as blocks of `size` rows, in float32 on a device."""
    return lambda: (
        (slice(start, start + len(window)), torch.from_numpy(window).to(device).float())
        for start, window in stored.windows(size)
    )


def recall(indices: Int64[Tensor, "q k"], truth: Int64[Tensor, "q k"]) -> float:
    """Return the share of the true neighbours that an approximate search returns."""
    hits = [len(set(rows) & set(true_rows)) for rows, true_rows in zip(indices.tolist(), truth.tolist(), strict=True)]
    return sum(hits) / truth.numel()
