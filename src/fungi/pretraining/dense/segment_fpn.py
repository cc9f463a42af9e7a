"""`fungi udi segment-fpn`: Semantic FPN on ADE20K, trained on a pretrained vision transformer (spec udi 7.6)."""

from typing import Any

from fungi.pretraining.dense.detect import show
from fungi.pretraining.dense.settings import SegmentFpnSettings

__all__ = ["DESCRIPTION", "run", "show"]

DESCRIPTION = """Train a semantic feature pyramid on a pretrained vision transformer, and score it by the mIoU of whole
test images at one scale.

The dataset is one with masks (`fungi list datasets`). An interrupted run goes on from its last epoch; an epoch is the
number of steps between two scores. On several GPUs: torchrun --nproc_per_node 4 -m fungi udi segment-fpn ..."""


def run(settings: SegmentFpnSettings) -> dict[str, Any]:
    """Return settings, provenance and scores; the first of several processes writes them to `result.json`."""
    from fungi.pretraining.dense.segmentation import Segmentation
    from fungi.pretraining.dense.training import train

    return train(settings, Segmentation)
