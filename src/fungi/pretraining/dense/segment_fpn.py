"""`fungi udi segment-fpn`: Semantic FPN on ADE20K, trained on a pretrained vision transformer (spec udi 7.6)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fungi.errors import FungiError
from fungi.pretraining.dense.settings import DenseSettings
from fungi.settings import setting

DESCRIPTION = """Train a semantic feature pyramid on a pretrained vision transformer, and score it by the mIoU of whole
test images at one scale.

The dataset is one with masks (`fungi list datasets`). An interrupted run goes on from its last epoch; an epoch is the
number of steps between two scores. On several GPUs: torchrun --nproc_per_node 4 -m fungi udi segment-fpn ..."""


@dataclass(frozen=True, kw_only=True)
class SegmentFpnSettings(DenseSettings):
    """Network, images and the published schedule of 40,000 steps."""

    dataset: str = setting("ade20k", "dataset with masks: a name of `fungi list datasets`", topic="data")
    blocks: tuple[int, ...] = setting(
        (2, 5, 8, 11),
        "four blocks of the network that the pyramid is built on, counted from 0",
        within=(0, 999),
        topic="model",
    )
    output_dir: Path = setting(
        Path("segmentation-fpn"),
        "folder of checkpoint, log and result; a run that is there goes on",
        decides="nothing",
        topic="files",
    )
    steps: int = setting(40_000, "number of training steps", within=(1, 10**9))
    epoch_steps: int = setting(4_000, "number of steps between two scores and checkpoints", within=(1, 10**9))
    batch_size: int = setting(
        4, "images of one process in one step", within=(2, 65536), aliases=("--batch-size-per-gpu",), topic="machine"
    )
    lr: float = setting(6e-5, "peak learning rate; it falls in a line to 0", within=(0, 100))
    weight_decay: float = setting(0.01, "weight decay, except of positions and normalisation layers", within=(0, 10))
    warmup_steps: int = setting(1500, "steps of linear warm-up to the peak rate", within=(0, 10**9))
    drop_path: float = setting(
        0.1, "stochastic depth: share of branches that are dropped in the last block", within=(0, 0.99)
    )
    size: int = setting(512, "side of the crops, and shorter side of test images, in pixels", within=(16, 8192))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps % self.epoch_steps:
            raise FungiError(f"--steps {self.steps} is not a multiple of --epoch-steps {self.epoch_steps}.")


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
