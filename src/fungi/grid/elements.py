"""Elements of the grid in the order of array indices. Only this module defines the element of an index."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from fungi.commands import COMMANDS, SEGMENTATION_METRICS, Stage
from fungi.data.base import DATASETS, DatasetSpec, no_such_split
from fungi.grid.array import Place
from fungi.grid.declaration import Grid, Pair
from fungi.grid.throughput import shards_for
from fungi.settings import flag_of
from fungi.store.shard import Shard
from fungi.views.plans import PlanName

_NOT_IN_NAMES = re.compile(r"[^\w.=]+")


@dataclass(frozen=True)
class GridCall:
    """A command that a job runs over the grid, with the flags of the job file and of the grid.

    job_flags, grid_flags: flags in the job file, and additional flags in the declaration of the grid.
    landmarks: whether to run only over the retrieval datasets of the grid.
    features, views: features that an extraction writes, and the plan of their views.
    """

    command: str
    job_flags: tuple[str, ...] = ()
    grid_flags: tuple[str, ...] = ()
    landmarks: bool = False
    features: tuple[str, ...] = ()
    views: PlanName = "published"

    @property
    def stage(self) -> Stage:
        """Stage of the command."""
        stage = COMMANDS[self.command].stage
        assert stage is not None
        return stage

    @property
    def flags(self) -> list[str]:
        """All flags. The flags of the grid come last, so that they replace equal flags of the job file."""
        return [*self.job_flags, *self.grid_flags]

    @property
    def key(self) -> str:
        """Folder name of the call, which does not depend on the name of the job file."""
        words = [self.command, *(["landmarks"] if self.landmarks else []), *self.job_flags]
        return _NOT_IN_NAMES.sub("-", " ".join(words)).strip("-")


@dataclass(frozen=True)
class Element:
    """One element of the grid: a run of a command. Axes that the command does not have are empty.

    backbone, dataset: texts of the declaration, such as `NAME=kind:PATH` for data of the user.
    """

    backbone: str = ""
    dataset: str = ""
    split: str = ""
    shard: Shard | None = None

    def __str__(self) -> str:
        shard = f"{self.shard.index}/{self.shard.count}" if self.shard else ""
        return " ".join(filter(None, (self.backbone, self.dataset, self.split, shard))) or "everything"

    @property
    def key(self) -> str:
        """File name of the element."""
        return _NOT_IN_NAMES.sub("-", str(self))

    @property
    def pair(self) -> tuple[str, str]:
        """Backbone and dataset; each pair has a chain of jobs from extraction to evaluation."""
        return self.backbone, self.dataset


def elements_of(grid: Grid, call: GridCall) -> list[Element]:
    """Return all elements of a job, in the order of array indices."""
    if call.stage == "report" or (call.stage == "merge" and not grid.datasets):
        return [Element()]  # without datasets, a merge assembles everything below the root
    metrics = COMMANDS[call.command].metrics
    pairs = grid.pairs(landmarks=call.landmarks, masks=metrics == SEGMENTATION_METRICS)
    if call.stage == "projection":
        return [Element(backbone=name) for name in dict.fromkeys(pair.backbone for pair in pairs)]
    if call.stage == "merge":
        return [Element(pair.backbone, pair.dataset) for pair in pairs]
    if call.stage == "evaluation":
        return [Element(pair.backbone, pair.dataset) for pair in pairs if pair.dataset_spec.metric in metrics]
    return [
        Element(pair.backbone, pair.dataset, split, shard)
        for pair in pairs
        for split in _splits(grid, pair.dataset_spec)
        for shard in _shards(grid, call, pair, split)
    ]


def places_of(grid: Grid, elements: Sequence[Element]) -> list[Place]:
    """Return the place of each element. The number of a pair is the same in all jobs of the grid."""
    datasets = grid.datasets or tuple(DATASETS)
    rows = {name: row for row, name in enumerate(grid.backbones)}
    columns = {name: column for column, name in enumerate(datasets)}
    positions: Counter[int] = Counter()
    places = []
    for element in elements:
        pair = rows.get(element.backbone, 0) * len(datasets) + columns.get(element.dataset, 0)
        places.append(Place(pair, positions[pair]))
        positions[pair] += 1
    return places


def arguments(element: Element, call: GridCall, grid: Grid) -> list[str]:
    """Return the flags of the command that select an element. The command `projection` has other flags."""
    if call.stage == "report":
        results = grid.root / "results" if (grid.root / "results").is_dir() else grid.root
        return ["--results", str(results), "--output-dir", str(grid.root / "report")]
    shard = f"{element.shard.index}/{element.shard.count}" if element.shard else ""
    values = {
        "root": str(grid.root),
        "dataset": element.dataset,
        "backbone": element.backbone,
        "split": element.split,
        "shard": shard,
        "data_dir": str(grid.data_dir),
    }
    flags = {field.name: flag_of(field) for field in fields(COMMANDS[call.command].settings_type)}
    return [word for name, value in values.items() if value and name in flags for word in (flags[name], value)]


def _shards(grid: Grid, call: GridCall, pair: Pair, split: str) -> list[Shard]:
    """Return the shards of an extraction: the number in the grid, or as many as take about an hour each."""
    rows = pair.dataset_spec.sizes[split]
    count = grid.shards or shards_for(rows, pair.backbone_spec, call.features, grid.gpu, call.views)
    return [Shard(index + 1, count) for index in range(count)]


def _splits(grid: Grid, dataset: DatasetSpec) -> Sequence[str]:
    """Return the splits of a dataset in the grid. Raises FungiError for a split that the dataset does not have."""
    for split in grid.splits:
        if split not in dataset.sizes:
            raise no_such_split(dataset, split)
    return grid.splits or dataset.splits
