"""Labels of patches, and which patches of an image a bank keeps (spec dense 3.1, 3.2)."""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fungi.data.base import VOID


def patch_labels(
    masks: UInt8[Tensor, "b s s"], grid: int, classes: int, void_class: int | None = None
) -> Int64[Tensor, "b t c"]:
    """Pixels of each class in each cell of a `grid` x `grid` grid over the mask, cells row by row.

    void_class: the class that void counts as; None: as no class, so that a patch's counts may add up to less.
    """
    values = masks.long()
    values = values.masked_fill(values == VOID, classes if void_class is None else void_class)
    side = masks.shape[1] // grid
    cells = values.unflatten(1, (grid, side)).unflatten(3, (grid, side))  # [b y side x side]
    cells = cells.transpose(2, 3).flatten(3).flatten(1, 2)  # -> [b t side*side]
    counts = torch.zeros(*cells.shape[:2], classes + 1, dtype=torch.int64)
    counts.scatter_add_(2, cells, torch.ones_like(cells))
    return counts[..., :classes]


def chosen_patches(counts: Int64[Tensor, "t c"], keep: int, generator: torch.Generator) -> Int64[Tensor, " m"]:
    """`keep` patches of an image, those with classes rare in it favoured; ascending.

    With `n_c` patches that contain class c, a patch scores the sum of `n_c` over its classes, times a uniform draw from
    [0, 1); the lowest scores stay. Patches of no class at all come last.
    """
    present = counts > 0
    in_patches = present.sum(dim=0)  # n_c, [c]
    draws = torch.rand(len(counts), generator=generator, dtype=torch.float64)
    scores = (present * in_patches).sum(dim=1) * draws
    scores = scores.masked_fill(~present.any(dim=1), torch.inf)
    return scores.argsort(stable=True)[:keep].sort().values
