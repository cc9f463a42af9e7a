"""Run timm's `VisionTransformer` block by block, at any resolution, and return all tokens (spec udi 1.1).

Token order: class tokens (cls, then cls+), then patches in row-major order.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fungi.backbones.position_embedding import hub_positions
from fungi.errors import FungiError
from fungi.runtime.transfers import upload


def require_known_tokens(model: Any, name: str) -> None:
    """Raise FungiError unless the network is a `VisionTransformer` of timm with a class token and learnt positions.

    Other networks rotate queries and keys (EVA, PE, DINOv3) or do not have a class token.
    """
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, VisionTransformer) or model.cls_token is None or model.pos_embed is None:
        raise FungiError(
            f"backbone {name!r} is not a vision transformer of timm with a class token and learnt positions. "
            "Use a backbone such as udi-vits16, dino_vits16, deit-s16 or clip-vit-b16."
        )


def embed(model: Any, images: Float[Tensor, "n 3 s s2"]) -> Float[Tensor, "n t d"]:
    """Return the tokens before the first block. The position embedding is resized as in the published code."""
    patches = model.patch_embed.proj(images)  # [n d rows columns]
    rows, columns = patches.shape[-2:]
    patches = patches.flatten(2).transpose(1, 2)
    class_tokens = [model.cls_token] if model.reg_token is None else [model.cls_token, model.reg_token]
    tokens = torch.cat([*(token.expand(len(images), -1, -1) for token in class_tokens), patches], dim=1)
    return model.norm_pre(tokens + resized_positions(model, rows, columns))


def resized_positions(model: Any, rows: int, columns: int) -> Float[Tensor, "1 t d"]:
    """Return the position embedding for a grid of patches. The positions of class tokens are not changed.

    If the network has no positions for class tokens, zeros are returned for the class tokens.
    """
    stored = 0 if model.no_embed_class else model.num_prefix_tokens
    positions = hub_positions(model.pos_embed, grid=(rows, columns), prefix=stored)
    return torch.nn.functional.pad(positions, (0, 0, model.num_prefix_tokens - stored, 0))


def set_drop_path(model: Any, rate: float) -> None:
    """Set the stochastic depth of the blocks. Rates grow linearly from 0 (first block) to `rate` (last block)."""
    from timm.layers import DropPath

    block_rates = torch.linspace(0, rate, len(model.blocks)).tolist()
    for block, block_rate in zip(model.blocks, block_rates, strict=True):
        block.drop_path1, block.drop_path2 = DropPath(block_rate), DropPath(block_rate)


def run_blocks(
    model: Any, tokens: Float[Tensor, "n t d"], factors: Float[Tensor, "blocks2 n"] | None = None
) -> Float[Tensor, "n t d"]:
    """Return the tokens after the last block, before the final norm.

    factors: factors of stochastic depth for each branch and sample: 0, or 1 / (share of branches that are not dropped).
    The order of the branches is: attention and MLP of the first block, attention and MLP of the second block, and so
    on. The tensor is on the CPU, so the process can read it without waiting for a GPU.
    """
    for index, block in enumerate(model.blocks):
        if factors is None:
            tokens = block(tokens)
            continue
        tokens = _add_branch(tokens, factors[2 * index], nn.Sequential(block.norm1, block.attn, block.ls1))
        tokens = _add_branch(tokens, factors[2 * index + 1], nn.Sequential(block.norm2, block.mlp, block.ls2))
    return tokens


def _add_branch(
    tokens: Float[Tensor, "n t d"], factors: Float[Tensor, " n"], branch: nn.Module
) -> Float[Tensor, "n t d"]:
    """Return `tokens + factor * branch(tokens)`. The branch is computed only for samples with a factor above 0.

    If all factors are 0, the branch is computed for all samples, because some attention kernels refuse an empty batch.
    """
    rows, factor = kept_rows(factors)
    if len(rows) in (0, len(factors)):
        return torch.add(tokens, branch(tokens), alpha=factor)
    rows = upload(rows, tokens.device)
    # The rows are unique, so a GPU never adds two values to the same element, and its results are the same bit for bit
    # in every run. This is also true for the gradient.
    return tokens.index_add(0, rows, branch(tokens.index_select(0, rows)).to(tokens.dtype), alpha=factor)


def kept_rows(factors: Float[Tensor, " n"]) -> tuple[Int64[Tensor, " kept"], float]:
    """Return the samples with a factor above 0, and their common factor."""
    return factors.nonzero().flatten(), float(factors.max())


def last_blocks(model: Any, images: Float[Tensor, "n 3 s s2"], count: int = 1) -> list[Float[Tensor, "n t d"]]:
    """Return all tokens after each of the last `count` blocks and the final norm, in the order of the blocks."""
    tokens, outputs = embed(model, images), []
    for index, block in enumerate(model.blocks):
        tokens = block(tokens)
        if index >= len(model.blocks) - count:
            outputs.append(model.norm(tokens))
    return outputs


def last_attention(model: Any, images: Float[Tensor, "n 3 s s2"]) -> Float[Tensor, "n h t t"]:
    """Return the attention of the last block. Row i contains the attention weights of token i."""
    tokens = embed(model, images)
    for block in model.blocks[:-1]:
        tokens = block(tokens)
    attention = model.blocks[-1].attn
    qkv = attention.qkv(model.blocks[-1].norm1(tokens)).unflatten(-1, (3, attention.num_heads, -1))
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)  # each [n h t e]
    query, key = attention.q_norm(query), attention.k_norm(key)
    return torch.softmax((query @ key.transpose(-2, -1)) * attention.scale, dim=-1)
