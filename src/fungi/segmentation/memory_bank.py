"""Training images -> a bank of patches with their labels (spec dense 3.2)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fungi.data.base import MaskRules
from fungi.errors import FungiError
from fungi.runtime.log import progress
from fungi.segmentation.passes import ImageBlock, Reader
from fungi.segmentation.patches import chosen_patches, patch_labels
from fungi.store.banks import Bank, row_ends

PatchFeatures = Callable[[dict[str, Any]], Float[Tensor, "b t f"]]
"""A batch of views -> features of all patches."""


def patches_per_image(memory_size: int, views: int, patches: int) -> int:
    """m: patches of each of `views` images that fit into the bank; all where it is unbounded (0) or large enough.

    FungiError for a bank that has not one row for each image.
    """
    if memory_size == 0:
        return patches
    if memory_size < views:
        raise FungiError(
            f"--memory-size {memory_size} is less than one patch for each of {views} training images. Enlarge it."
        )
    return min(patches, memory_size // views)


def bank_ends(blocks: list[ImageBlock], kept: int, memory_size: int, *, zero_rows: bool) -> tuple[int, ...]:
    """Rows of the bank after each block, and behind them rows of zeros up to `memory_size` where those are wanted."""
    ends = row_ends([len(block.rows) * kept for block in blocks])
    return (*ends, memory_size) if zero_rows and memory_size > ends[-1] else ends


def fill_bank(
    bank: Bank, reader: Reader, blocks: list[ImageBlock], kept: int, rules: MaskRules, features: PatchFeatures
) -> None:
    """Write the blocks that are missing."""
    missing = set(bank.missing())
    wanted = [block for block in blocks if block.index in missing]
    label = bank.folder.name.rpartition("-")[0]
    for block, loaded in progress(reader.read(wanted), [len(block.rows) for block in wanted], label=label):
        parts = [_kept(batch, features(batch), kept, bank.classes, rules) for batch in loaded]
        rows, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        bank.write(block.index, rows, labels)
    for beyond in missing - {block.index for block in blocks}:  # rows of zeros
        start, stop = bank.span(beyond)
        bank.write(beyond, np.zeros((stop - start, bank.dim)), np.zeros((stop - start, bank.classes), dtype=np.int64))


def _kept(
    batch: dict[str, Any], features: Float[Tensor, "b t f"], kept: int, classes: int, rules: MaskRules
) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of the patches of a batch that the bank keeps, image by image."""
    counts = patch_labels(batch["mask"], round(features.shape[1] ** 0.5), classes, rules.void_class)
    rows, labels = [], []
    for image, draw in enumerate(batch["draw"]):
        # Its own stream: the same patches stay whatever the feature.
        chosen = chosen_patches(counts[image], kept, torch.Generator().manual_seed(draw ^ 1))
        rows.append(features[image, chosen.to(features.device)])
        labels.append(counts[image, chosen])
    return torch.cat(rows).float().cpu().numpy(), torch.cat(labels).numpy()
