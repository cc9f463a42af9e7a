"""The elements of the grid, in the order of the array's indices: the one place where an index gets its meaning."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from fungi.commands import COMMANDS, Stage
from fungi.data.base import DatasetSpec
from fungi.errors import FungiError
from fungi.grid.declaration import Grid
from fungi.grid.throughput import shards_for
from fungi.settings import flag_of
from fungi.store.shard import Shard


@dataclass(frozen=True)
class Work:
    """What a job asks for: a command with its flags (those of the job, then those of the grid).

    landmarks: over the retrieval datasets of the grid alone. features: what an extraction writes.
    """

    command: str
    job_flags: tuple[str, ...] = ()
    grid_flags: tuple[str, ...] = ()
    landmarks: bool = False
    features: tuple[str, ...] = ()

    @property
    def stage(self) -> Stage:
        """When it runs."""
        stage = COMMANDS[self.command].stage
        assert stage is not None
        return stage

    @property
    def flags(self) -> list[str]:
        """All flags; of a flag given twice, the later one counts."""
        return [*self.job_flags, *self.grid_flags]

    @property
    def key(self) -> str:
        """A folder name for it, the same whatever the job is called."""
        words = [self.command, *(["landmarks"] if self.landmarks else []), *self.job_flags]
        return re.sub(r"[^\w.=]+", "-", " ".join(words)).strip("-")


@dataclass(frozen=True)
class Element:
    """One point of the grid; axes that a command does not have are empty."""

    backbone: str = ""
    dataset: str = ""
    split: str = ""
    shard: Shard | None = None

    def __str__(self) -> str:
        shard = f"{self.shard.index}/{self.shard.count}" if self.shard else ""
        return " ".join(filter(None, (self.backbone, self.dataset, self.split, shard))) or "everything"

    @property
    def key(self) -> str:
        """A file name for it."""
        return re.sub(r"[^\w.=]+", "-", str(self))

    @property
    def dataset_name(self) -> str:
        """Folder name of the dataset; users' own are written `NAME=kind:PATH`."""
        return self.dataset.partition("=")[0]


def elements(grid: Grid, work: Work) -> list[Element]:
    """All elements of a job; the i-th is that of array index i."""
    if work.stage in ("merge", "report"):
        return [Element()]
    pairs = grid.pairs(landmarks=work.landmarks)
    if work.stage == "projection":
        return [Element(backbone=name) for name in dict.fromkeys(backbone.name for backbone, _, _ in pairs)]
    if work.stage == "evaluation":
        return [
            Element(backbone.name, text)
            for backbone, text, dataset in pairs
            if dataset.metric in COMMANDS[work.command].metrics
        ]
    return [
        Element(backbone.name, text, split, Shard(index + 1, count))
        for backbone, text, dataset in pairs
        for split in _splits(grid, dataset)
        for count in [grid.shards or shards_for(dataset.sizes[split], backbone, work.features, grid.gpu)]
        for index in range(count)
    ]


def arguments(element: Element, work: Work, grid: Grid) -> list[str]:
    """The flags that tell a command its element, as far as it has them; `projection` has others (`fungi.grid.work`)."""
    if work.stage == "report":
        return ["--results", str(grid.root), "--output", str(grid.root / "report")]
    shard = f"{element.shard.index}/{element.shard.count}" if element.shard else ""
    values = {
        "root": str(grid.root),
        "dataset": element.dataset,
        "backbone": element.backbone,
        "split": element.split,
        "shard": shard,
        "data_dir": str(grid.data_dir),
    }
    flags = {field.name: flag_of(field) for field in fields(COMMANDS[work.command].settings_type)}
    return [word for name, value in values.items() if value and name in flags for word in (flags[name], value)]


def _splits(grid: Grid, dataset: DatasetSpec) -> Sequence[str]:
    for split in grid.splits:
        if split not in dataset.sizes:
            raise FungiError(f"dataset {dataset.name!r} has no split {split!r}. It has: {', '.join(dataset.splits)}.")
    return grid.splits or dataset.splits
