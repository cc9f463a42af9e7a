"""Multi-crop views of iBOT: the crops of DINO, and block-wise masks of the global crops (spec vision 4.5)."""

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
"""Number of attempts to place a block."""
ASPECT = 0.3
"""Smallest aspect ratio of a block; the largest ratio is 1 / 0.3."""
RANDOM_RATIOS = (0.1, 0.5)
"""Smallest and largest share of masked patches with `random_ratio`."""
GLOBAL_CROPS = 2
"""Number of global crops, as in iBOT."""
PreparedSample = dict[str, UInt8[Tensor, "v c h w"] | Bool[Tensor, "crops t"]]
"""The key `mask` has the masks of the global crops, true for masked patches. The key `pixels` has all crops. If global
and local crops have different sizes, the keys `global` and `local` have the crops instead."""
PreparedBatch = dict[str, UInt8[Tensor, "b v c h w"] | Bool[Tensor, "b crops t"]]


@dataclass(frozen=True, kw_only=True)
class MaskedCrops:
    """Views in this order: masked global crops, local crops, and the same global crops without a mask for the teacher.

    local_crops: number of local crops. local_size: side in pixels to which local crops are resized; 0 is the input
        size.
    patch_size: side of a patch of the backbone, in pixels.
    mask_ratio: share of masked patches in a global crop.
    random_ratio: whether the share of masked patches is random instead of `mask_ratio`. Half of the images then have no
        mask, and the share in the other images is from 0.1 to 0.5.
    mask_seed: seed of the vector from N(0, 0.02^2) that replaces masked patches; -1: the vector is zero.
    stream: see `HasStream`.
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
        """Text that is equal for generators of the same views."""
        return repr(self)

    @property
    def crops(self) -> Crops:
        """The crops without masks."""
        options: dict[str, Any] = {"local_crops": self.local_crops, "local_size": self.local_size}
        return Crops(input=self.input, global_crops=GLOBAL_CROPS, **options)

    @property
    def input_size(self) -> int:
        """Side of the backbone input in pixels."""
        return self.input.size

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels."""
        return self.crops.sizes + (self.input.size,) * GLOBAL_CROPS

    @property
    def n_views(self) -> int:
        """Number of views. Global crops count twice: with and without a mask."""
        return self.crops.n_views + GLOBAL_CROPS

    def prepare(self, item: Image.Image) -> PreparedSample:
        """Draw the crops, and the masks of the global crops, from torch's global stream."""
        side = self.input.patches_per_side(self.patch_size)
        crops = self.crops.prepare(item)
        ratio = self._draw_ratio()
        masks = [block_mask(side, side, ratio).flatten() for _ in range(GLOBAL_CROPS)]
        pixels = crops if isinstance(crops, dict) else {"pixels": crops}
        return {**pixels, "mask": torch.stack(masks)}

    def collate(self, prepared: Sequence[PreparedSample]) -> PreparedBatch:
        """Stack a batch."""
        return {name: torch.stack([sample[name] for sample in prepared]) for name in prepared[0]}

    def render(self, batch: PreparedBatch) -> Any:
        """Return images `[b*v c h w]`, masks `[b*v t]`, and the seed of the vector that replaces masked patches.

        If local crops keep their own size, return a list of three inputs: masked global crops, local crops, and global
        crops without a mask.
        """
        masks = batch["mask"]
        if "pixels" in batch:
            pixels = batch["pixels"]
            views = torch.cat([pixels, pixels[:, :GLOBAL_CROPS]], dim=1)
            # The local crops and the second copy of the global crops have no mask.
            unmasked = masks.new_zeros(len(masks), self.n_views - GLOBAL_CROPS, masks.shape[2])
            return self._encoder_input(self.crops.render(views), torch.cat([masks, unmasked], dim=1))
        global_crops, local_crops = self.crops.render({"global": batch["global"], "local": batch["local"]})
        unmasked = torch.zeros_like(masks)
        return [
            self._encoder_input(global_crops, masks),
            {"images": local_crops},
            self._encoder_input(global_crops, unmasked),
        ]

    def _encoder_input(self, images: Float[Tensor, "m c h w"], masks: Bool[Tensor, "b v t"]) -> dict[str, Any]:
        """Return the input of the encoder for images with masks."""
        return {"images": images, "mask": masks.flatten(0, 1), "mask_seed": self.mask_seed}

    def _draw_ratio(self) -> float:
        """Return the share of patches to mask. This share is the same for all global crops of an image."""
        if not self.random_ratio:
            return self.mask_ratio
        low, high = RANDOM_RATIOS
        return low + (high - low) * _uniform() if _uniform() < 0.5 else 0.0


def block_mask(height: int, width: int, ratio: float) -> Bool[Tensor, "h w"]:
    """Return a mask that covers about `ratio` of the patches with random rectangles, from torch's global stream.

    height, width: numbers of patches.
    """
    mask = torch.zeros(height, width, dtype=torch.bool)
    smallest_area = (min(height, width) // 3) ** 2
    remaining = round(ratio * height * width)
    while remaining > 0:
        newly_masked = _mask_block(mask, smallest_area, remaining)
        if not newly_masked:
            break
        remaining -= newly_masked
    return mask


def _mask_block(mask: Bool[Tensor, "h w"], smallest_area: int, remaining: int) -> int:
    """Change the mask in place: add a rectangle with at most `remaining` new patches. Return the number of new patches.

    smallest_area: smallest number of patches of the rectangle. If no attempt succeeds, return 0.
    """
    height, width = mask.shape
    for _ in range(ATTEMPTS):
        area = smallest_area + (max(remaining, smallest_area) - smallest_area) * _uniform()
        aspect = math.exp(math.log(ASPECT) * (1 - 2 * _uniform()))  # log-uniform between ASPECT and 1 / ASPECT
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < rows <= height and 0 < columns <= width):
            continue
        top, left = (int(torch.randint(size + 1, ())) for size in (height - rows, width - columns))
        block = mask[top : top + rows, left : left + columns]  # shares its memory with the mask
        newly_masked = int((~block).sum())
        if 0 < newly_masked <= remaining:
            block[:] = True
            return newly_masked
    return 0


def _uniform() -> float:
    return float(torch.rand(()))
