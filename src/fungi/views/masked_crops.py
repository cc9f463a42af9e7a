"""Multi-crop views of iBOT: DINO's crops, with block-wise masks over patches of the global ones (spec vision 4.5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from fungi.errors import FungiError
from fungi.views.crops import Crops
from fungi.views.image import ImageInput
from fungi.views.pixels import check_size

ATTEMPTS = 10
"""Number of tries to place one block."""
ASPECT = 0.3
"""Smallest ratio of a block's sides."""
RANDOM_RATIOS = (0.1, 0.5)
GLOBAL_CROPS = 2
OneSample = dict[str, UInt8[Tensor, "v c h w"] | Bool[Tensor, "g t"]]
"""pixels: the crops; mask: which patches of the global crops are masked."""
ManySamples = dict[str, UInt8[Tensor, "b v c h w"] | Bool[Tensor, "b g t"]]


@dataclass(frozen=True, kw_only=True)
class MaskedCrops:
    """Views in this order: masked global crops, local crops, and the same global crops without a mask for the teacher.

    local_size: side in pixels to which local crops are resized; 0 is the input size.
    patch_size: of the backbone, in pixels; mask_ratio: share of the patches that are masked; random_ratio: instead, no
    mask for half of the images and a uniform share of 0.1 to 0.5 for the others. mask_seed: of the vector that stands
    for masked patches, from N(0, 0.02); -1 takes zeros.
    """

    input: ImageInput
    local_crops: int = 10
    local_size: int = 0
    patch_size: int = 16
    mask_ratio: float = 0.3
    random_ratio: bool = False
    mask_seed: int = -1
    stream: str = ""

    kind = "masked-crops"

    def __post_init__(self) -> None:
        self.input.patches_per_side(self.patch_size)
        if not 0 <= self.mask_ratio < 1:
            raise FungiError(f"mask_ratio {self.mask_ratio} has to be at least 0 and below 1.")
        if self.local_crops < 1:
            raise FungiError("local_crops has to be at least 1.")
        check_size("local_size", self.local_size, self.input.size)

    @property
    def identity(self) -> str:
        """Equal for generators of the same views."""
        return repr(self)

    @property
    def crops(self) -> Crops:
        """The crops without masks."""
        options: dict[str, Any] = {"local_crops": self.local_crops, "local_size": self.local_size}
        return Crops(input=self.input, global_crops=GLOBAL_CROPS, **options)

    @property
    def input_size(self) -> int:
        """Side of the backbone's input in pixels."""
        return self.input.size

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels."""
        return self.crops.sizes + (self.input.size,) * GLOBAL_CROPS

    @property
    def n_views(self) -> int:
        """Number of crops; the global ones count twice."""
        return self.crops.n_views + GLOBAL_CROPS

    def prepare(self, item: Image.Image) -> OneSample:
        """Draw the crops, and masks for the global ones, from torch's global stream."""
        side = self.input.patches_per_side(self.patch_size)
        crops, ratio = self.crops.prepare(item), self._ratio()
        masks = [block_mask(side, side, ratio).flatten() for _ in range(GLOBAL_CROPS)]
        pixels = crops if isinstance(crops, dict) else {"pixels": crops}
        return {**pixels, "mask": torch.stack(masks)}

    def collate(self, prepared: Sequence[OneSample]) -> ManySamples:
        """Stack a batch."""
        return {name: torch.stack([sample[name] for sample in prepared]) for name in prepared[0]}

    def render(self, batch: ManySamples) -> Any:
        """Return images `[b*v c h w]`, masks `[b*v t]`, and the seed of the vector that replaces masked patches.

        If local crops keep their own size, a list of three parts: masked global crops, local crops, unmasked global
        crops.
        """
        masks = batch["mask"]
        if "pixels" in batch:
            pixels = batch["pixels"]
            views = torch.cat([pixels, pixels[:, :GLOBAL_CROPS]], dim=1)
            unmasked = masks.new_zeros(len(masks), self.n_views - GLOBAL_CROPS, masks.shape[2])
            return self._masked(self.crops.render(views), torch.cat([masks, unmasked], dim=1))
        full, local = self.crops.render({"global": batch["global"], "local": batch["local"]})
        return [self._masked(full, masks), {"images": local}, self._masked(full, torch.zeros_like(masks))]

    def _masked(self, images: Float[Tensor, "m c h w"], masks: Bool[Tensor, "b v t"]) -> dict[str, Any]:
        return {"images": images, "mask": masks.flatten(0, 1), "mask_seed": self.mask_seed}

    def _ratio(self) -> float:
        """Return the share of an image's patches to mask, the same for its global crops."""
        if not self.random_ratio:
            return self.mask_ratio
        low, high = RANDOM_RATIOS
        return low + (high - low) * _uniform() if _uniform() < 0.5 else 0.0


def block_mask(height: int, width: int, ratio: float) -> Bool[Tensor, "h w"]:
    """Mask random rectangles, drawn from torch's global stream, until about `ratio` of the patches is masked."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    smallest, left = (min(height, width) // 3) ** 2, round(ratio * height * width)
    while left > 0:
        placed = _place_block(mask, smallest, left)
        if not placed:
            break
        left -= placed
    return mask


def _place_block(mask: Bool[Tensor, "h w"], smallest: int, left: int) -> int:
    """Mask one more rectangle with at most `left` patches that are not masked yet; return their number."""
    height, width = mask.shape
    for _ in range(ATTEMPTS):
        area = smallest + (max(left, smallest) - smallest) * _uniform()
        aspect = math.exp(math.log(ASPECT) * (1 - 2 * _uniform()))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < rows <= height and 0 < columns <= width):
            continue
        top, start = (int(torch.randint(size + 1, ())) for size in (height - rows, width - columns))
        block = mask[top : top + rows, start : start + columns]
        new = int((~block).sum())
        if 0 < new <= left:
            block[:] = True
            return new
    return 0


def _uniform() -> float:
    return float(torch.rand(()))
