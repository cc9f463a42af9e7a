"""Views -> latents of a backbone: the pooled embedding and, where a loss or a task wants them, the patch tokens.

An encoder is a model with a way through it: the whole model, the short cut for the pooled token
(`fungi.backbones.pooled_token`), or all tokens, with patches masked on the way in.
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

from fungi.backbones.position_embedding import at_size
from fungi.errors import FungiError
from fungi.runtime.seeds import torch_generator
from fungi.views.base import Inputs

MASK_DEVIATION = 0.02
"""Standard deviation of the vector that stands for masked patches, as of iBOT's own (spec vision 4.5)."""


@dataclass(frozen=True)
class Encoded:
    """What an encoder gives for m views; with `by_sample`, the same for v views of b samples: `*m` is then `b v`.

    pooled: the embeddings; patches: what the encoder gives of single patches, if anything: their tokens behind the
    final norm, or a decoder's guess of their pixels; mask: which of them were masked, where any could be; target: what
    a guess is of.
    """

    pooled: Float[Tensor, "*m d"]
    patches: Float[Tensor, "*m t f"] | None = None
    mask: Bool[Tensor, "*m t"] | None = None
    target: Float[Tensor, "*m t f"] | None = None

    @property
    def tokens(self) -> Float[Tensor, "*m t_and_1 d"]:
        """The pooled token, and then the patches."""
        assert self.patches is not None, "the engine of this loss encodes all tokens"
        return torch.cat([self.pooled.unsqueeze(-2), self.patches], dim=-2)

    @property
    def differentiable(self) -> list[Float[Tensor, "..."]]:
        """The tensors that a loss may depend on."""
        return [tensor for tensor in (self.pooled, self.patches) if tensor is not None]

    def map(self, function: Callable[[Shaped[Tensor, "..."]], Shaped[Tensor, "..."]]) -> "Encoded":
        """The same function for every tensor that is there."""
        tensors: Any = {name: None if tensor is None else function(tensor) for name, tensor in vars(self).items()}
        return Encoded(**tensors)

    def by_sample(self, samples: int) -> "Encoded":
        """Of the views of `samples` samples, view-fastest: `[b*v ...] -> [b v ...]`, in float32."""
        wide = self.map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
        return wide.map(lambda tensor: tensor.unflatten(0, (samples, -1)))

    @staticmethod
    def side_by_side(parts: Sequence["Encoded"]) -> "Encoded":
        """Views of several sizes of the same samples `[b v ...]`, one size after the other.

        Patches and masks are those of the views with the most patches: no loss compares patches of different grids.
        """
        if len(parts) == 1:
            return parts[0]
        fields = {"pooled": torch.cat([part.pooled for part in parts], dim=1)}
        for name in ("patches", "mask", "target"):
            tensors = [tensor for part in parts if (tensor := getattr(part, name)) is not None]
            most = max((tensor.shape[2] for tensor in tensors), default=0)
            if tensors:
                fields[name] = torch.cat([tensor for tensor in tensors if tensor.shape[2] == most], dim=1)
        return Encoded(**fields)

    def detach(self) -> "Encoded":
        """The same without a graph."""
        return self.map(Tensor.detach)

    @staticmethod
    def joined(parts: Sequence["Encoded"], places: Int64[Tensor, " b"]) -> "Encoded":
        """The samples of all parts, in the order that `places` gives."""

        there = [name for name, tensor in vars(parts[0]).items() if tensor is not None]
        return Encoded(**{name: torch.cat([getattr(part, name) for part in parts])[places] for name in there})


@runtime_checkable
class Encoder(Protocol):
    """Views -> latents; `path` says in words which way they take."""

    path: str

    def __call__(self, inputs: Any, /) -> Encoded:
        """Encode views."""

    def activation_module(self, path: str) -> nn.Module:
        """The attention module that owns a target, whose input may stand in for the target's."""

    def at_size(self, size: int) -> "Encoder":
        """The same way through the model for images of another size; FungiError where the model takes one alone."""

    def compile(self, targets: Sequence[str]) -> None:
        """Have what comes before the first of the gradient sources (paths) compiled when it is first used."""


