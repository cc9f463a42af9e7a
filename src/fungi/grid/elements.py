"""The elements of the grid, in the order of the array's indices: the one place where an index gets its meaning."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fungi.data.base import DatasetSpec
from fungi.errors import FungiError
from fungi.grid.declaration import Grid, is_landmarks
from fungi.grid.throughput import shards_for
from fungi.store.shard import Shard

STAGES = ("projection", "extraction", "merge", "evaluation", "report")
STAGE_OF = {
    "projection": "projection",
    "extract": "extraction",
    "extract-gradients": "extraction",
    "merge": "merge",
    "knn": "evaluation",
    "linear": "evaluation",
    "retrieval": "evaluation",
    "report": "report",
}
"""Commands that jobs run over the grid, and when."""


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
    def stage(self) -> str:
        """Which of STAGES it belongs to."""
        return STAGE_OF[self.command]

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
            if is_landmarks(dataset) == (work.command == "retrieval")
        ]
    return [
        Element(backbone.name, text, split, Shard(index + 1, count))
        for backbone, text, dataset in pairs
        for split in _splits(grid, dataset)
        for count in [grid.shards or shards_for(dataset.sizes[split], backbone, work.features, grid.gpu)]
        for index in range(count)
    ]


def arguments(element: Element, work: Work, grid: Grid) -> list[str]:
    """The flags that tell a command its element; `projection` has others (`fungi.grid.work`)."""
    if work.command == "report":
        return ["--results", str(grid.root), "--output", str(grid.root / "report")]
    given = ["--root", str(grid.root)]
    if element.dataset:
        given += ["--dataset", element.dataset, "--backbone", element.backbone]
    if element.shard:
        given += ["--split", element.split, "--shard", f"{element.shard.index}/{element.shard.count}"]
    if work.stage == "extraction" or work.command == "retrieval":
        given += ["--data-dir", str(grid.data_dir)]
    return given


def _splits(grid: Grid, dataset: DatasetSpec) -> Sequence[str]:
    for split in grid.splits:
        if split not in dataset.sizes:
            raise FungiError(f"dataset {dataset.name!r} has no split {split!r}. It has: {', '.join(dataset.splits)}.")
    return grid.splits or dataset.splits
