"""Split collated batches of views (a tensor, or a dictionary of tensors) into parts, and restore the order."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil
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
    """Yield groups of at most `size` samples as (rows, part of the batch). Sizes are as equal as possible."""
    groups = ceil(length(batch) / size)
    group_size = ceil(length(batch) / groups)
    for start in range(0, length(batch), group_size):
        part = map_tensors(batch, itemgetter(slice(start, start + group_size)))
        yield torch.arange(start, start + length(part)), part


def batch_order(rows_of_groups: Sequence[Tensor]) -> Tensor:
    """Return the indices that bring the concatenated results of groups into the order of the batch."""
    return torch.argsort(torch.cat(list(rows_of_groups)))


def map_tensors(batch: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to a batch. If the batch is a dictionary, apply the function to each of its tensors."""
    if isinstance(batch, dict):
        return {name: function(values) for name, values in batch.items()}
    return function(batch)
