"""`fungi udi segment-fpn`: Semantic FPN on ADE20K, trained on a pretrained vision transformer (spec udi 7.6)."""

from typing import Any

from fungi.errors import FungiError
from fungi.pretraining.dense.settings import SegmentFpnSettings

DESCRIPTION = """Train a semantic feature pyramid on a pretrained vision transformer, and score it by the mIoU of whole
test images at one scale.

The dataset is one with masks (`fungi list datasets`). An interrupted run goes on from its last epoch; an epoch is the
number of steps between two scores. On several GPUs: torchrun --nproc_per_node 4 -m fungi udi segment-fpn ..."""


def run(settings: SegmentFpnSettings) -> dict[str, Any]:
    """Return settings, provenance and scores; the first of several processes writes them to `result.json`."""
    from fungi.data.base import resolve_dataset
    from fungi.pretraining.dense.result import write_result
    from fungi.pretraining.dense.segmentation import Segmentation
    from fungi.pretraining.processes import joined
    from fungi.runtime.log import logger

    dataset = resolve_dataset(settings.dataset, settings.data_dir)
    if dataset.masks is None:
        raise FungiError(f"dataset {dataset.name!r} has no masks. Use ade20k, pascal-voc or digit-scenes.")
    backbone = settings.load_network()
    with joined(settings.device) as (world, device):
        if not world.leads:
            logger.setLevel("ERROR")
        history = Segmentation(settings, backbone, dataset, world, device).run()
        return write_result(settings, backbone, history, world)


def show(settings: SegmentFpnSettings, content: dict[str, Any]) -> None:
    """Print the scores after the last epoch."""
    print("  ".join(f"{name} {100 * value:.1f}" for name, value in content["results"].items()))
