"""Pad lists of tokens to batches, with masks.

A batch is padded to its longest text. Texts are encoded in groups of similar length, and each group is cut to its own
longest text, so that a long text does not make short texts expensive. Masks exclude the remaining padding from all
results.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fungi.views.tokenizers import Tokens

TokenBatch = dict[str, Int64[Tensor, "b v t"] | Bool[Tensor, "b v"]]
"""`input_ids`, `attention_mask` and `truncated` (whether a view was truncated). A group does not have `truncated`."""
PADDING_PER_SAMPLE = 4
"""Largest number of padding tokens in a group, divided by the largest number of samples in a group. On a GPU, groups
are large and may have much padding, because another forward pass costs more than padding. On a CPU, groups are small,
because padding costs more."""


def pad_batch(samples: Sequence[Sequence[Tokens]], pad: int) -> TokenBatch:
    """Return the views of samples `[b][v]` as one batch, padded with the token `pad`."""
    longest = max(len(view.ids) for sample in samples for view in sample)
    ids = torch.full((len(samples), len(samples[0]), longest), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        for view, tokens in enumerate(sample):
            ids[row, view, : len(tokens.ids)] = torch.tensor(tokens.ids)
            mask[row, view, : len(tokens.ids)] = 1
    truncated = torch.tensor([[view.truncated for view in sample] for sample in samples])
    return {"input_ids": ids, "attention_mask": mask, "truncated": truncated}


def groups_of_similar_length(batch: TokenBatch, size: int) -> Iterator[tuple[Int64[Tensor, " rows"], TokenBatch]]:
    """Yield groups of at most `size` samples as (rows, part of the batch). The shortest texts come first.

    Each part is cut to its longest text.
    """
    lengths = batch["attention_mask"].sum(dim=2).amax(dim=1)  # [b v t] -> [b]
    order = torch.argsort(lengths, stable=True)
    for group in _group_slices(lengths[order].tolist(), size):
        rows = order[group]
        longest = int(lengths[rows[-1]])
        yield rows, {name: values[rows, :, :longest] for name, values in batch.items()}


def _group_slices(lengths: list[int], size: int) -> Iterator[slice]:
    """Divide ascending lengths into groups of at most `size`, with a limit on the padding tokens of a group.

    size: largest number of samples of a group.
    """
    start, tokens = 0, 0  # first sample of the group, and number of its tokens without padding
    for index, length in enumerate(lengths):
        padding = length * (index - start) - tokens  # if the group also contained this sample
        if index - start == size or padding > PADDING_PER_SAMPLE * size:
            yield slice(start, index)
            start, tokens = index, 0
        tokens += length
    yield slice(start, len(lengths))


def mean_of_tokens(
    hidden: Float[Tensor, "n t d"], mask: Int64[Tensor, "n t"] | Bool[Tensor, "n t"]
) -> Float[Tensor, "n d"]:
    """Return the mean over the tokens that are not padding."""
    weights = mask.unsqueeze(2).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
