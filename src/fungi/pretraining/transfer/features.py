"""Compute features of a frozen vision transformer from class tokens and patches of its last blocks (spec udi 6.4)."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fungi.backbones.loading import Backbone
from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.pretraining.tokens import last_blocks
from fungi.runtime.log import progress
from fungi.runtime.transfers import upload
from fungi.views.loading import batches, row_batches

Feature = Literal["cls", "cls+", "concat", "patch_mean", "cls_patch_mean"]
FEATURES: tuple[Feature, ...] = get_args(Feature)


def pooled(model: Any, blocks: list[Float[Tensor, "n t d"]], feature: Feature) -> Float[Tensor, "n f"]:
    """Return one vector per image from the tokens after some blocks.

    blocks: tokens after each block, from first to last. `cls`, `cls+` and `concat` (cls and cls+) concatenate the
    vectors of all blocks. `patch_mean` and `cls_patch_mean` (cls and the mean of the patches) use only the last block.
    Raises FungiError if the network does not have the class token of the feature.
    """
    prefix = model.num_prefix_tokens
    if feature in ("cls+", "concat") and prefix < 2:
        raise FungiError(f"the network has only one class token, so it has no {feature!r}. Use --features cls.")
    pooling: dict[str, Callable[[Tensor], Tensor]] = {
        "cls": lambda tokens: tokens[:, 0],
        "cls+": lambda tokens: tokens[:, 1],
        "concat": lambda tokens: tokens[:, :2].flatten(1),
        "patch_mean": lambda tokens: tokens[:, prefix:].mean(1),
        "cls_patch_mean": lambda tokens: torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], dim=1),
    }
    used_blocks = blocks[-1:] if feature.endswith("patch_mean") else blocks
    return torch.cat([pooling[feature](tokens) for tokens in used_blocks], dim=1)


@torch.no_grad()
def encode(
    backbone: Backbone,
    samples: Samples,
    features: tuple[Feature, ...],
    device: torch.device,
    *,
    batch_size: int = 64,
    block_count: int = 1,
    workers: int = 0,
) -> tuple[dict[str, Float[Tensor, "n f"]], Int64[Tensor, " n"]]:
    """Return the features of all images and their labels, on the CPU in float32. Uses the evaluation transform.

    block_count: number of last blocks whose tokens are used. workers: number of processes that decode.
    """
    model = backbone.model.to(device)
    rows: dict[str, list[Tensor]] = {feature: [] for feature in features}
    for images in evaluation_images(backbone, samples, batch_size, device, workers):
        blocks = last_blocks(model, images, block_count)
        for feature in features:
            rows[feature].append(pooled(model, blocks, feature).cpu())
    targets = torch.from_numpy(samples.targets.astype("int64"))
    return {feature: torch.cat(parts) for feature, parts in rows.items()}, targets


def evaluation_images(
    backbone: Backbone, samples: Samples, batch_size: int, device: torch.device, workers: int = 0
) -> Iterator[Float[Tensor, "b 3 s s"]]:
    """Yield all images in order, after the evaluation transform of the backbone, on the device."""
    views = backbone.input.views("plain")
    rows = row_batches(0, len(samples), batch_size)
    image_batches = batches(samples, [views], rows, seed=0, num_workers=workers, pin_memory=device.type == "cuda")
    for batch in progress(image_batches, list(map(len, rows)), label="encode"):
        yield views.render(upload(batch[views.identity], device))
