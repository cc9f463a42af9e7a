"""What a dataset is to the rest of the program, and the enumeration of datasets.

A file in this package describes one dataset with a `DatasetSpec` and registers it. Modules import torchvision,
`datasets` and the like inside their functions, so that listing names stays instant. Items of any modality are
served the same way: an image is an RGB `PIL.Image`, a text a `str` (or a tuple of them), a sound a waveform.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fungi.data.content import digest_of_item, digests
from fungi.errors import FungiError, did_you_mean
from fungi.registry import Registry
from fungi.runtime.log import logger

if TYPE_CHECKING:
    from jaxtyping import Integer

Metric = Literal["accuracy", "mean-per-class-accuracy", "map", "mIoU"]
Modality = Literal["vision", "text", "audio"]
VOID = 255
"""Value of a mask's pixels that belong to no class."""
Loader = Callable[[int], Any]
"""Row -> raw item. An object that pickles (a small dataclass with `__call__`), so that any kind of worker can hold it;
it opens files when called, so that no handle is shared between processes. Where it can tell the content of a row
without loading it, it has a method `content(row) -> bytes` (`fungi.data.content`)."""


@dataclass(frozen=True)
class Rows:
    """The loader of chosen rows of another loader."""

    load: Loader
    rows: np.ndarray

    def __call__(self, row: int) -> Any:
        """Return the item of a chosen row."""
        return self.load(int(self.rows[row]))

    def content(self, row: int) -> bytes:
        """Return a digest of what is in a chosen row."""
        content: Callable[[int], bytes] | None = getattr(self.load, "content", None)
        chosen = int(self.rows[row])
        return content(chosen) if content else digest_of_item(self.load(chosen))


@dataclass(frozen=True)
class Samples:
    """One split of a dataset, in its fixed order. No shuffling, ever: row i of every file is sample i.

    targets: labels, uint32 `[n]`; for landmarks, the row number.
    ids: one name per row that stays the same on every machine (relative path, index in the source file). The seeds of
        random views and the dataset's fingerprint derive from it.
    load: row -> raw item. FungiError naming the file and the id where it can't be read.
    mask: row -> class of each pixel `[h w]` uint8, of the image's size, for datasets that are segmented (`MaskRules`).
    treatment: what is done to items as they are read, in words; part of the fingerprint. Empty for published datasets.
    """

    targets: np.ndarray
    ids: Sequence[str]
    load: Loader
    class_names: Sequence[str] = ()
    mask: Loader | None = None
    treatment: str = ""

    def __post_init__(self) -> None:
        assert len(self.targets) == len(self.ids)
        assert self.targets.dtype == np.uint32

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        """Return (item, label) of a row, as map-style datasets of torch do."""
        return self.load(row), int(self.targets[row])

    def fingerprint(self) -> str:
        """Return a SHA-256 over the ordered sample ids, labels, content and masks: equal if the rows are the same.

        Content is read as `fungi.data.content` says: not all of every large file. It is computed once.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in self.ids:
            digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(self.targets, dtype="<u4").tobytes())
        for load in filter(None, (self.load, self.mask)):
            for content in digests(load, len(self)):
                digest.update(content)
        digest.update(self.treatment.encode())
        return digest.hexdigest()

    def take(self, rows: "Sequence[int] | Integer[np.ndarray, ' s']") -> "Samples":
        """Return the rows `rows`, in that order, under their own ids."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Samples(
            targets=self.targets[chosen],
            ids=[self.ids[row] for row in chosen.tolist()],
            load=Rows(self.load, chosen),
            class_names=self.class_names,
            mask=None if self.mask is None else Rows(self.mask, chosen),
            treatment=self.treatment,
        )


