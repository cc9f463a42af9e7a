"""Settings that the extraction stages share: what to read, with which backbone, where to write."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fungi.errors import FungiError
from fungi.settings import setting
from fungi.store.layout import Layout
from fungi.store.shard import Shard


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What to extract from, and how to run."""

    dataset: str = setting("digits", "dataset: a name of `fungi list datasets`, or NAME=folder:PATH, NAME=hf:PATH")
    backbone: str = setting("digits-vit", "backbone: a name of `fungi list backbones`", aliases=("--model-type",))
    split: tuple[str, ...] = setting((), "splits to extract; all that the dataset has if none is named")
    root: Path = setting(Path("features"), "folder of all feature files", aliases=("--output-path",))
    data_dir: Path = setting(Path("data"), "folder of the datasets", aliases=("--cache-dir",))
    checkpoint: Path | None = setting(None, "weights from this file in place of the published ones")
    random_init: bool = setting(False, "random weights, drawn from the seed")
    profile: Literal["clean", "published"] = setting(
        "clean", "clean: what the method says; published: what its code did"
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    dtype: str = setting(
        "auto", "compute dtype: auto (bfloat16 on a GPU, float32 elsewhere), float32, bfloat16, float16"
    )
    batch_size: int = setting(64, "images that are decoded and projected together")
    views_per_forward: int = setting(0, "views that are encoded at once; 0 picks 64 on a CPU and 1024 on a GPU")
    num_workers: int = setting(-1, "processes that decode; -1 picks 0 on a CPU, and one per core but one on a GPU")
    seed: int = setting(42, "seed of heads, projection, negatives and views")
    shard: str = setting("1/1", "do the I-th of N parts of the work: I/N")
    block_size: int = setting(256, "rows per block, the unit that is resumed; the same for all shards")
    overwrite: bool = setting(False, "replace feature files that were made in another way")
    wandb: bool = setting(False, "progress and results to Weights & Biases, offline unless $WANDB_MODE says otherwise")

    def __post_init__(self) -> None:
        Shard.parse(self.shard)
        for name in ("batch_size", "block_size"):
            if getattr(self, name) < 1:
                raise FungiError(f"--{name.replace('_', '-')} has to be at least 1.")

    @property
    def layout(self) -> Layout:
        """Paths below the root."""
        return Layout(self.root)
