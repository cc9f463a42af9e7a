"""Settings of detection and segmentation with dense heads."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fungi.errors import FungiError
from fungi.pretraining.network_settings import NetworkSettings
from fungi.settings import as_json, like, require_values, setting


@dataclass(frozen=True, kw_only=True)
class DenseSettings(NetworkSettings):
    """Settings of the training of a network with a head for a dense task. All weights that are used are trained."""

    output_dir: Path = setting(
        Path("dense"),
        "folder of checkpoint, log and result; a run in this folder resumes",
        affects="nothing",
        topic="files",
    )
    blocks: tuple[int, ...] = setting(
        (3, 5, 7, 11),
        "indices of the four blocks whose tokens the feature pyramid uses, from 0; a network with fewer blocks repeats"
        " indices",
        within=(0, 999),
        topic="model",
    )
    channels: int = setting(256, "number of channels of the feature pyramid", within=(1, 4096), topic="model")
    batch_size: int = setting(
        1,
        "number of images per step and process",
        within=(1, 65536),
        aliases=("--batch-size-per-gpu",),
        topic="machine",
    )
    lr: float = setting(5e-5, "peak learning rate", within=(0, 100))
    weight_decay: float = setting(
        0.05, "weight decay, except of position embeddings and normalisation layers", within=(0, 10)
    )
    warmup_steps: int = setting(
        1000, "number of steps in which the learning rate rises linearly to its peak", within=(0, 10**9)
    )
    drop_path: float = setting(0.05, "stochastic depth: share of dropped branches in the last block", within=(0, 0.99))
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "compute dtype: auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16", topic="machine"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.blocks) != 4 or list(self.blocks) != sorted(self.blocks):
            raise FungiError(
                f"--blocks {' '.join(map(str, self.blocks))}: use four numbers in ascending order. A number may be"
                " repeated."
            )

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the numbers of a run, as plain JSON values."""
        values = as_json(self)
        return {field.name: values[field.name] for field in fields(self) if field.metadata.get("affects") != "nothing"}


@dataclass(frozen=True, kw_only=True)
class DetectSettings(DenseSettings):
    """Flags of `fungi udi detect`, with the published schedule of 12 epochs."""

    coco: Path = setting(Path("data/coco"), "folder of COCO", affects="nothing", topic="data")
    train_split: str = setting("train2017", "name of the split to train on", topic="data")
    test_split: str = setting("val2017", "name of the split to score", topic="data")
    output_dir: Path = like(DenseSettings, "output_dir", default=Path("detection"))
    epochs: int = setting(12, "number of passes over the images", within=(1, 10**6))
    proposals: int = setting(512, "number of proposals per image that the heads learn from", within=(1, 10**5))
    lr_drops: tuple[int, ...] = setting(
        (8, 11), "epochs, from 0, at whose start the learning rate is divided by 10", within=(1, 10**6)
    )
    short_sides: tuple[int, ...] = setting(
        tuple(range(480, 801, 32)),
        "shorter sides of the images in training, in pixels, chosen at random; the last side is used for scoring",
        within=(16, 10**5),
    )
    longest_side: int = setting(1333, "upper limit of the longer side of an image, in pixels", within=(16, 10**5))
    crop: tuple[int, ...] = setting(
        (384, 600),
        "smallest and largest side of the crops, in pixels; half of the train images are cropped",
        within=(16, 10**5),
    )
    crop_short_sides: tuple[int, ...] = setting(
        (400, 500, 600),
        "shorter sides of the images before they are cropped, in pixels, chosen at random",
        within=(16, 10**5),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_values(self, "short_sides", "crop_short_sides")
        if len(self.crop) != 2 or self.crop[0] > self.crop[1]:
            raise FungiError(f"--crop {' '.join(map(str, self.crop))}: use two numbers, first the smallest side.")


@dataclass(frozen=True, kw_only=True)
class SegmentFpnSettings(DenseSettings):
    """Flags of `fungi udi segment-fpn`, with the published schedule of 40,000 steps."""

    dataset: str = setting("ade20k", "dataset with masks: a name of `fungi list datasets`", topic="data")
    blocks: tuple[int, ...] = like(DenseSettings, "blocks", default=(2, 5, 8, 11))
    output_dir: Path = like(DenseSettings, "output_dir", default=Path("segmentation-fpn"))
    steps: int = setting(40_000, "number of training steps", within=(1, 10**9))
    epoch_steps: int = setting(4_000, "number of steps between two scores and checkpoints", within=(1, 10**9))
    batch_size: int = setting(
        4,
        "number of images per step and process",
        within=(2, 65536),
        aliases=("--batch-size-per-gpu",),
        topic="machine",
    )
    lr: float = setting(6e-5, "peak learning rate; then the rate falls linearly to 0", within=(0, 100))
    weight_decay: float = like(DenseSettings, "weight_decay", default=0.01)
    warmup_steps: int = like(DenseSettings, "warmup_steps", default=1500)
    drop_path: float = like(DenseSettings, "drop_path", default=0.1)
    size: int = setting(512, "side of the crops, and shorter side of test images, in pixels", within=(16, 8192))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps % self.epoch_steps:
            raise FungiError(f"--steps {self.steps} is not a multiple of --epoch-steps {self.epoch_steps}.")
