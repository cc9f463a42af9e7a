"""Batches of images whose sizes differ: lists of what a dataset returns, from worker processes."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fungi.errors import FungiError
from fungi.views.workers import worker_batches


def loaded(images: Any, rows: Sequence[list[Any]], workers: int, device: torch.device) -> Iterator[list[Any]]:
    """Yield a list of the items of each batch of rows. Raises the first FungiError that the dataset returns."""
    return worker_batches(images, rows, _items, num_workers=workers, pin_memory=device.type == "cuda")


def _items(items: list[Any]) -> Any:
    return next((item for item in items if isinstance(item, FungiError)), items)
