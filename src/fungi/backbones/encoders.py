"""Encoders compute the embeddings of views. For some losses and tasks, they also compute the patch tokens.

`WholeModel` runs the unchanged model. `TokenEncoder` returns all tokens and can mask patches. The encoder in
`fungi.backbones.pooled_token` is a shortcut that computes only the pooled token.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from fungi.backbones.bfloat16_block import Bfloat16Block
from fungi.backbones.position_embedding import at_size
from fungi.errors import FungiError, counted
from fungi.runtime.seeds import torch_generator
from fungi.views.base import Inputs

MASK_DEVIATION = 0.02
"""Standard deviation of the vector that replaces masked patches, as in iBOT (spec vision 4.5)."""


@dataclass(frozen=True)
class Encoded:
    """Output of an encoder for m views. `by_sample` splits the first axis, `*m`, into `b` samples of `v` views.

    pooled: the embeddings.
    patches: one vector (axis f) per patch, either the token after the final norm or the pixels that a decoder predicts.
        None if the encoder does not return patches.
    mask: true for masked patches. None if the encoder does not mask patches.
    target: the true pixels. None if the encoder does not predict pixels.
    """

    pooled: Float[Tensor, "*m d"]
    patches: Float[Tensor, "*m t f"] | None = None
    mask: Bool[Tensor, "*m t"] | None = None
    target: Float[Tensor, "*m t f"] | None = None

    @property
    def tokens(self) -> Float[Tensor, "*m t_and_1 d"]:
        """The pooled token, followed by the patches."""
        assert self.patches is not None, "an encoder without patch tokens was used for a loss that needs them"
        return torch.cat([self.pooled.unsqueeze(-2), self.patches], dim=-2)

    @property
    def differentiable(self) -> list[Float[Tensor, "..."]]:
        """The tensors that a loss may depend on."""
        return [tensor for tensor in (self.pooled, self.patches) if tensor is not None]

    def map(self, function: Callable[[Shaped[Tensor, "..."]], Shaped[Tensor, "..."]]) -> "Encoded":
        """Return a copy with a function applied to every tensor that is not None."""
        tensors: Any = {name: None if tensor is None else function(tensor) for name, tensor in vars(self).items()}
        return Encoded(**tensors)

    def by_sample(self, samples: int) -> "Encoded":
        """Split the first axis into samples and views, `[b*v ...] -> [b v ...]`, and convert to float32."""
        in_float32 = self.map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
        return in_float32.map(lambda tensor: tensor.unflatten(0, (samples, -1)))

    @staticmethod
    def concatenate_views(outputs: Sequence["Encoded"]) -> "Encoded":
        """Concatenate outputs `[b v ...]` for the same samples along the axis of views.

        outputs: one per size of views. Only the views with the most patches keep patches, masks and targets, because no
        loss compares patches of different grids.
        """
        if len(outputs) == 1:
            return outputs[0]
        fields = {"pooled": torch.cat([output.pooled for output in outputs], dim=1)}
        for name in ("patches", "mask", "target"):
            tensors = [tensor for output in outputs if (tensor := getattr(output, name)) is not None]
            most_patches = max((tensor.shape[2] for tensor in tensors), default=0)  # [b v t ...]
            if tensors:
                fields[name] = torch.cat([tensor for tensor in tensors if tensor.shape[2] == most_patches], dim=1)
        return Encoded(**fields)

    def detach(self) -> "Encoded":
        """Return a copy without gradient history."""
        return self.map(Tensor.detach)

    @staticmethod
    def concatenate_samples(outputs: Sequence["Encoded"], order: Int64[Tensor, " b"]) -> "Encoded":
        """Concatenate outputs for different samples, then reorder the samples by the indices `order`."""
        names = [name for name, tensor in vars(outputs[0]).items() if tensor is not None]
        return Encoded(**{name: torch.cat([getattr(output, name) for output in outputs])[order] for name in names})


@runtime_checkable
class Encoder(Protocol):
    """Function that computes the embeddings of views. computed_part: part of the model that is computed, in words."""

    computed_part: str

    def __call__(self, inputs: Any, /) -> Encoded:
        """Encode views."""

    def activation_module(self, path: str) -> nn.Module:
        """Return a module that has the same input as the attention module around a layer (spec vision 10, V1)."""

    def at_size(self, size: int) -> "Encoder":
        """Return the encoder for images of another size. Raises FungiError if the model takes only one size."""

    def compile(self, targets: Sequence[str]) -> None:
        """Compile layers before the first gradient source, at their first use. targets: paths of the sources."""


class WholeModel:
    """Encoder that runs the unchanged model. It works for every architecture and every gradient source."""

    computed_part = "whole model"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, inputs: Inputs, /) -> Encoded:
        """Return the embeddings `[m d]` of views."""
        return Encoded(self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs))

    def activation_module(self, path: str) -> nn.Module:
        """Return the parent module of a layer. The parent of an output projection is the attention module."""
        return self.model.get_submodule(path.rpartition(".")[0])

    def at_size(self, size: int) -> "WholeModel":
        """Return the encoder for images of another size. Raises FungiError if the model takes only one size."""
        resized = copy(self)
        resized.model = at_size(self.model, size)
        return resized

    def compile(self, targets: Sequence[str]) -> None:
        """Compile the blocks separately. All blocks have the same structure, so they share one compiled program."""
        for block in blocks_before(self.model, targets):
            if block._compiled_call_impl is None:  # copies of the model for other sizes share the blocks
                block.compile()


class TokenEncoder(WholeModel):
    """Encoder that returns the class token and the patch tokens, without registers and other prefix tokens.

    The final norm and the layers after it, such as CLIP's projection to the joint space, are applied to all tokens.
    Raises FungiError for models that are not vision transformers of timm with a class token.
    """

    computed_part = "all tokens"

    def __init__(self, model: nn.Module) -> None:
        require_patch_tokens(model)
        super().__init__(model)

    def __call__(self, inputs: Inputs, /) -> Encoded:
        """Encode images `[m c h w]`, or a dictionary with `images` and a `mask` `[m t]`.

        Before positions are added, the embedding of a masked patch is replaced with zeros, or with a random vector if
        the dictionary has a `mask_seed` of at least 0.
        """
        model: Any = self.model
        named_inputs: dict[str, Any] = inputs if isinstance(inputs, dict) else {"images": inputs}
        images, mask = named_inputs["images"], named_inputs.get("mask")
        with _masked_patches(model.patch_embed, mask, named_inputs.get("mask_seed", -1)):
            tokens = model.head(model.fc_norm(model.forward_features(images)))  # [m 1+t d]
        return Encoded(tokens[:, 0], tokens[:, model.num_prefix_tokens :], mask)


def require_patch_tokens(model: nn.Module) -> None:
    """Raise FungiError unless a model is a vision transformer of timm with a class token, without attention pooling."""
    attributes = ("patch_embed", "forward_features", "fc_norm", "head", "num_prefix_tokens", "embed_dim")
    has_tokens = all(hasattr(model, name) for name in attributes) and getattr(model, "cls_token", None) is not None
    # With attention pooling, the head takes the output of the pooling and can't be applied to patch tokens.
    has_attention_pooling = getattr(model, "attn_pool", None) is not None
    if not has_tokens or has_attention_pooling:
        raise FungiError(
            f"a {type(model).__name__} has no patch tokens in the space of its embedding. iBOT and segmentation need "
            "a vision transformer of timm with a class token and without attention pooling, such as dino_vits16 or "
            "digits-vit."
        )


def is_convolutional(model: nn.Module) -> bool:
    """Return whether the convolutions of a model have more weights than its linear layers.

    This is false for a ViT, whose only convolution is small.
    """
    convolution_weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Conv2d))
    linear_weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    return convolution_weights > linear_weights


def blocks_before(model: nn.Module, targets: Sequence[str]) -> list[nn.Module]:
    """Return the blocks of a model that are computed before all gradient sources.

    The blocks are the modules of the longest list whose modules all have the same class (`blocks`, `encoder.layer`).
    targets: paths of the gradient sources; if there are none, all blocks are returned. If a source is outside the list
        of blocks, no block is returned.
    """
    uniform_lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len({_type_of(block) for block in module}) == 1
    ]
    path, blocks = max(uniform_lists, key=lambda path_and_list: len(path_and_list[1]), default=("", nn.ModuleList()))
    block_numbers = [
        int(target.removeprefix(f"{path}.").partition(".")[0]) for target in targets if target.startswith(f"{path}.")
    ]
    if targets and len(block_numbers) < len(targets):
        return []
    return list(blocks)[: min(block_numbers, default=len(blocks))]


def _type_of(block: nn.Module) -> type:
    """Return the class of a block. A copy in bfloat16 counts as a block of the original class."""
    return block.original_type if isinstance(block, Bfloat16Block) else type(block)


@contextmanager
def _masked_patches(patch_embed: nn.Module, mask: Bool[Tensor, "m t"] | None, seed: int) -> Iterator[None]:
    """Replace the embeddings of masked patches during the `with` statement; do nothing if `mask` is None.

    The replacement is zeros if `seed` is negative, and otherwise the vector of `mask_vector`.
    """
    if mask is None:
        yield
        return

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], patches: Tensor) -> Tensor:
        patches_per_view = patches[0, ..., 0].numel()  # [m t d] or [m rows columns d]
        if patches_per_view != mask.shape[1]:
            raise FungiError(
                f"the mask has {counted(mask.shape[1], 'patch')}, but the model has {patches_per_view}. Set patch_size "
                "of the objective to the patch size of the model (for example --set ibot.patch_size=16 or "
                "mim.patch_size=16)."
            )
        is_masked = mask.reshape(*patches.shape[:-1], 1)
        if seed < 0:
            return patches.masked_fill(is_masked, 0)
        replacement = mask_vector(patches.shape[-1], seed, patches.device).to(patches.dtype)
        return torch.where(is_masked, replacement, patches)

    handle = patch_embed.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@cache
def mask_vector(width: int, seed: int, device: torch.device) -> Float[Tensor, " d"]:
    """Return the vector that replaces masked patches. Its entries are from `N(0, 0.02^2)` and depend on the seed."""
    return (torch.randn(width, generator=torch_generator(seed, "mask vector")) * MASK_DEVIATION).to(device)
