"""Collated batches of views, as tensors or as named tensors: their rows, parts of them, and the order of parts."""

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor


def length(batch: Any) -> int:
    """Return the number of samples."""
    return len(next(iter(batch.values()))) if isinstance(batch, dict) else len(batch)


def side(inputs: Any) -> int:
    """Side of square images in pixels."""
    return int((inputs["images"] if isinstance(inputs, dict) else inputs).shape[-1])


def in_turn(batch: Any, size: int) -> Iterator[tuple[Tensor, Any]]:
    """Yield (rows, part) of as few groups as their size allows, as even as can be: a small rest would waste time."""
    size = -(-length(batch) // -(-length(batch) // size))
    for start in range(0, length(batch), size):
        part = each(batch, itemgetter(slice(start, start + size)))
        yield torch.arange(start, start + length(part)), part


def places(order: Sequence[Tensor]) -> Tensor:
    """Return where each row of a batch is among the rows of its groups."""
    return torch.argsort(torch.cat(list(order)))


def each(batch: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to a batch that is one tensor, or to each of its named tensors."""
    return {name: function(v) for name, v in batch.items()} if isinstance(batch, dict) else function(batch)
