"""How long extraction takes, so that one element of an array takes about an hour.

The model: images per second published for ViT-B/16 on an A100 (spec vision 9.9), divided by the work of the backbone
relative to ViT-B/16 (12 * depth * width^2 parameters in its blocks, times tokens), times the speed of the GPU relative
to the A100, and never below the time that decoding takes. It sizes shards, nothing more: elements that are a few times
too long or too short change no result. Backbones whose depth can't be read from their description count as ViT-B/16.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from math import ceil

from fungi.backbones.base import BackboneSpec
from fungi.views.plans import PUBLISHED, PlanName, ViewPlan

VIT_B16_ON_A100 = {"embeddings": 479.0, "kl": 344.0, "dino": 32.0, "simclr": 12.0}
"""Images per second. Objectives that are not here count as the slowest."""
GPU_SPEED = {"a100": 1.0, "h100": 2.0, "h200": 2.0, "a40": 0.5, "l40s": 0.7, "v100": 0.4, "t4": 0.15, "cpu": 0.01}
"""Relative to an A100: rough, from peak rates of half-precision matrix products, discounted for memory."""
DECODED_PER_SECOND = 2000.0
SECONDS_PER_ELEMENT = 3600.0
_VIT_B16_WORK = 12 * 12 * 768**2 * 197


def seconds_per_row(backbone: BackboneSpec, features: Sequence[str], gpu: str, views: PlanName = PUBLISHED) -> float:
    """Expected seconds for all `features` of one row. views: the plan of `--views`, which the forwards follow."""
    slowest = min(VIT_B16_ON_A100.values())
    on_reference = sum(
        relative_forwards(backbone, feature, views) / VIT_B16_ON_A100.get(feature, slowest) for feature in features
    )
    return max(on_reference * relative_work(backbone) / GPU_SPEED[gpu], 1 / DECODED_PER_SECOND)


def relative_forwards(backbone: BackboneSpec, feature: str, views: PlanName) -> float:
    """Forwards of a feature under a plan of views over those of the published views: 1 for embeddings."""
    from fungi.objectives import OBJECTIVES
    from fungi.objectives.binding import bind
    from fungi.views.base import NoViewsError, forwards_of

    if views == PUBLISHED or feature not in OBJECTIVES:
        return 1.0
    patch = re.search(r"/(\d+)", backbone.label)
    plans = (ViewPlan(), ViewPlan(views, int(patch[1]) if patch else 1))
    with suppress(NoViewsError):
        own, published = (
            forwards_of(bind(feature, embedding_dim=1, input_spec=backbone.input, seed=0, plan=plan).views)
            for plan in reversed(plans)
        )
        return own / published
    return 1.0


def relative_work(backbone: BackboneSpec) -> float:
    """Compute of one forward pass, in forwards of ViT-B/16."""
    block = re.fullmatch(r"\D*(\d+)\D*", backbone.layer)
    patch = re.search(r"/(\d+)", backbone.label)
    size = getattr(backbone.input, "size", None)
    if block is None or len(backbone.weight_shape) != 2:
        return 1.0
    depth, width = int(block[1]) + 1, backbone.weight_shape[0]
    tokens = 1 + (size // int(patch[1])) ** 2 if patch and size else 197
    return 12 * depth * width**2 * tokens / _VIT_B16_WORK


def shards_for(
    rows: int | None, backbone: BackboneSpec, features: Sequence[str], gpu: str, views: PlanName = PUBLISHED
) -> int:
    """Parts of a split that take about an hour each; 1 where the number of rows is not known."""
    if rows is None:
        return 1
    return max(1, ceil(rows * seconds_per_row(backbone, features, gpu, views) / SECONDS_PER_ELEMENT))
