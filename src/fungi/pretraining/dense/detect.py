"""`fungi udi detect`: Mask R-CNN on COCO, trained on a pretrained vision transformer (spec udi 7.6)."""

from typing import Any

from fungi.pretraining.dense.settings import DenseSettings, DetectSettings

DESCRIPTION = """Train Mask R-CNN with a feature pyramid on a pretrained vision transformer, and score it on COCO after
every epoch: average precision of boxes and masks, by pycocotools.

--coco is the folder of the unpacked COCO: annotations/instances_train2017.json and instances_val2017.json, and the
folders train2017 and val2017. An interrupted run resumes after its last epoch. On several GPUs: torchrun
--nproc_per_node 8 -m fungi udi detect ..."""


def run(settings: DetectSettings) -> dict[str, Any]:
    """Train and score; return settings, provenance and scores. The process with rank 0 writes them to `result.json`."""
    from fungi.pretraining.dense.detection import Detection
    from fungi.pretraining.dense.training import train

    return train(settings, Detection)


def show(settings: DenseSettings, content: dict[str, Any]) -> None:
    """Print the scores after the last epoch."""
    print("  ".join(f"{name} {100 * value:.1f}" for name, value in content["results"].items()))
