"""Forward pass of `nn.MultiheadAttention` that calls its output projection as a module.

The forward pass of torch applies `out_proj` as a function, and uses a fused kernel if no gradient is needed. Hooks on
the projection are therefore never called (spec vision 10, V1). `output_projection_as_module` computes the same numbers
step by step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from fungi.errors import FungiError


@contextmanager
def output_projection_as_module(attentions: list[nn.MultiheadAttention]) -> Iterator[None]:
    """Let attention modules call `out_proj` as a module during the `with` statement.

    The fused kernels of torch are disabled during this time. Raises FungiError for attention with additional keys
    (`bias_k`, `add_zero_attn`).
    """
    for attention in attentions:
        if attention.bias_k is not None or attention.add_zero_attn:
            raise FungiError("attention with bias_k, bias_v or add_zero_attn is not supported as a gradient source.")
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(was_enabled and not attentions)
    for attention in attentions:
        attention.forward = partial(_attend, attention)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for attention in attentions:
            del attention.forward
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def _attend(
    attention: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Compute the forward pass of `nn.MultiheadAttention`; attention weights are not returned."""
    if query.dim() != 3:
        raise FungiError("attention without a batch axis is not supported as a gradient source.")
    inputs = (query, key, value)
    batch_first = inputs if attention.batch_first else [tokens.transpose(0, 1) for tokens in inputs]
    q, k, v = _project(attention, *batch_first)
    mask = _sum_of_masks(attention.num_heads, q.dtype, key_padding_mask, attn_mask)
    values = scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [b h t e]
    output = attention.out_proj(values.transpose(1, 2).flatten(2))  # [b h t e] -> [b t h*e] -> [b t d]
    return (output if attention.batch_first else output.transpose(0, 1)), None


def _project(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> list[Float[Tensor, "b h t e"]]:
    """Return the queries, keys and values of each head."""
    if attention.in_proj_weight is not None:
        weights = attention.in_proj_weight.chunk(3)
    else:
        weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    heads = []
    for tokens, weight, bias in zip((query, key, value), weights, biases, strict=True):
        projected = linear(tokens, weight, bias)  # [b t d]
        heads.append(projected.unflatten(2, (attention.num_heads, -1)).transpose(1, 2))
    return heads


def _sum_of_masks(
    num_heads: int, dtype: torch.dtype, key_padding_mask: Tensor | None, attn_mask: Tensor | None
) -> Float[Tensor, "... t s"] | None:
    """Return the sum of the masks, which can be added to scores `[b h t s]`; None without masks.

    In a boolean mask of torch, True means "ignore".
    """

    def additive(mask: Tensor) -> Tensor:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask

    total = None
    if attn_mask is not None:
        total = additive(attn_mask)
        total = total.unflatten(0, (-1, num_heads)) if total.dim() == 3 else total
    if key_padding_mask is not None:
        padding = additive(key_padding_mask)[:, None, None, :]
        total = padding if total is None else total + padding
    return total
