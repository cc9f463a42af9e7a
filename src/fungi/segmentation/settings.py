"""Flags of `fungi segment`, with the published settings as defaults (spec dense 5)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fungi.data.base import DATASETS, MaskRules
from fungi.errors import FungiError
from fungi.extraction.stage import StageSettings
from fungi.profiles import DATA_EFFICIENT, DENSE_PROFILES, FULL, DenseProfile, SegmentationNumbers
from fungi.results.settings import ResultSettings
from fungi.search import backend_of
from fungi.settings import SEEDS, like, setting

if TYPE_CHECKING:
    import torch

MAX_NEIGHBOURS = 4096
"""Largest number of neighbours that a search retrieves (`--k`)."""
MEMORY_GB = 4.0
FEATURES = ("embeddings", "simclr", "embeddings+simclr")


@dataclass(frozen=True, kw_only=True)
class SegmentSettings(ResultSettings):
    """Flags of `fungi segment`: data, features, bank and search."""

    computed_in: ClassVar[str] = "fungi.segmentation.segment"

    dataset: str = setting(
        "digit-scenes", "dataset with masks: a name of `fungi list datasets`, or NAME=masks:PATH", topic="data"
    )
    backbone: str = setting(
        "digits-vit", "vision transformer with a class token", aliases=("--model-type",), topic="model"
    )
    features: tuple[str, ...] = setting(
        ("embeddings", "embeddings+simclr"),
        f"features of patches: one or more of {', '.join(FEATURES)}",
        affects="which_results",
        word_in_file_name="",
        topic="features",
    )
    input_size: int = setting(
        0,
        "side in pixels to which images are resized; 0: the default of the dataset (512; digit-scenes: 48)",
        within=(0, 4096),
        topic="model",
    )
    memory_size: int | None = setting(
        None,
        f"number of patches in the bank; 0: every patch; default: {FULL.memory_size}, or 0 with --train-images",
        within=(0, 10**9),
        word_in_file_name="m",
    )
    augmentation_epochs: int | None = setting(
        None,
        "number of passes over the training images with random crops; 0: one pass without crops; default: "
        f"{FULL.augmentation_epochs}, or {DATA_EFFICIENT.augmentation_epochs} with --train-images",
        within=(0, 1000),
    )
    neighbours: int | None = setting(
        None,
        f"number of neighbours that vote; default: {FULL.neighbours}, or {DATA_EFFICIENT.neighbours} with"
        " --train-images",
        flag="--k",
        aliases=("--neighbours",),
        within=(1, MAX_NEIGHBOURS),
    )
    temperature: float | None = setting(
        None,
        "temperature of the attention over neighbours; default: "
        f"{FULL.temperature}, or {DATA_EFFICIENT.temperature} with --train-images",
        within=(1e-4, 100.0),
    )
    search: Literal["exact", "torch", "faiss", "scann"] = setting(
        "exact",
        "library that searches the bank; exact and torch are the same; the other libraries are approximate, report"
        " their recall and keep the bank in memory",
        aliases=("--backend",),
        topic="machine",
    )
    images: int | None = setting(
        None,
        "number of training images to draw (the data-efficient setting); default: all",
        flag="--train-images",
        aliases=("--images",),
        within=(1, 10**7),
        word_in_file_name="n",
        topic="data",
    )
    projection_kind: Literal["binary", "gaussian", "sparse", "khatri-rao"] | None = setting(
        None,
        "kind of projection matrix; default: depends on the profile (clean: khatri-rao, published: binary)",
        topic="features",
    )
    profile: Literal["clean", "published"] = like(StageSettings, "profile")
    denominator_temperature: bool | None = setting(
        None, "divide similarities in the log-sum-exp by the temperature; default: depends on the profile"
    )
    std_typo: bool | None = setting(
        None, "use 0.255 as third standard deviation, as in the published code; default: depends on the profile"
    )
    neighbour_layout: Literal["real", "published"] | None = setting(
        None, "negatives: real neighbours, or the scrambled rows of the published code; default: depends on the profile"
    )
    zero_rows: bool | None = setting(None, "fill the bank up with rows of zeros; default: depends on the profile")
    class_matching: bool | None = setting(
        None, "also report mIoU after the best matching of classes; default: depends on the profile"
    )
    normalise_tokens_before_head: bool = setting(False, "scale tokens to length 1 before the head, like the neighbours")
    predict_unscored: bool = setting(True, "allow predictions of classes that are not scored (`other` of ade20k)")
    split: str = setting("test", "split to score", flag="--test-split", aliases=("--split",), topic="data")
    seed: int = setting(42, "seed of crops, selection, head, negatives, projection and subset", within=SEEDS)
    root: Path = setting(
        Path("features"), "folder of banks and results", aliases=("--output-path",), affects="nothing", topic="files"
    )
    data_dir: Path = setting(
        Path("data"), "folder of the datasets", aliases=("--cache-dir",), affects="nothing", topic="data"
    )
    checkpoint: Path | None = like(StageSettings, "checkpoint")
    checkpoint_key: str = like(StageSettings, "checkpoint_key")
    random_init: bool = like(StageSettings, "random_init")
    storage: Literal["float32", "float16"] = setting("float32", "dtype of the bank on disk", topic="machine")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", affects="nothing", topic="machine")
    dtype: str = setting("auto", "compute dtype: auto (bfloat16 on a GPU), float32, bfloat16, float16", topic="machine")
    batch_size: int = setting(
        4, "number of images per forward pass", within=(1, 4096), affects="nothing", topic="machine"
    )
    num_workers: int = like(StageSettings, "num_workers")
    block_size: int = setting(
        16,
        "number of images per block; a block is searched and saved together",
        within=(1, 4096),
        affects="nothing",
        topic="machine",
    )
    memory_gb: float | None = setting(
        None,
        f"memory of exact search in GB; default: half of a GPU's free memory, or {MEMORY_GB:g} on a CPU. A bank that"
        " fits is read once; a larger bank is read for every block of images",
        within=(0.01, 1024),
        affects="nothing",
        topic="machine",
    )
    wandb: bool = like(StageSettings, "wandb")

    def __post_init__(self) -> None:
        object.__setattr__(self, "search", backend_of(self.search))
        if unknown := [name for name in self.features if name not in FEATURES]:
            raise FungiError(f"--features {unknown[0]!r} is not known. Use one or more of {', '.join(FEATURES)}.")
        if not self.features or len(set(self.features)) < len(self.features):
            raise FungiError("--features needs one or more different features.")

    @property
    def task_name(self) -> str:
        """The name of the task in result files."""
        return "segmentation"

    @property
    def side(self) -> int:
        """The side in pixels to which images are resized."""
        masks = DATASETS[self.dataset].masks if self.dataset in DATASETS else None
        return self.input_size or (masks or MaskRules()).input_size

    @property
    def numbers(self) -> SegmentationNumbers:
        """The values of the numeric flags. An absent flag has its published value (full or data-efficient setting)."""
        defaults = FULL if self.images is None else DATA_EFFICIENT
        values = {name: getattr(self, name) for name in vars(defaults)}
        return dataclasses.replace(defaults, **{name: value for name, value in values.items() if value is not None})

    @property
    def deviations(self) -> DenseProfile:
        """The values of the deviation flags. An absent flag has the value of the profile."""
        profile = DENSE_PROFILES[self.profile]
        values = {name: getattr(self, name) for name in vars(profile)}
        return dataclasses.replace(profile, **{name: value for name, value in values.items() if value is not None})

    def search_bytes(self, device: "torch.device") -> int:
        """Return the memory limit of exact search on a device, in bytes."""
        if self.memory_gb is None and device.type == "cuda":
            import torch

            free_bytes, _ = torch.cuda.mem_get_info(device)
            return int(free_bytes // 2)
        return int((self.memory_gb or MEMORY_GB) * 2**30)

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the scores, as JSON, with the values of absent flags."""
        return super().identity() | vars(self.numbers) | vars(self.deviations) | {"input_size": self.side}

    def unusual(self) -> dict[str, Any]:
        """Return the settings that differ from the published settings of this profile (spec dense 5).

        The bank size is a column of the published tables, so it is included only with `--train-images`.
        """
        published = SegmentSettings(
            dataset=self.dataset, backbone=self.backbone, profile=self.profile, images=self.images
        ).identity()
        columns = ("features",) if self.images else ("features", "memory_size")
        return {
            name: value for name, value in self.identity().items() if value != published[name] and name not in columns
        }
