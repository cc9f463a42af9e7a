"""What a dataset is to the rest of the program, and the enumeration of datasets.

A file in this package describes one dataset with a `DatasetSpec` and registers it. Modules import torchvision,
`datasets` and the like inside their `open` function, so that listing names stays instant.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fungi.errors import FungiError
from fungi.registry import Registry

Metric = Literal["accuracy", "mean-per-class-accuracy", "map"]
Modality = Literal["vision", "text", "audio"]


@dataclass(frozen=True)
class Samples:
    """One split of a dataset, in its fixed order. No shuffling, ever: row i of every file is sample i.

    targets: labels, uint32 `[n]`; for landmarks, the row number.
    ids: one name per row that stays the same on every machine (relative path, index in the source file). The seeds of
        random views and the dataset's fingerprint derive from it.
    load: row -> raw item (an RGB `PIL.Image`, a `str`, a waveform). FungiError naming the file where it can't be read.
    """

    targets: np.ndarray
    ids: Sequence[str]
    load: Callable[[int], Any]
    class_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert len(self.targets) == len(self.ids)
        assert self.targets.dtype == np.uint32

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        """(item, label) of a row, as map-style datasets of torch give it."""
        return self.load(row), int(self.targets[row])

    def fingerprint(self) -> str:
        """SHA-256 over the ordered sample ids and labels: equal if and only if the rows are the same rows."""
        digest = hashlib.sha256()
        for name in self.ids:
            digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(self.targets, dtype="<u4").tobytes())
        return digest.hexdigest()

    def take(self, rows: Sequence[int] | np.ndarray) -> "Samples":
        """The given rows, in the given order, under their own ids."""
        chosen = [int(row) for row in rows]
        return Samples(
            targets=self.targets[chosen],
            ids=[self.ids[row] for row in chosen],
            load=lambda row: self.load(chosen[row]),
            class_names=self.class_names,
        )


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One entry of the enumeration.

    open: (data directory, split) -> Samples. It never downloads. MissingFilesError says what to place where.
    download: data directory -> None, where the source can be fetched by a program; used by `fungi prefetch` and the
        scripts alone.
    sizes: rows per split, as published; the names of the splits are its keys.
    published: whether the dataset belongs to the paper (spec vision 3.1), so that reports know where to look.
    """

    name: str
    title: str
    classes: int | None
    sizes: dict[str, int]
    metric: Metric = "accuracy"
    modality: Modality = "vision"
    open: Callable[[Path, str], Samples]
    download: Callable[[Path], None] | None = None
    published: bool = True
    notes: str = ""
    pca_dim: int | None = field(default=None)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that there are."""
        return tuple(self.sizes)


DATASETS: Registry[DatasetSpec] = Registry("dataset", "fungi.data")


def open_split(name: str, split: str, data_dir: Path) -> Samples:
    """One split of a named dataset; FungiError for an unknown dataset or a split it does not have."""
    spec = DATASETS[name]
    if split not in spec.sizes:
        raise FungiError(f"dataset {name!r} has no split {split!r}. It has: {', '.join(spec.splits)}.")
    return spec.open(data_dir, split)
