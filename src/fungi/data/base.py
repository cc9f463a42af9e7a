"""The interface of a dataset, and the registry of datasets.

Each file in `fungi.data.sets` describes a dataset with a `DatasetSpec` and registers it. Modules import torchvision,
`datasets` and similar libraries inside their functions, so that listing names stays fast. An item is an RGB
`PIL.Image`, a text (`str` or a tuple of `str`) or a waveform.
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
"""Mask value of pixels that belong to no class."""
Loader = Callable[[int], Any]
"""Function that returns the raw item of a row. A loader can be pickled (a small dataclass with `__call__`), so that
every kind of worker can use it. Loaders open files only when they are called, so processes do not share file handles.
A loader may have a method `content(row) -> bytes` that returns a digest of a row without loading its item
(`fungi.data.content`)."""


@dataclass(frozen=True)
class Rows:
    """Loader of selected rows of the loader `load`. rows: their numbers in `load`, int64."""

    load: Loader
    rows: np.ndarray

    def __call__(self, row: int) -> Any:
        """Return the item of a selected row."""
        return self.load(int(self.rows[row]))

    def content(self, row: int) -> bytes:
        """Return a digest of the content of a selected row."""
        content: Callable[[int], bytes] | None = getattr(self.load, "content", None)
        source_row = int(self.rows[row])
        return content(source_row) if content else digest_of_item(self.load(source_row))


@dataclass(frozen=True)
class Samples:
    """One split of a dataset. The order of the rows never changes: row i of every feature file belongs to sample i.

    targets: labels, uint32 `[n]`; for landmarks, the row numbers; for segmentation, 0.
    ids: one name per row, the same on every machine (relative path, or index in the source file). The name seeds
        the random views of the sample and is part of the fingerprint of the dataset.
    load: function row -> raw item. Raises FungiError with the file and the id if the item can't be read.
    class_names: names of the classes in the order of the labels; empty if the classes have no names.
    mask: function row -> class of each pixel, `[h w]` uint8, with the size of the image. None if the samples have no
        masks.
    treatment: description of the changes to items when they are read; part of the fingerprint. Empty for published
        datasets.
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
        """Return (item, label) of a row, as in map-style datasets of torch."""
        return self.load(row), int(self.targets[row])

    def fingerprint(self) -> str:
        """Return the SHA-256 of the sample ids, labels, items and masks, in the order of the rows.

        The fingerprint is computed only once. Large files are not read completely (`fungi.data.content`).
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

    def take(self, rows: "Sequence[int] | Integer[np.ndarray, ' selected']") -> "Samples":
        """Return the samples at `rows`, in the order of `rows`. The samples keep their ids."""
        selected = np.asarray(rows, dtype=np.int64)
        return Samples(
            targets=self.targets[selected],
            ids=[self.ids[row] for row in selected.tolist()],
            load=Rows(self.load, selected),
            class_names=self.class_names,
            mask=None if self.mask is None else Rows(self.mask, selected),
            treatment=self.treatment,
        )


@dataclass(frozen=True, kw_only=True)
class MaskRules:
    """Meaning of the mask values of a dataset (spec dense 2.1, 2.2).

    ignored: mask value of pixels that the metric ignores.
    void_class: class of void pixels (255) in the labels of training patches; None: void pixels have no class.
    unscored: classes whose score is not part of the mean over the classes.
    input_size: default side of the resized images, in pixels.
    """

    ignored: int = VOID
    void_class: int | None = None
    unscored: tuple[int, ...] = ()
    input_size: int = 512


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Description of a dataset in the registry.

    title: name of the dataset for readers.
    classes: number of classes; for segmentation, number of classes of pixels. None: there are no classes, or their
        number is known only after opening.
    sizes: published number of rows per split; the keys are the names of the splits. None: the number is known only
        after opening.
    metric: name of the score in tables. modality: kind of the items.
    open: function (data directory, split) -> Samples, which never downloads. Raises MissingFilesError with the missing
        files and their folder.
    published_open: `open` of the published code, if the labels in that code differ (used by `--profile published`).
    input_options: fields of the backbone input (for example `SoundInput`) that have other values for this dataset.
    download: function of the data directory that downloads the dataset. None: a program can't download it.
    prepare: function of the data directory and the folder of archives. It unpacks archives that a person downloaded.
        None: there are no such archives. Only `fungi prefetch` and the scripts call `download` and `prepare`. These
        functions do nothing if their result exists.
    archives: commands that download the archives into `downloads`, and comments on manual steps.
    ground_truth: function data directory -> one record per query, for retrieval (`fungi.data.formats.landmarks`).
    masks: meaning of the mask values, for segmentation.
    is_in_paper: whether the dataset is part of the paper (spec vision 3.1).
    notes: comment on the dataset. `download_dataset.py` prints it if the dataset needs no download.
    pca_dim: PCA size for this dataset. None: the size of the backbone.
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
    is_in_paper: bool = True
    notes: str = ""
    pca_dim: int | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.sizes)

    def as_published(self) -> "DatasetSpec":
        """Return the dataset with the labels of the published code, for `--profile published`."""
        return self if self.published_open is None else replace(self, open=self.published_open)

    def open_split(self, split: str, data_dir: Path) -> Samples:
        """Return one split, and warn if its number of rows differs from the published number.

        Raises FungiError for an unknown split.
        """
        if split not in self.sizes:
            raise no_such_split(self, split)
        samples = self.open(data_dir, split)
        published_size = self.sizes[split]
        if published_size not in (None, len(samples)):
            logger.warning(
                f"dataset {self.name!r}: split {split} has {len(samples)} rows, but the published split has "
                f"{published_size}; see scripts/verify_dataset.py."
            )
        return samples


def no_such_split(dataset: DatasetSpec, split: str) -> FungiError:
    """Return the error for an unknown split, with similar names."""
    hint = did_you_mean(split, dataset.splits)
    return FungiError(f"dataset {dataset.name!r} has no split {split!r}.{hint} It has: {', '.join(dataset.splits)}.")


DATASETS: Registry[DatasetSpec] = Registry("dataset", "fungi.data.sets", own="fungi.data.own:own_dataset")
register_dataset = DATASETS.registering(DatasetSpec)
"""Function that creates a `DatasetSpec` from its fields and registers it."""


def resolve_dataset(text: str, data_dir: Path | None = None) -> DatasetSpec:
    """Return the dataset that `--dataset` names: a registered dataset or a dataset of the user.

    text has one of these forms:

        NAME                a registered name, or the name of a folder in `data_dir` that holds split folders with
                            class folders, or a saved dataset
        NAME=folder:PATH    folders `train`, `test` and optionally `valid`, with class folders
        NAME=split:PATH     class folders without splits; a fifth of each class is the test split
        NAME=hf:PATH        a `datasets` dataset saved to disk, or `owner/name` on the hub
        NAME=masks:PATH     folders `train` and `test`, with `images` and `masks`

    Raises FungiError for an unknown dataset.
    """
    if text in DATASETS:
        return DATASETS[text]
    return DATASETS.own(text, data_dir, DATASETS.names())


def open_split(name: str, split: str, data_dir: Path) -> Samples:
    """Return one split of a dataset; `name` as in `resolve_dataset`. Raises FungiError for an unknown split."""
    return resolve_dataset(name, data_dir).open_split(split, data_dir)
