"""Views with masks -> all tokens of a vision transformer, for losses between patches (iBOT)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungi.errors import FungiError
from fungi.gradients.engine import WholeModel


class TokenEncoder(WholeModel):
    """Class token and patch tokens after the final norm, side by side: `[n (1 + t) * (d + 1)]`.

    Each token's last entry says whether its patch was masked; a masked patch's embedding is zero before the position
    is added. For timm's vision transformers with a class token; FungiError for others.
    """

    path = "all tokens"

    def __init__(self, model: nn.Module) -> None:
        needed = ("patch_embed", "forward_features", "fc_norm", "head", "num_prefix_tokens")
        if any(not hasattr(model, name) for name in needed) or getattr(model, "cls_token", None) is None:
            raise FungiError(
                f"a {type(model).__name__} has no patch tokens to mask: iBOT needs a vision transformer of timm with "
                "a class token."
            )
        super().__init__(model)

    def __call__(self, inputs: Any, /) -> Float[Tensor, "n d"]:
        """Encode masked views, given as `images` [n c h w] and `mask` [n t]."""
        model: Any = self.model
        with _masked(model.patch_embed, inputs["mask"]):
            tokens = model.head(model.fc_norm(model.forward_features(inputs["images"])))
        tokens = torch.cat([tokens[:, :1], tokens[:, model.num_prefix_tokens :]], dim=1).float()
        flags = nn.functional.pad(inputs["mask"].float(), (1, 0)).unsqueeze(2)  # the class token is never masked
        return torch.cat([tokens, flags], dim=2).flatten(1)


@contextmanager
def _masked(patch_embed: nn.Module, mask: Bool[Tensor, "n t"]) -> Iterator[None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], patches: Tensor) -> Tensor:
        count = patches[0, ..., 0].numel()
        if count != mask.shape[1]:
            raise FungiError(
                f"the mask has {mask.shape[1]} patches, the model {count}. Set the objective's patch_size "
                "(as in --set ibot.patch_size=16 or mim.patch_size=16) to that of the model."
            )
        return patches.masked_fill(mask.reshape(*patches.shape[:-1], 1), 0)

    handle = patch_embed.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
