"""`fungi udi detect`: Mask R-CNN on COCO, trained on a pretrained vision transformer (spec udi 7.6)."""

from typing import Any

from fungi.pretraining.dense.settings import DetectSettings

DESCRIPTION = """Train Mask R-CNN with a feature pyramid on a pretrained vision transformer, and score it on COCO after
every epoch: average precision of boxes and masks, by pycocotools.

--coco is the unpacked COCO: annotations/instances_train2017.json and instances_val2017.json, and the folders train2017
and val2017. An interrupted run goes on from its last epoch. On several GPUs: torchrun --nproc_per_node 8 -m fungi udi
detect ..."""


def run(settings: DetectSettings) -> dict[str, Any]:
    """Return settings, provenance and scores; the first of several processes writes them to `result.json`."""
    from fungi.pretraining.dense.coco import Instances
    from fungi.pretraining.dense.detection import Detection
    from fungi.pretraining.dense.result import write_result
    from fungi.pretraining.processes import joined
    from fungi.runtime.log import logger

    train, scored = (Instances(settings.coco, split) for split in (settings.train_split, settings.test_split))
    backbone = settings.load_network()
    with joined(settings.device) as (world, device):
        if not world.leads:
            logger.setLevel("ERROR")
        train.log_left_out()
        history = Detection(settings, backbone, train, scored, world, device).run()
        return write_result(settings, backbone, history, world)


def show(settings: DetectSettings, content: dict[str, Any]) -> None:
    """Print the scores after the last epoch."""
    print("  ".join(f"{name} {100 * value:.1f}" for name, value in content["results"].items()))
