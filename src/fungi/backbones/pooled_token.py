"""The pooled-token path: an exact short cut through the last block of a class-token vision transformer.

Where the embedding is the class token, nothing that the last block computes for the other tokens reaches it. So the
blocks before run as ever, without a graph, and the last one computes its query, its output projection and its MLP for
the pooled token alone. Keys and values need not be formed either. For a head with query `q`, token inputs `y_t` and
attention weights `a_t`:

    scores   q . (Wk y_t + bk) = (Wk^T q) . y_t + const,  and softmax ignores the constant;
    values   sum_t a_t (Wv y_t + bv) = Wv (sum_t a_t y_t) + bv.

The result is the embedding of the whole model up to rounding, for about 0.92 of its work (twelve blocks).
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from fungi.backbones.encoders import Encoded
from fungi.backbones.position_embedding import at_size


class PooledTokenEncoder:
    """Images -> embeddings of a timm `VisionTransformer`, with the last block for the class token only.

    Hooks on the last block's `attn.proj`, `mlp.fc1` and `mlp.fc2` fire with one token per view; those layers and what
    follows are in the autograd graph, nothing before is.
    """

    path = "pooled token"

    def __init__(self, model: Any) -> None:
        self.model = model
        self.attention_input = nn.Identity()
        self._attend = self._attended

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Encoded:
        """Embeddings `[n d]`, equal to `model(images)` up to rounding."""
        block = self.model.blocks[-1]
        with torch.no_grad():
            attended, attention_input, residual = self._attend(images)
        self.attention_input(attention_input)
        update = block.attn.proj_drop(block.attn.proj(attended))
        token = residual + block.drop_path1(block.ls1(update))
        token = token + block.drop_path2(block.ls2(block.mlp(block.norm2(token))))
        pooled = self.model.fc_norm(self.model.norm(token)[:, 0])
        return Encoded(self.model.head(self.model.head_drop(pooled)))

    def activation_module(self, path: str) -> nn.Module:
        """Return the module whose input is the input of the attention module that owns `path`."""
        return self.attention_input

    def at_size(self, size: int) -> "PooledTokenEncoder":
        """Return this way through the model for images of another size; FungiError where it takes one size alone."""
        resized = copy(self)
        resized.model = at_size(self.model, size)
        resized._attend = resized._attended
        return resized

    def compile(self, targets: Sequence[str]) -> None:
        """Compile everything up to the attention of the last block, eleven twelfths of the work, as one program."""
        attend = torch.compile(self._attended)

        def attend_any_number(images: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor, Tensor]:
            torch._dynamo.maybe_mark_dynamic(images, 0)  # groups of any size run the same program
            return attend(images)

        self._attend = attend_any_number

    def _attended(self, images: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pooled token behind the last block's attention `[n 1 i]`, before it, and past it `[n 1 d]`."""
        model, last = self.model, self.model.blocks[-1]
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
        tokens = model.blocks[:-1](tokens)  # [n t d]
        return *attend_pooled_token(last.attn, last.norm1(tokens)), tokens[:, :1]


def attend_pooled_token(
    attention: Any, tokens: Float[Tensor, "n t d"]
) -> tuple[Float[Tensor, "n 1 i"], Float[Tensor, "n 1 d"]]:
    """Attention output of the first token before the output projection, and that token's own input."""
    heads, size = attention.num_heads, attention.head_dim
    weight_q, weight_k, weight_v = attention.qkv.weight.to(tokens.dtype).reshape(3, heads, size, -1)  # each [h e d]
    bias = attention.qkv.bias
    bias_q, _, bias_v = (None,) * 3 if bias is None else bias.to(tokens.dtype).chunk(3)  # each [h*e]
    pooled = tokens[:, :1]
    query = linear(pooled, weight_q.flatten(0, 1), bias_q).reshape(-1, heads, size)  # [n h e]
    absorbed = torch.einsum("nhe,hed->nhd", query, weight_k)
    scores = torch.bmm(absorbed, tokens.transpose(1, 2)) * attention.scale  # [n h d] x [n d t] -> [n h t]
    weights = torch.softmax(scores.float(), dim=-1).to(tokens.dtype)
    mixed = torch.bmm(weights, tokens)  # [n h t] x [n t d] -> [n h d]
    values = torch.einsum("nhd,hed->nhe", mixed, weight_v).flatten(1)  # [n h e] -> [n h*e]
    values = values if bias_v is None else values + bias_v
    return attention.norm(values).unsqueeze(1), pooled


def pooled_token_encoder(model: Any, layer_paths: list[str]) -> PooledTokenEncoder | None:
    """Return the short cut for a model and its gradient sources, where the structure allows it; else None.

    It does for timm's plain `VisionTransformer` with class-token pooling, when every gradient source lies behind the
    attention of the last block. An empty list of sources asks for embeddings only.
    """
    from timm.layers import Attention
    from timm.models.vision_transformer import Block, VisionTransformer

    if type(model) is not VisionTransformer or model.global_pool != "token" or model.attn_pool is not None:
        return None
    last = len(model.blocks) - 1
    behind = {f"blocks.{last}.{name}" for name in ("attn.proj", "mlp.fc1", "mlp.fc2")}
    block = model.blocks[-1]
    plain = type(block) is Block and type(block.attn) is Attention and getattr(block.attn, "gate", None) is None
    plain = plain and isinstance(block.attn.q_norm, nn.Identity) and isinstance(block.attn.k_norm, nn.Identity)
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return PooledTokenEncoder(model) if plain and not hooked and behind.issuperset(layer_paths) else None