@dataclass(frozen=True, kw_only=True)
class MaskRules:
    """What the values of a dataset's masks mean (spec dense 2.1, 2.2).

    ignored: the value that takes no part in the metric; void_class: the class that void (255) counts as among the
    labels of training patches, None for no class at all; unscored: classes that the metric leaves out of its mean.
    input_size: side in pixels that images are brought to where nobody says otherwise.
    """

    ignored: int = VOID
    void_class: int | None = None
    unscored: tuple[int, ...] = ()
    input_size: int = 512


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One entry of the enumeration.

    open: (data directory, split) -> Samples. It never downloads. MissingFilesError says what to place where.
    download: data directory -> None, where the source can be fetched by a program.
    prepare: (data directory, folder of the archives) -> None, where archives are fetched by hand; unpacks and arranges
        them. Both are used by `fungi prefetch` and the scripts alone, and do nothing where their work is done.
    archives: commands that fetch these archives into `downloads`, and comments for what a person has to do.
    masks: what the masks mean, for datasets that are segmented; `classes` then counts the classes of pixels.
    ground_truth: data directory -> one record per query, for retrieval datasets (`fungi.data.formats.landmarks`).
    sizes: rows per split, as published; its keys are the names of the splits. None: not known before opening.
    published_open: `open` as the published code read it, where that gives other labels (used by `--profile published`).
    input_options: what items of this dataset ask of a backbone's input: fields of the modality's input description.
    published: whether the dataset belongs to the paper (spec vision 3.1), so that reports know where to look.
    """

    name: str
    title: str
    classes: int | None
    sizes: Mapping[str, int | None]
    metric: Metric = "accuracy"
    modality: Modality = "vision"
    open: Callable[[Path, str], Samples]
    published_open: Callable[[Path, str], Samples] | None = None
    input_options: Mapping[str, Any] = field(default_factory=dict)
    download: Callable[[Path], None] | None = None
    prepare: Callable[[Path, Path], None] | None = None
    archives: tuple[str, ...] = ()
    ground_truth: Callable[[Path], list[Any]] | None = None
    masks: MaskRules | None = None
    published: bool = True
    notes: str = ""
    pca_dim: int | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return tuple(self.sizes)

    def as_published(self) -> "DatasetSpec":
        """Return the dataset with the labels that the published code read; itself where these are the same."""
        return self if self.published_open is None else replace(self, open=self.published_open)

    def open_split(self, split: str, data_dir: Path) -> Samples:
        """Return one split; FungiError for one that the dataset lacks. Warn where it has other rows than published."""
        if split not in self.sizes:
            raise no_such_split(self, split)
        samples, published = self.open(data_dir, split), self.sizes[split]
        if published not in (None, len(samples)):
            logger.warning(
                "dataset %r: split %s has %d rows here, published are %d; see scripts/verify_dataset.py.",
                *(self.name, split, len(samples), published),
            )
        return samples


def no_such_split(dataset: DatasetSpec, split: str) -> FungiError:
    """Return the error for a split that a dataset does not have, with the nearest names."""
    near = did_you_mean(split, dataset.splits)
    return FungiError(f"dataset {dataset.name!r} has no split {split!r}.{near} It has: {', '.join(dataset.splits)}.")


DATASETS: Registry[DatasetSpec] = Registry("dataset", "fungi.data.sets", own="fungi.data.own:own_dataset")
register_dataset = DATASETS.registering(DatasetSpec)
"""Make a dataset, and add it to the enumeration."""


def resolve_dataset(text: str, data_dir: Path | None = None) -> DatasetSpec:
    """Return the dataset that `--dataset` names: one of the enumeration, or a user's own.

    text: a name of the enumeration; `NAME=folder:PATH` (folders `train`, `test`, perhaps `valid`, of class folders);
        `NAME=hf:PATH` (a `datasets` dataset saved to disk, or `owner/name` on the hub); `NAME=masks:PATH` (folders
        `train` and `test` of `images` and `masks`); or a NAME for which `<data_dir>/NAME` is either.
    Raises FungiError for a name that leads nowhere.
    """
    if text in DATASETS:
        return DATASETS[text]
    return DATASETS.own(text, data_dir, DATASETS.names())


def open_split(name: str, split: str, data_dir: Path) -> Samples:
    """Return one split of a dataset (`name` as for `resolve_dataset`); FungiError for a split that it does not have."""
    return resolve_dataset(name, data_dir).open_split(split, data_dir)
