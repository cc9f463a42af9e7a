"""Text datasets of the Hugging Face hub, kept as one local table per split.

`<data_dir>/<dataset>/<split>.parquet`, or `.jsonl`, `.csv` of one's own making with the same columns. Downloading goes
through `datasets` (and its cache) and writes the Parquet files; opening reads them and nothing else. The published
loading scripts of some of these datasets no longer run: their Parquet conversion on the hub is read instead.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fungi.data.base import DATASETS, DatasetSpec, Samples
from fungi.data.names import PackedNames
from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.log import logger

ENDINGS = (".parquet", ".jsonl", ".json", ".csv")
CONVERTED = "refs/convert/parquet"
"""The revision of a hub dataset in which the hub keeps its Parquet conversion."""

LabelRule = Callable[[Any], int]
Check = Callable[[Sequence[str], Sequence[int]], str | None]


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """Where the splits of a dataset come from, and how its rows are read.

    repository, configuration, revision: on the hub. text, label: names of the columns.
    class_names: in the order of the labels; a label may be given by its name or its number.
    rule: replaces that reading of labels, where they are something else. check: what is wrong with texts and labels.
    """

    dataset: str
    repository: str
    configuration: str | None = None
    revision: str | None = None
    text: str = "text"
    label: str = "label"
    class_names: Sequence[str] = field(default=(), repr=False)
    rule: LabelRule | None = None
    check: Check | None = None

    def open(self, data_dir: Path, split: str) -> Samples:
        """The rows of a split in the order of its file."""
        path = self.find(data_dir, split)
        columns = read_table(path)
        texts, found = _column(columns, self.text, path), _column(columns, self.label, path)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise FungiError(f"{path}: row {row} has no text in column {self.text!r}, but {text!r}. Mend that row.")
        labels = [self._label(value, row, path) for row, value in enumerate(found)]
        wrong = self.check(texts, labels) if self.check else None
        if wrong:
            raise FungiError(f"{path}: {wrong}")
        return text_samples(texts, labels, (f"{split}/{row}" for row in range(len(texts))), self.class_names)

    def find(self, data_dir: Path, split: str) -> Path:
        """The file of a split; MissingFilesError saying what to place where."""
        folder = data_dir.expanduser().absolute() / self.dataset
        for ending in ENDINGS:
            if (folder / f"{split}{ending}").is_file():
                return folder / f"{split}{ending}"
        raise MissingFilesError(
            f"dataset {self.dataset!r}: there is no {split}.parquet, .jsonl or .csv in {folder} (columns {self.text!r} "
            f"and {self.label!r}). Name the folder with --data-dir, or, where there is a network, run: "
            f"python scripts/download_dataset.py --dataset {self.dataset} --data-dir {data_dir}"
        )

    def download(self, data_dir: Path, splits: Mapping[str, str]) -> None:
        """Fetch the splits (ours -> the hub's name) through the cache of `datasets`, and write them as Parquet."""
        folder = data_dir.expanduser() / self.dataset
        folder.mkdir(parents=True, exist_ok=True)
        for ours, theirs in splits.items():
            target = folder / f"{ours}.parquet"
            if target.exists():
                logger.info("%s is there already (remove it to have it made again)", target)
                continue
            table = self._fetch(theirs)
            table.to_parquet(str(target.with_suffix(".partial")))
            target.with_suffix(".partial").rename(target)
            logger.info("wrote %s", target)

    def _fetch(self, split: str) -> Any:
        from datasets import load_dataset

        try:
            return load_dataset(self.repository, self.configuration, split=split, revision=self.revision)
        except Exception as error:  # the hub client, its cache and the network raise nearly anything
            cause = str(error).partition("\n")[0] or type(error).__name__
            raise MissingFilesError(
                f"dataset {self.dataset!r}: can't fetch split {split} of huggingface.co/datasets/{self.repository} "
                f"({cause}). Run this on a machine with a network and copy the folder {self.dataset}/ here."
            ) from None

    def _label(self, value: Any, row: int, path: Path) -> int:
        try:
            return self.rule(value) if self.rule else self._class(value)
        except (ValueError, TypeError):
            raise FungiError(
                f"{path}: row {row} has the label {value!r}; expected a number below {len(self.class_names)} or one of "
                f"{', '.join(self.class_names[:4])}, ... Mend that row."
            ) from None

    def _class(self, value: Any) -> int:
        label = self.class_names.index(value) if value in self.class_names else int(value)
        if not 0 <= label < len(self.class_names):
            raise ValueError
        return label


@dataclass(frozen=True)
class HubDownload:
    """Data directory -> None: fetches all splits of a table."""

    table: TextTable
    splits: Mapping[str, str] = field(hash=False)

    def __call__(self, data_dir: Path) -> None:
        """Download what is not there yet."""
        self.table.download(data_dir, self.splits)


def register_table(table: TextTable, *, title: str, sizes: Mapping[str, int], **fields: Any) -> DatasetSpec:
    """Register a text dataset of the paper."""
    theirs = {split: "validation" if split == "valid" else split for split in sizes}
    spec = DatasetSpec(
        name=table.dataset,
        title=title,
        classes=len(table.class_names),
        sizes=sizes,
        modality="text",
        open=table.open,
        download=HubDownload(table, theirs),
        **fields,
    )
    return DATASETS.register(table.dataset, spec)


def read_table(path: Path) -> dict[str, list[Any]]:
    """Columns of a Parquet, JSON-lines or CSV file; FungiError where it is damaged."""
    import pyarrow
    from pyarrow import csv, json, parquet

    # Quoted texts may hold line breaks; the blocks that a file is parsed in then have to hold whole rows.
    whole = max(1, path.stat().st_size + 1)
    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        elif path.suffix == ".csv":
            table = csv.read_csv(
                path,
                read_options=csv.ReadOptions(block_size=whole),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(strings_can_be_null=False),
            )
        else:
            table = json.read_json(path, read_options=json.ReadOptions(block_size=whole))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        cause = str(error).partition("\n")[0]
        raise FungiError(f"{path} can't be read as a table ({cause}). Make or download it again.") from None
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _column(columns: dict[str, list[Any]], name: str, path: Path) -> list[Any]:
    if name not in columns:
        raise FungiError(
            f"{path} has no column {name!r}. It has: {', '.join(columns) or 'none'}. Rename the right one."
        )
    return columns[name]


@dataclass(frozen=True)
class Texts:
    """Row -> text."""

    texts: Sequence[str]

    def __call__(self, row: int) -> str:
        """The text of a row; it may be empty."""
        return self.texts[row]


def text_samples(
    texts: Sequence[str], labels: Iterable[int], places: Iterable[str], class_names: Sequence[str] = ()
) -> Samples:
    """A split of texts, in order.

    places: one name per row, unique in the split. Ids are these with a hash of the text behind, so that a dataset's
    fingerprint tells edited texts.
    """
    hashes = [hashlib.sha256(text.encode()).hexdigest()[:8] for text in texts]
    ids = [f"{place}#{digits}" for place, digits in zip(places, hashes, strict=True)]
    return Samples(
        targets=np.asarray(list(labels), dtype=np.uint32),
        ids=PackedNames(ids),
        load=Texts(PackedNames(texts)),
        class_names=tuple(class_names),
    )
