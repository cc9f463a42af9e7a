"""`fungi udi detect`: Mask R-CNN on COCO, trained on a pretrained vision transformer (spec udi 7.6)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fungi.errors import FungiError
from fungi.pretraining.dense.settings import DenseSettings
from fungi.settings import setting

DESCRIPTION = """Train Mask R-CNN with a feature pyramid on a pretrained vision transformer, and score it on COCO after
every epoch: average precision of boxes and masks, by pycocotools.

--coco is the unpacked COCO: annotations/instances_train2017.json and instances_val2017.json, and the folders train2017
and val2017. An interrupted run goes on from its last epoch. On several GPUs: torchrun --nproc_per_node 8 -m fungi udi
detect ..."""


@dataclass(frozen=True, kw_only=True)
class DetectSettings(DenseSettings):
    """Network, images and the published schedule of 12 epochs."""

    coco: Path = setting(Path("data/coco"), "folder of COCO", decides="nothing", topic="data")
    train_split: str = setting("train2017", "name of the split to train on", topic="data")
    test_split: str = setting("val2017", "name of the split to score", topic="data")
    output_dir: Path = setting(
        Path("detection"),
        "folder of checkpoint, log and result; a run that is there goes on",
        decides="nothing",
        topic="files",
    )
    epochs: int = setting(12, "passes over the images", within=(1, 10**6))
    proposals: int = setting(512, "proposals that the heads learn from, of each image", within=(1, 10**5))
    lr_drops: tuple[int, ...] = setting(
        (8, 11), "epochs, counted from 0, from which the learning rate is divided by 10", within=(1, 10**6)
    )
    short_sides: tuple[int, ...] = setting(
        tuple(range(480, 801, 32)),
        "shorter sides of the images in training, in pixels; the last is used to score",
        within=(16, 10**5),
    )
    longest_side: int = setting(1333, "upper limit of the longer side of an image, in pixels", within=(16, 10**5))
    crop: tuple[int, ...] = setting(
        (384, 600),
        "smallest and largest side of the crops that half of the train images get, in pixels",
        within=(16, 10**5),
    )
    crop_short_sides: tuple[int, ...] = setting(
        (400, 500, 600), "shorter sides that an image may have before it is cropped, in pixels", within=(16, 10**5)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.crop) != 2 or self.crop[0] > self.crop[1]:
            raise FungiError(f"--crop {' '.join(map(str, self.crop))}: give the smallest and the largest side.")


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
