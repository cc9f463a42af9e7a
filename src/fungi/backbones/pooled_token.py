"""An exact shortcut for vision transformers: the last block is computed only for the pooled token, the class token.

If the embedding is the class token, the outputs of the last block for all other tokens are not needed. Therefore, the
earlier blocks run unchanged, without an autograd graph, and the last block computes its query, output projection and
MLP only for the class token. The last block does not compute keys and values of the tokens, because for an attention
head with query `q`, token inputs `y_t` and attention weights `a_t`:

    scores   q . (Wk y_t + bk) = (Wk^T q) . y_t + constant,  and softmax ignores the constant;
    output   sum_t a_t (Wv y_t + bv) = Wv (sum_t a_t y_t) + bv,  because the weights have the sum 1.

The result is equal to the embedding of the unchanged model, except for rounding. With twelve blocks, the shortcut costs
about 0.92 of a forward pass of the unchanged model.
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
    """Encoder for a timm `VisionTransformer`. The last block is computed only for the class token.

    Hooks on `attn.proj`, `mlp.fc1` and `mlp.fc2` of the last block get one token per view. The autograd graph starts at
    `attn.proj`.
    """

    computed_part = "pooled token"

    def __init__(self, model: Any) -> None:
        self.model = model
        self.attention_input = nn.Identity()  # hooks of V1 (spec vision 10) read the input of this module
        self._attend = self._attend_class_token

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Encoded:
        """Return embeddings `[n d]`, equal to `model(images)` except for rounding."""
        block = self.model.blocks[-1]
        with torch.no_grad():
            attention_output, attention_input, residual = self._attend(images)
        self.attention_input(attention_input)
        update = block.attn.proj_drop(block.attn.proj(attention_output))
        token = residual + block.drop_path1(block.ls1(update))
        token = token + block.drop_path2(block.ls2(block.mlp(block.norm2(token))))
        pooled = self.model.fc_norm(self.model.norm(token)[:, 0])
        return Encoded(self.model.head(self.model.head_drop(pooled)))

    def activation_module(self, path: str) -> nn.Module:
        """Return a module that has the same input as the attention module around the layer `path`."""
        return self.attention_input

    def at_size(self, size: int) -> "PooledTokenEncoder":
        """Return the encoder for images of another size. Raises FungiError if the model takes only one size."""
        resized = copy(self)
        resized.model = at_size(self.model, size)
        resized._attend = resized._attend_class_token
        return resized

    def compile(self, targets: Sequence[str]) -> None:
        """Compile all layers up to the attention of the last block, about 11/12 of the work in a model of 12 blocks.

        targets: not used here, because every possible gradient source comes after these layers.
        """
        attend = torch.compile(self._attend_class_token)

        def attend_any_batch_size(images: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor, Tensor]:
            torch._dynamo.maybe_mark_dynamic(images, 0)  # one compiled program for all batch sizes
            return attend(images)

        self._attend = attend_any_batch_size

    def _attend_class_token(self, images: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return attention output `[n 1 i]`, attention input `[n 1 d]` and residual `[n 1 d]` of the class token.

        All three belong to the last block. The attention output is the input of the output projection.
        """
        model, last = self.model, self.model.blocks[-1]
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
        tokens = model.blocks[:-1](tokens)  # [n t d]
        return *attend_pooled_token(last.attn, last.norm1(tokens)), tokens[:, :1]


def attend_pooled_token(
    attention: Any, tokens: Float[Tensor, "n t d"]
) -> tuple[Float[Tensor, "n 1 i"], Float[Tensor, "n 1 d"]]:
    """Return the attention output of the first token, before the output projection, and its attention input.

    In the comments, h is the number of attention heads, and e the number of entries of a head.
    """
    heads, head_size = attention.num_heads, attention.head_dim
    weight_q, weight_k, weight_v = attention.qkv.weight.to(tokens.dtype).reshape(3, heads, head_size, -1)  # [h e d]
    bias = attention.qkv.bias
    bias_q, _, bias_v = (None,) * 3 if bias is None else bias.to(tokens.dtype).chunk(3)  # [h*e]
    pooled = tokens[:, :1]
    query = linear(pooled, weight_q.flatten(0, 1), bias_q).reshape(-1, heads, head_size)  # [n h e]
    query_for_inputs = torch.einsum("nhe,hed->nhd", query, weight_k)  # Wk^T q
    scores = torch.bmm(query_for_inputs, tokens.transpose(1, 2)) * attention.scale  # [n h d] x [n d t] -> [n h t]
    weights = torch.softmax(scores.float(), dim=-1).to(tokens.dtype)
    weighted_inputs = torch.bmm(weights, tokens)  # [n h t] x [n t d] -> [n h d]
    values = torch.einsum("nhd,hed->nhe", weighted_inputs, weight_v).flatten(1)  # [n h e] -> [n h*e]
    values = values if bias_v is None else values + bias_v
    return attention.norm(values).unsqueeze(1), pooled


def pooled_token_encoder(model: Any, layer_paths: list[str]) -> PooledTokenEncoder | None:
    """Return the shortcut encoder for a model and its gradient sources; None if the shortcut is not possible.

    The shortcut is possible for an unmodified `VisionTransformer` of timm with class-token pooling, if every gradient
    source comes after the attention of the last block. With an empty list of sources, only embeddings are computed.
    """
    from timm.layers import Attention
    from timm.models.vision_transformer import Block, VisionTransformer

    if type(model) is not VisionTransformer or model.global_pool != "token" or model.attn_pool is not None:
        return None
    last = len(model.blocks) - 1
    possible_sources = {f"blocks.{last}.{name}" for name in ("attn.proj", "mlp.fc1", "mlp.fc2")}
    block, attention = model.blocks[-1], model.blocks[-1].attn
    is_standard_attention = type(attention) is Attention and getattr(attention, "gate", None) is None
    is_standard = (
        type(block) is Block
        and is_standard_attention
        and isinstance(attention.q_norm, nn.Identity)
        and isinstance(attention.k_norm, nn.Identity)
    )
    has_hooks = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    if not is_standard or has_hooks or not possible_sources.issuperset(layer_paths):
        return None
    return PooledTokenEncoder(model)
