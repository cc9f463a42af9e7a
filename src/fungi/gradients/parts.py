"""Divide collated batches of views, which are tensors or dictionaries of tensors, into groups of rows."""

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor


def length(batch: Any) -> int:
    """Return the number of samples of a batch."""
    return len(next(iter(batch.values()))) if isinstance(batch, dict) else len(batch)


def side(inputs: Any) -> int:
    """Return the side of square images in pixels."""
    return int((inputs["images"] if isinstance(inputs, dict) else inputs).shape[-1])


def in_turn(batch: Any, size: int) -> Iterator[tuple[Tensor, Any]]:
    """Yield (rows, part) of groups of at most `size` samples, of nearly equal size, since small groups waste time."""
    size = -(-length(batch) // -(-length(batch) // size))
    for start in range(0, length(batch), size):
        part = each(batch, itemgetter(slice(start, start + size)))
        yield torch.arange(start, start + length(part)), part


def places(order: Sequence[Tensor]) -> Tensor:
    """Return the place of each row of a batch in the concatenation of its groups."""
    return torch.argsort(torch.cat(list(order)))


def each(batch: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to a batch that is a tensor, or to each tensor of a batch that is a dictionary."""
    return {name: function(v) for name, v in batch.items()} if isinstance(batch, dict) else function(batch)
