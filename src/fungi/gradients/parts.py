"""Split collated batches of views (a tensor, or a dictionary of tensors) into parts, and restore the order."""

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


def equal_groups(batch: Any, size: int) -> Iterator[tuple[Tensor, Any]]:
    """Yield (rows, part) of groups of at most `size` samples. Sizes are as equal as possible."""
    size = -(-length(batch) // -(-length(batch) // size))
    for start in range(0, length(batch), size):
        part = each(batch, itemgetter(slice(start, start + size)))
        yield torch.arange(start, start + length(part)), part


def places(order: Sequence[Tensor]) -> Tensor:
    """Return the position of each row of a batch among the rows of its groups."""
    return torch.argsort(torch.cat(list(order)))


def each(batch: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to a batch that is a tensor, or to each tensor of a batch that is a dictionary."""
    return {name: function(v) for name, v in batch.items()} if isinstance(batch, dict) else function(batch)
