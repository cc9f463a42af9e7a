"""What a search takes and gives: keys, and the nearest of them."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

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


def in_memory(keys: Float[Tensor, "n d"]) -> Keys:
    """Keys that are one tensor."""
    return lambda: [(slice(0, keys.shape[0]), keys)]


def recall(found: Int64[Tensor, "q k"], truth: Int64[Tensor, "q k"]) -> float:
    """Share of the true neighbours that an approximate search found."""
    hits = [len(set(mine) & set(right)) for mine, right in zip(found.tolist(), truth.tolist(), strict=True)]
    return sum(hits) / truth.numel()
