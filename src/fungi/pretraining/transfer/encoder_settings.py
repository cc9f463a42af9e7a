"""Settings that all evaluations of an encoder share: the network and the images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fungi.errors import FungiError
from fungi.pretraining.network_settings import NetworkSettings
from fungi.settings import setting

if TYPE_CHECKING:
    from fungi.data.base import Samples


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(NetworkSettings):
    """Settings of a network and of a dataset with train rows and rows to score."""

    dataset: str = setting("patterns", "dataset: a name of `fungi list datasets`, or NAME=folder:PATH", topic="data")
    data_path: Path | None = setting(
        None,
        "folder with train/ and val/, which contain a folder per class; an alternative to --dataset",
        aliases=("--data_path",),
    )
    train_share: float = setting(
        1.0, "share of the train rows, with equal numbers per class; 0.01 and 0.1 for low shot", within=(1e-6, 1)
    )
    train_list: Path | None = setting(
        None, "file with the names of the train images to use, one per line, as in SimCLR's lists"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_list and self.train_share < 1:
            raise FungiError("--train-list and --train-share can't be combined. Use only one of them.")

    def open_rows(self) -> "tuple[Samples, Samples]":
        """Return the train rows to use and the rows to score: the test split or, if there is none, the last split."""
        from fungi.data.base import resolve_dataset
        from fungi.pretraining.transfer.train_rows import listed_rows, share_of_rows

        name = f"images=folder:{self.data_path}" if self.data_path else self.dataset
        dataset = resolve_dataset(name, self.data_dir)
        scored_split = "test" if "test" in dataset.splits else dataset.splits[-1]
        train, test = (dataset.open_split(split, self.data_dir) for split in ("train", scored_split))
        if self.train_list:
            train = train.take(listed_rows(train.ids, self.train_list))
        elif self.train_share < 1:
            train = train.take(share_of_rows(train.targets, self.train_share, self.seed))
        return train, test
