"""The plain view with random noise. The noise selects the patches that a masked autoencoder encodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from fungi.views.image import ImageInput
from fungi.views.plain import PlainView


@dataclass(frozen=True, kw_only=True)
class MaskedView:
    """The plain view with a random number per patch. patch_size: side of a patch of the backbone, in pixels."""

    input: ImageInput
    patch_size: int = 16
    stream: str = ""

    kind = "masked"
    n_views = 1

    def __post_init__(self) -> None:
        self.input.patches_per_side(self.patch_size)

    @property
    def identity(self) -> str:
        """Text that is equal for generators of the same views."""
        return repr(self)

    def prepare(self, item: Image.Image) -> dict[str, UInt8[Tensor, "1 c h w"] | Float[Tensor, " t"]]:
        """Return the pixels of the plain view, and noise from torch's global stream."""
        noise = torch.rand(self.input.patches_per_side(self.patch_size) ** 2)
        return {"pixels": PlainView(input=self.input).prepare(item), "noise": noise}

    def collate(
        self, prepared: Sequence[dict[str, UInt8[Tensor, "1 c h w"] | Float[Tensor, " t"]]]
    ) -> dict[str, UInt8[Tensor, "b 1 c h w"] | Float[Tensor, "b t"]]:
        """Stack a batch."""
        return {name: torch.stack([sample[name] for sample in prepared]) for name in prepared[0]}

    def render(
        self, batch: dict[str, UInt8[Tensor, "b 1 c h w"] | Float[Tensor, "b t"]]
    ) -> dict[str, Float[Tensor, "b c h w"] | Float[Tensor, "b t"]]:
        """Return the normalised images and their noise."""
        return {"images": PlainView(input=self.input).render(batch["pixels"]), "noise": batch["noise"]}
