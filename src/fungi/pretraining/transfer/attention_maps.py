"""Write pictures of the attention of class tokens to patches in the last block, one per head (spec udi 7.7)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from fungi.pretraining.tokens import last_attention


def class_attention(model: Any, image: Float[Tensor, "1 3 s s2"], token: int) -> Float[Tensor, "h rows columns"]:
    """Return the attention of a class token (0: cls, 1: cls+) to the patches of an image, for each head."""
    patch = model.patch_embed.patch_size[0]
    attention = last_attention(model, image)[0, :, token, model.num_prefix_tokens :]  # [h n]
    return attention.unflatten(1, (image.shape[-2] // patch, image.shape[-1] // patch))


def smallest_masks(attention: Float[Tensor, "h rows columns"], share: float) -> Bool[Tensor, "h rows columns"]:
    """Return for each head the smallest set of patches with at least this share of the attention of the head."""
    values, order = attention.flatten(1).sort(dim=1)
    cumulative = (values / values.sum(1, keepdim=True)).cumsum(1)
    masks = torch.zeros_like(cumulative, dtype=torch.bool).scatter_(1, order, cumulative > 1 - share)
    return masks.view_as(attention)


def write_maps(
    folder: Path, model: Any, picture: Image.Image, image: Float[Tensor, "1 3 s s2"], *, threshold: float | None = None
) -> list[Path]:
    """Write `img.png`, `attn-head{j}.png` for cls and `attn-plus-head{j}.png` for cls+, and return their paths.

    picture, image: the image before and after the transform of the network. With a threshold, also write `mask-...`:
    the picture, in which all patches outside of `smallest_masks` are dark.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = (image.shape[-1], image.shape[-2])
    resized = picture.resize(size)
    pictures = {"img.png": resized}
    for token in range(model.num_prefix_tokens):
        maps = class_attention(model, image, token)
        token_name = "" if token == 0 else "plus-"
        for head, attention in enumerate(maps):
            pictures[f"attn-{token_name}head{head}.png"] = Image.fromarray(_grey(attention, size))
            if threshold is not None:
                mask = smallest_masks(maps, threshold)[head].numpy()
                pictures[f"mask-{token_name}head{head}.png"] = _darkened(resized, mask)
    for name, head_picture in pictures.items():
        head_picture.save(folder / name)
    return [folder / name for name in pictures]


def write_overview(
    path: Path, model: Any, images: list[tuple[Image.Image, Float[Tensor, "1 3 s s2"]]], side: int = 96
) -> None:
    """Write one picture with a row per image: the image, then the heads of cls, then the heads of cls+."""
    rows = []
    for picture, image in images:
        tiles = [np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST))]
        for token in range(model.num_prefix_tokens):
            for attention in class_attention(model, image, token):
                enlarged = Image.fromarray(_grey(attention, (side, side)))
                tiles.append(np.asarray(enlarged.convert("RGB")))
            # A white gap of 6 pixels follows the heads of each class token.
            tiles[-1] = np.pad(tiles[-1], ((0, 0), (0, 6), (0, 0)), constant_values=255)
        framed_tiles = [np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=255) for tile in tiles]
        rows.append(np.concatenate(framed_tiles, axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def _grey(attention: Float[Tensor, "rows columns"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Return the attention, enlarged bilinearly to (width, height), with its largest value as white (spec udi 7.6)."""
    enlarged = torch.nn.functional.interpolate(attention[None, None], size[::-1], mode="bilinear")[0, 0]
    scaled = enlarged / enlarged.max().clamp_min(1e-12)
    return (255 * scaled).round().to(torch.uint8).cpu().numpy()


def _darkened(image: Image.Image, mask: Bool[np.ndarray, "rows columns"]) -> Image.Image:
    """Return an image in which the patches outside of the mask are dark."""
    pixel_mask = Image.fromarray((255 * mask).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    dark = Image.fromarray((np.asarray(image) * 0.3).astype(np.uint8))  # 30 % of the brightness
    return Image.composite(image, dark, pixel_mask)
