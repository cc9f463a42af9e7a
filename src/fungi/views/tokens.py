"""Token numbers -> padded batches with masks.

A batch is padded to its longest text. Texts are encoded in groups of similar length, each padded to its own longest,
so that a long text costs its neighbours nothing; masks keep what padding remains out of every result.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fungi.views.tokenizers import Tokens

TokenBatch = dict[str, Int64[Tensor, "b v t"] | Bool[Tensor, "b v"]]
"""`input_ids` and `attention_mask`; until the batch is divided into groups also `cut`: which views were cut."""
PADDING_PER_VIEW = 4
"""Padding tokens that a group may hold, per sample of its largest size. Large groups (on a GPU) may hold many: there a
further forward pass costs more than padding. On a CPU padding costs more."""


def pad_together(samples: Sequence[Sequence[Tokens]], pad: int) -> TokenBatch:
    """Pad the views of samples `[b][v]` to one batch."""
    longest = max(len(view.ids) for sample in samples for view in sample)
    ids = torch.full((len(samples), len(samples[0]), longest), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        for view, tokens in enumerate(sample):
            ids[row, view, : len(tokens.ids)] = torch.tensor(tokens.ids)
            mask[row, view, : len(tokens.ids)] = 1
    cut = torch.tensor([[view.cut for view in sample] for sample in samples])
    return {"input_ids": ids, "attention_mask": mask, "cut": cut}


def groups_of_like_length(batch: TokenBatch, size: int) -> Iterator[tuple[Int64[Tensor, " g"], TokenBatch]]:
    """Yield (rows, part) of a batch in groups of up to `size`, shortest first, each cut to its longest text."""
    lengths = batch["attention_mask"].sum(dim=2).amax(dim=1)  # [b v t] -> [b]
    order = torch.argsort(lengths, stable=True)
    for place in _cuts(lengths[order].tolist(), size):
        rows = order[place]
        longest = int(lengths[rows[-1]])
        yield rows, {name: values[rows, :, :longest] for name, values in batch.items()}


def _cuts(lengths: list[int], size: int) -> Iterator[slice]:
    """Divide ascending lengths into groups of at most `size`, such that padding costs less than a further forward."""
    start, total = 0, 0
    for place, length in enumerate(lengths):
        padding = length * (place - start) - total
        if place - start == size or padding > PADDING_PER_VIEW * size:
            yield slice(start, place)
            start, total = place, 0
        total += length
    yield slice(start, len(lengths))


def mean_of_tokens(
    hidden: Float[Tensor, "n t d"], mask: Int64[Tensor, "n t"] | Bool[Tensor, "n t"]
) -> Float[Tensor, "n d"]:
    """Return the mean over the tokens that are not padding."""
    weights = mask.unsqueeze(2).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
