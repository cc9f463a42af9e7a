"""Read text datasets of the Hugging Face hub, stored as one local table per split.

The table is `<data_dir>/<dataset>/<split>.parquet`, or a `.jsonl` or `.csv` file with the same columns. Downloading
uses `datasets` with its cache and writes the Parquet files; opening reads only these files. The loading scripts of some
datasets no longer run. For these datasets, the Parquet conversion on the hub is downloaded instead.
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
PARQUET_REVISION = "refs/convert/parquet"
"""Revision of a hub dataset that contains its Parquet conversion."""

LabelRule = Callable[[Any], int]
Check = Callable[[Sequence[str], Sequence[int]], str | None]


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """Source and columns of a text dataset.

    repository, configuration, revision: location on the hub; None: the default of `datasets`.
    text, label: names of the columns.
    class_names: in the order of the labels. A cell of the label column contains a class name or a class number.
    rule: function cell -> label, if the cells do not contain class names or numbers.
    check: function (texts, labels) -> error message, or None if there is no error.
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
        """Return the rows of a split in the order of its file. Raises FungiError for a row that cannot be used."""
        path = self.find(data_dir, split)
        columns = read_table(path)
        texts, cells = _column(columns, self.text, path), _column(columns, self.label, path)
        if not texts:
            raise FungiError(f"{path} has a header but no rows. Download or write it again.")
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise FungiError(f"{path}: row {row} has {text!r} in column {self.text!r}, not a text. Correct it.")
        labels = [self._label(value, row, path) for row, value in enumerate(cells)]
        message = self.check(texts, labels) if self.check else None
        if message:
            raise FungiError(f"{path}: {message}")
        return text_samples(texts, labels, (f"{split}/{row}" for row in range(len(texts))), self.class_names)

    def find(self, data_dir: Path, split: str) -> Path:
        """Return the file of a split. Raises MissingFilesError with the expected file and folder."""
        folder = data_dir.expanduser().absolute() / self.dataset
        for ending in ENDINGS:
            if (folder / f"{split}{ending}").is_file():
                return folder / f"{split}{ending}"
        raise MissingFilesError(
            f"dataset {self.dataset!r}: there is no {split}.parquet, .jsonl or .csv in {folder} (columns {self.text!r} "
            f"and {self.label!r}). Name the folder with --data-dir, or, on a machine with a network, run: "
            f"python scripts/download_dataset.py --dataset {self.dataset} --data-dir {data_dir}"
        )

    def download(self, data_dir: Path, splits: Mapping[str, str]) -> None:
        """Download the splits with `datasets` and write them as Parquet. splits: our name -> name on the hub."""
        folder = data_dir.expanduser() / self.dataset
        folder.mkdir(parents=True, exist_ok=True)
        for split, hub_split in splits.items():
            target = folder / f"{split}.parquet"
            if target.exists():
                logger.info("%s exists and is kept; remove it to download it again", target)
                continue
            table = self._fetch(hub_split)
            table.to_parquet(str(target.with_suffix(".partial")))
            target.with_suffix(".partial").rename(target)
            logger.info("wrote %s", target)

    def _fetch(self, split: str) -> Any:
        """Return the table of a split of the hub. Raises MissingFilesError if the download fails."""
        from datasets import load_dataset

        try:
            return load_dataset(self.repository, self.configuration, split=split, revision=self.revision)
        except Exception as error:  # the hub client, its cache and the network raise nearly anything
            cause = str(error).partition("\n")[0] or type(error).__name__
            raise MissingFilesError(
                f"dataset {self.dataset!r}: can't download split {split} of huggingface.co/datasets/{self.repository} "
                f"({cause}). Run this on a machine with a network and copy the folder {self.dataset}/ here."
            ) from None

    def _label(self, value: Any, row: int, path: Path) -> int:
        """Return the label of a cell. Raises FungiError with the row and the file for an invalid cell."""
        try:
            return self.rule(value) if self.rule else self._class(value)
        except (ValueError, TypeError, OverflowError):  # int() of infinity raises OverflowError
            raise FungiError(
                f"{path}: row {row} has the label {value!r}; expected a number below {len(self.class_names)} or one of "
                f"{', '.join(self.class_names[:4])}, ... Correct this row."
            ) from None

    def _class(self, value: Any) -> int:
        """Return the label of a cell with a class name or number. Raises ValueError for other values."""
        label = self.class_names.index(value) if value in self.class_names else int(value)
        if isinstance(value, float) and value != label:
            raise ValueError
        if not 0 <= label < len(self.class_names):
            raise ValueError
        return label


@dataclass(frozen=True)
class HubDownload:
    """Function of the data directory that downloads all splits of a table."""

    table: TextTable
    splits: Mapping[str, str] = field(hash=False)

    def __call__(self, data_dir: Path) -> None:
        """Download the missing splits."""
        self.table.download(data_dir, self.splits)


def register_table(table: TextTable, *, title: str, sizes: Mapping[str, int], **fields: Any) -> DatasetSpec:
    """Register a text dataset of the paper. fields: further fields of its `DatasetSpec`."""
    hub_splits = {split: "validation" if split == "valid" else split for split in sizes}
    spec = DatasetSpec(
        name=table.dataset,
        title=title,
        classes=len(table.class_names),
        sizes=sizes,
        modality="text",
        open=table.open,
        download=HubDownload(table, hub_splits),
        **fields,
    )
    return DATASETS.register(table.dataset, spec)


def read_table(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a Parquet, JSON-lines or CSV file. Raises FungiError if the file is damaged."""
    import pyarrow
    from pyarrow import csv, json, parquet

    # Quoted texts may contain line breaks, so the parser has to read the file as one block.
    block_size = path.stat().st_size + 1
    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        elif path.suffix == ".csv":
            table = csv.read_csv(
                path,
                read_options=csv.ReadOptions(block_size=block_size),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(strings_can_be_null=False),
            )
        else:
            table = json.read_json(path, read_options=json.ReadOptions(block_size=block_size))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        cause = str(error).partition("\n")[0]
        raise FungiError(f"{path} can't be read as a table ({cause}). Create or download it again.") from None
    duplicates = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if duplicates:
        raise FungiError(f"{path} has the column {duplicates[0]!r} more than once. Rename or remove one of them.")
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _column(columns: dict[str, list[Any]], name: str, path: Path) -> list[Any]:
    if name not in columns:
        raise FungiError(
            f"{path} has no column {name!r}. Its columns are: {', '.join(columns) or 'none'}. Rename the correct one."
        )
    return columns[name]


@dataclass(frozen=True)
class Texts:
    """Function: row -> text."""

    texts: Sequence[str]

    def __call__(self, row: int) -> str:
        """Return the text of a row; it may be empty."""
        return self.texts[row]


def text_samples(
    texts: Sequence[str], labels: Iterable[int], row_names: Iterable[str], class_names: Sequence[str] = ()
) -> Samples:
    """Return a split of texts, in the order of `texts`.

    row_names: one name per row, unique in the split. The sample id is this name and a hash of the text.
    """
    hashes = [hashlib.sha256(text.encode()).hexdigest()[:8] for text in texts]
    ids = [f"{row_name}#{text_hash}" for row_name, text_hash in zip(row_names, hashes, strict=True)]
    return Samples(
        targets=np.asarray(list(labels), dtype=np.uint32),
        ids=PackedNames(ids),
        load=Texts(PackedNames(texts)),
        class_names=tuple(class_names),
    )
