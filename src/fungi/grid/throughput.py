"""Expected time of extraction. It determines the number of shards, so that an element takes about an hour.

The time on the GPU is a * w / s:

- a: seconds per image of ViT-B/16 on an A100;
- w: work of the backbone relative to ViT-B/16. The work is the number of operations of a forward pass. If this number
  is unknown, the work is the number of parameters of the blocks (12 * depth * width^2) times the number of tokens;
- s: speed of the GPU relative to an A100.

The seconds a are calculated, not measured: operations per forward pass, divided by the rate that matrix products of
these sizes reach on the GPU (bfloat16; float32 for embeddings). `scripts/benchmark.py gpu` measures them.

The time on the CPU is the time per image and core for decoding and views, measured with Pillow (docs/log.md), divided
by the number of workers of a job. Workers and GPU work at the same time, so the longer of the two times counts.

The estimate has no effect on results. A backbone whose operations and number of blocks are unknown counts as ViT-B/16.
"""

from collections.abc import Sequence
from contextlib import suppress
from math import ceil

from fungi.backbones.base import BackboneSpec
from fungi.views.plans import PUBLISHED, PlanName, ViewPlan

VIEW_FORWARDS = {"kl": 1, "dino": 12, "simclr": 49}
"""Number of encoded views per image. Other objectives count as the largest number."""
FORWARD_SECONDS = 0.21e-3
"""Seconds per view for ViT-B/16 in bfloat16 on an A100, including backward pass, gradient and projection: 35 GFLOP at
about half of 312 TFLOP/s."""
EMBEDDING_SECONDS = 1.9e-3
"""Seconds per image for ViT-B/16 in float32 on an A100: 35 GFLOP at 19.5 TFLOP/s."""
GPU_SPEED = {"a100": 1.0, "h100": 2.2, "h200": 2.5, "a40": 0.5, "l40s": 0.7, "v100": 0.4, "t4": 0.15, "cpu": 0.01}
"""Speed relative to an A100, estimated roughly from peak rates of half-precision products and memory bandwidth."""
DECODE_SECONDS = 1 / 450
"""Seconds to decode an image on one core (docs/log.md: 432 to 465 images/s)."""
VIEW_SECONDS = {"embeddings": 1 / 158, "kl": 1 / 158, "dino": 1 / 23, "simclr": 1 / 148}
"""Seconds to make the views of an image on one core, without decoding (docs/log.md)."""
WORKERS = 15
"""Number of decoding processes of a job that requests 16 cores, as the job files do."""
SECONDS_PER_ELEMENT = 3600.0
VIT_B16_TOKENS, VIT_B16_FLOPS = 197, 35.1e9
"""Tokens of an image of 224 pixels, and operations of its forward pass as torch's counter counts them."""
_VIT_B16_WORK = 12 * 12 * 768**2 * VIT_B16_TOKENS


def seconds_per_row(backbone: BackboneSpec, features: Sequence[str], gpu: str, views: PlanName = PUBLISHED) -> float:
    """Return the expected seconds per row for all `features`. views: the plan of views (`--views`)."""
    most_forwards, most_seconds = max(VIEW_FORWARDS.values()), max(VIEW_SECONDS.values())
    forwards = sum(
        relative_forwards(backbone, feature, views) * VIEW_FORWARDS.get(feature, most_forwards)
        for feature in features
        if feature != "embeddings"
    )
    seconds_on_a100 = FORWARD_SECONDS * forwards + (EMBEDDING_SECONDS if "embeddings" in features else 0.0)
    seconds_on_core = DECODE_SECONDS + sum(VIEW_SECONDS.get(feature, most_seconds) for feature in features)
    return max(seconds_on_a100 * relative_work(backbone) / GPU_SPEED[gpu], seconds_on_core / WORKERS)


def relative_forwards(backbone: BackboneSpec, feature: str, views: PlanName) -> float:
    """Return the forward passes of a feature under a plan of views, divided by its forward passes under `published`.

    The ratio is 1 for embeddings, and for views that the plan does not define.
    """
    from fungi.objectives import OBJECTIVES

    if views == PUBLISHED or feature not in OBJECTIVES:
        return 1.0
    from fungi.objectives.binding import configure  # imported late: it imports torch, which takes seconds
    from fungi.views.base import NoViewsError, forwards_of

    with suppress(NoViewsError):
        _, planned_views, _ = configure(feature, backbone.input, plan=ViewPlan(views, backbone.patch_size or 1))
        _, published_views, _ = configure(feature, backbone.input, plan=ViewPlan())
        return forwards_of(planned_views) / forwards_of(published_views)
    return 1.0


def relative_work(backbone: BackboneSpec) -> float:
    """Return the number of operations of one forward pass, divided by the number of operations of ViT-B/16."""
    if backbone.flops:
        return backbone.flops / VIT_B16_FLOPS
    if not backbone.depth:
        return 1.0
    size = getattr(backbone.input, "size", None)
    tokens = 1 + (size // backbone.patch_size) ** 2 if backbone.patch_size and size else VIT_B16_TOKENS
    return 12 * backbone.depth * backbone.weight_shape[0] ** 2 * tokens / _VIT_B16_WORK


def shards_for(
    rows: int | None, backbone: BackboneSpec, features: Sequence[str], gpu: str, views: PlanName = PUBLISHED
) -> int:
    """Return the number of shards of a split for about an hour per shard; 1 if the number of rows is not known."""
    if rows is None:
        return 1
    return max(1, ceil(rows * seconds_per_row(backbone, features, gpu, views) / SECONDS_PER_ELEMENT))
