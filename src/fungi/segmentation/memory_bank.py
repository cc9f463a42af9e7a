"""Training images -> a bank of selected patches with their labels (spec dense 3.1, 3.2)."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from fungi.data.base import VOID, MaskRules
from fungi.errors import FungiError
from fungi.runtime.log import progress
from fungi.segmentation.image_blocks import ImageBlock, Reader
from fungi.segmentation.settings import MAX_NEIGHBOURS
from fungi.store.banks import Bank

PatchFeatures = Callable[[dict[str, Any]], Float[Tensor, "b t f"]]
"""A batch of views -> features of all patches."""


DATA_EFFICIENT_BANK_ROWS = 20_480_000
"""Bank size of the published code in the data-efficient setting. The last rows are never filled (spec dense 3.2)."""


def patches_per_view(memory_size: int, views: int, patches: int) -> int:
    """Return the number of patches of each view that fit into the bank.

    memory_size: number of patches in the bank; 0 means no limit. patches: number of patches of an image. Raises
    FungiError if the bank is smaller than one patch per view.
    """
    if memory_size == 0:
        return patches
    if memory_size < views:
        raise FungiError(
            f"--memory-size {memory_size} is too small: the bank needs one patch for each of {views} views of the"
            " training images. Use a larger --memory-size."
        )
    return min(patches, memory_size // views)


def bank_ends(blocks: list[ImageBlock], view_patches: int, memory_size: int, *, zero_rows: bool) -> tuple[int, ...]:
    """Return the number of rows of the bank after each block. `zero_rows` adds rows of zeros up to `memory_size`.

    At most `MAX_NEIGHBOURS` rows of zeros are added. Rows of zeros are all equal, and a search retrieves at most
    `MAX_NEIGHBOURS` rows. Further rows of zeros would therefore not change the result of exact search.
    """
    ends = tuple(accumulate(len(block.rows) * view_patches for block in blocks))
    zeros = min(memory_size - ends[-1], MAX_NEIGHBOURS)
    return (*ends, ends[-1] + zeros) if zero_rows and zeros > 0 else ends


def fill_bank(
    bank: Bank, reader: Reader, blocks: list[ImageBlock], view_patches: int, rules: MaskRules, features: PatchFeatures
) -> None:
    """Compute and write the missing blocks of the bank.

    blocks: all blocks of the training images. view_patches: number of patches per view in the bank. rules: meaning of
    the values of the masks. features: function that computes the features of a batch.
    """
    missing = set(bank.missing())
    missing_blocks = [block for block in blocks if block.index in missing]
    label = bank.folder.name.rpartition("-")[0]  # the feature; the name of the folder is FEATURE-KEY
    sizes = [len(block.rows) for block in missing_blocks]
    for block, batches in progress(reader.read(missing_blocks), sizes, label=label):
        parts = [_select(batch, features(batch), view_patches, bank.classes, rules) for batch in batches]
        rows, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        bank.write(block.index, rows, labels)
    for zero_block in missing - {block.index for block in blocks}:
        start, stop = bank.span(zero_block)
        zero_features = np.zeros((stop - start, bank.dim), dtype=bank.manifest.dtype)
        bank.write(zero_block, zero_features, np.zeros((stop - start, bank.classes), dtype=np.uint16))


def _select(
    batch: dict[str, Any], features: Float[Tensor, "b t f"], view_patches: int, classes: int, rules: MaskRules
) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels of the patches of a batch for the bank, image by image.

    view_patches: number of patches to select from each image.
    """
    counts = patch_labels(batch["mask"], round(features.shape[1] ** 0.5), classes, rules.void_class)
    rows, labels = [], []
    for image, draw in enumerate(batch["draw_seed"]):
        # A separate random stream selects the same patches for every feature.
        indices = chosen_patches(counts[image], view_patches, torch.Generator().manual_seed(draw ^ 1))
        rows.append(features[image, indices.to(features.device)])
        labels.append(counts[image, indices])
    return torch.cat(rows).float().cpu().numpy(), torch.cat(labels).numpy()


def patch_labels(
    masks: UInt8[Tensor, "b s s"], grid: int, classes: int, void_class: int | None = None
) -> Int64[Tensor, "b t c"]:
    """Return the number of pixels of each class per cell of a `grid` x `grid` grid, in row-major order.

    void_class: class of void pixels; with None, void pixels are not counted.
    """
    values = masks.long()
    # Class `classes` is an extra column of the counts, which is removed at the end.
    values = values.masked_fill(values == VOID, classes if void_class is None else void_class)
    side = masks.shape[1] // grid
    cells = values.unflatten(1, (grid, side)).unflatten(3, (grid, side))  # [b y side x side]
    cells = cells.transpose(2, 3).flatten(3).flatten(1, 2)  # -> [b t side*side]
    counts = torch.zeros(*cells.shape[:2], classes + 1, dtype=torch.int64)
    counts.scatter_add_(2, cells, torch.ones_like(cells))
    return counts[..., :classes]


def chosen_patches(counts: Int64[Tensor, "t c"], number: int, generator: torch.Generator) -> Int64[Tensor, " m"]:
    """Return the indices of `number` patches of an image, ascending. Patches with rare classes are preferred.

    counts: number of pixels of each class per patch. generator: source of the random numbers.

    Let `n_c` be the number of patches that contain class c. The score of a patch is the sum of `n_c` over its classes,
    times a random number from [0, 1). The patches with the lowest scores are chosen. Patches without a class come last.
    """
    present = counts > 0
    in_patches = present.sum(dim=0)  # n_c, [c]
    factors = torch.rand(len(counts), generator=generator, dtype=torch.float64)
    scores = (present * in_patches).sum(dim=1) * factors
    scores = scores.masked_fill(~present.any(dim=1), torch.inf)
    return scores.argsort(stable=True)[:number].sort().values
