"""`fungi udi segment-fpn`: Semantic FPN on ADE20K, trained on a pretrained vision transformer (spec udi 7.6)."""

from typing import Any

from fungi.pretraining.dense.detect import show
from fungi.pretraining.dense.settings import SegmentFpnSettings

__all__ = ["DESCRIPTION", "run", "show"]

DESCRIPTION = """Train a semantic feature pyramid on a pretrained vision transformer, and score it by the mIoU of full
test images at one scale.

The dataset needs masks (`fungi list datasets`). An epoch consists of the steps between two scores. An interrupted run
resumes after its last epoch. On several GPUs: torchrun --nproc_per_node 4 -m fungi udi segment-fpn ..."""


def run(settings: SegmentFpnSettings) -> dict[str, Any]:
    """Train and score; return settings, provenance and scores. The process with rank 0 writes them to `result.json`."""
    from fungi.pretraining.dense.segmentation import Segmentation
    from fungi.pretraining.dense.training import train

    return train(settings, Segmentation)