class WholeModel:
    """The model as it is: for any architecture and any target."""

    path = "whole model"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, inputs: Inputs, /) -> Encoded:
        """Encode views: their embeddings `[m d]`."""
        return Encoded(self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs))

    def activation_module(self, path: str) -> nn.Module:
        """The parent of a target, which is its attention module."""
        return self.model.get_submodule(path.rpartition(".")[0])

    def at_size(self, size: int) -> "WholeModel":
        """The same way through the model for images of another size; FungiError where the model takes one alone."""
        resized = copy(self)
        resized.model = at_size(self.model, size)
        return resized

    def compile(self, targets: Sequence[str]) -> None:
        """Block by block: they are alike, so that one program serves all."""
        for block in blocks_before(self.model, targets):
            if block._compiled_call_impl is None:  # models of several sizes share their blocks
                block.compile()


class TokenEncoder(WholeModel):
    """Class token and patch tokens after the final norm, for timm's vision transformers with a class token.

    FungiError for other models. Registers and other prefix tokens are left out. Every token goes through what the class
    token goes through (CLIP: the projection to the joint space).
    """

    path = "all tokens"

    def __init__(self, model: nn.Module) -> None:
        require_patch_tokens(model)
        super().__init__(model)

    def __call__(self, inputs: Inputs, /) -> Encoded:
        """Encode images `[m c h w]`, or `images` with a `mask` `[m t]`: the embedding of a masked patch is replaced,
        before the position is added, by zeros, or by a random vector where a `mask_seed` is given."""
        model: Any = self.model
        parts: dict[str, Any] = inputs if isinstance(inputs, dict) else {"images": inputs}
        images, mask = parts["images"], parts.get("mask")
        with _masked(model.patch_embed, mask, parts.get("mask_seed", -1)):
            tokens = model.head(model.fc_norm(model.forward_features(images)))  # [m 1+t d]
        return Encoded(tokens[:, 0], tokens[:, model.num_prefix_tokens :], mask)


def require_patch_tokens(model: nn.Module) -> None:
    """FungiError for a model that is no vision transformer of timm, or pools by something else than its tokens."""
    needed = ("patch_embed", "forward_features", "fc_norm", "head", "num_prefix_tokens", "embed_dim")
    timms = all(hasattr(model, name) for name in needed) and getattr(model, "cls_token", None) is not None
    if not timms or getattr(model, "attn_pool", None) is not None:  # whose head takes what attention pools
        raise FungiError(
            f"a {type(model).__name__} has no patch tokens like its embedding: iBOT and segmentation need a vision "
            "transformer of timm with a class token, and no pooling by attention, such as dino_vits16 or digits-vit."
        )


def is_convolutional(model: nn.Module) -> bool:
    """Return whether most weights of a model are those of convolutions; one with a patch embedding alone is not."""
    sizes = {True: 0, False: 0}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            sizes[isinstance(module, nn.Conv2d)] += module.weight.numel()
    return sizes[True] > sizes[False]


def blocks_before(model: nn.Module, targets: Sequence[str]) -> list[nn.Module]:
    """The blocks of a model's longest row of them (`blocks`, `encoder.layer`) that come before all gradient sources.

    targets: their paths. A row is a list of modules of one class; none of its blocks where no source lies in it.
    """
    rows = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len({type(block) for block in module}) == 1
    ]
    path, row = max(rows, key=lambda named: len(named[1]), default=("", nn.ModuleList()))
    places = [
        int(target.removeprefix(f"{path}.").partition(".")[0]) for target in targets if target.startswith(f"{path}.")
    ]
    if targets and len(places) < len(targets):
        return []
    return list(row)[: min(places, default=len(row))]


@contextmanager
def _masked(patch_embed: nn.Module, mask: Bool[Tensor, "m t"] | None, seed: int) -> Iterator[None]:
    if mask is None:
        yield
        return

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], patches: Tensor) -> Tensor:
        count = patches[0, ..., 0].numel()
        if count != mask.shape[1]:
            raise FungiError(
                f"the mask has {mask.shape[1]} patches, the model {count}. Set the objective's patch_size "
                "(as in --set ibot.patch_size=16 or mim.patch_size=16) to that of the model."
            )
        hidden = mask.reshape(*patches.shape[:-1], 1)
        if seed < 0:
            return patches.masked_fill(hidden, 0)
        return torch.where(hidden, mask_vector(patches.shape[-1], seed, patches.device).to(patches.dtype), patches)

    handle = patch_embed.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@cache
def mask_vector(width: int, seed: int, device: torch.device) -> Float[Tensor, " d"]:
    """What stands for masked patches: `N(0, 0.02)`, drawn and sent to a device once."""
    return (torch.randn(width, generator=torch_generator(seed, "mask vector")) * MASK_DEVIATION).to(device)
