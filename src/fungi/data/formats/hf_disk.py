"""Splits of a `datasets` dataset that was saved to disk (`DatasetDict.save_to_disk`), images or texts.

The table is opened anew in each process that reads it, so that no Arrow handle crosses a fork; images are decoded
here and not by `datasets`, so that a damaged one is named.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fungi.data.base import Samples
from fungi.data.content import digest_of_bytes, digest_of_file, digest_of_item
from fungi.data.formats.image_files import decode
from fungi.data.names import PackedNames
from fungi.errors import FungiError, MissingFilesError

Kind = Literal["vision", "text"]
NameRows = Callable[[list[str], np.ndarray, Sequence[str]], list[str]]
"""(file names stored with the images, labels `[n]`, names of the classes) -> sample ids."""

_LABEL_NAMES = ("label", "labels")
_TEXT_NAMES = ("text", "sentence")


@dataclass(frozen=True)
class Columns:
    """Which columns of a saved dataset hold items and labels."""

    item: str
    label: str
    kind: Kind


@dataclass(frozen=True)
class SavedItems:
    """Row -> item of a saved split: RGB image or text."""

    folder: str
    columns: Columns
    ids: Sequence[str]

    def __call__(self, row: int) -> Any:
        """The item; FungiError naming row, folder and id for a damaged image."""
        value = _items(self.folder, self.columns, os.getpid())[row][self.columns.item]
        if self.columns.kind == "text":
            return value
        source = value["bytes"] if value["bytes"] is not None else Path(value["path"])
        return decode(source, self.ids[row], place=f"row {row} of {self.folder}")

    def content(self, row: int) -> bytes:
        """What is in a row, undecoded."""
        value = _items(self.folder, self.columns, os.getpid())[row][self.columns.item]
        if self.columns.kind == "text":
            return digest_of_item(value)
        return digest_of_bytes(value["bytes"]) if value["bytes"] else digest_of_file(Path(value["path"]), self.ids[row])


def saved_splits(path: Path) -> list[str]:
    """Names of the splits of a saved `DatasetDict`; FungiError where the folder is something else."""
    listing = path / "dataset_dict.json"
    try:
        return list(json.loads(listing.read_text(encoding="utf-8"))["splits"])
    except FileNotFoundError:
        raise MissingFilesError(
            f"{path} is no saved dataset with splits: it has no dataset_dict.json. "
            "Save a DatasetDict with save_to_disk, or use NAME=folder:PATH for class folders."
        ) from None
    except (KeyError, ValueError) as error:
        raise FungiError(f"{listing} can't be read ({error}). Save the dataset again.") from None


def open_saved(
    path: Path, split: str, *, class_names: Sequence[str] = (), name_rows: NameRows | None = None
) -> Samples:
    """One split of a saved dataset.

    class_names: where the saved dataset doesn't name its classes, or has names as labels.
    name_rows: sample ids from file names stored with the images; without it, or without file names, the rows count.
    """
    folder = path / split
    table = _open_table(folder)
    columns = choose_columns(table, folder)
    labels = _labels(table, columns, class_names, folder)
    files = _file_names(table, columns.item) if name_rows and columns.kind == "vision" else None
    names = getattr(table.features[columns.label], "names", None) or class_names
    counted = [f"{split}/{row}" for row in range(len(labels))]
    ids = PackedNames(name_rows(files, labels, names) if name_rows and files else counted)
    return Samples(targets=labels, ids=ids, load=SavedItems(str(folder), columns, ids), class_names=tuple(names))


def choose_columns(table: Any, folder: Path) -> Columns:
    """The columns of items and labels, by type and name; FungiError where that leaves a doubt."""
    from datasets import Audio, ClassLabel, Image, Value

    features = table.features
    label = next((name for name in _LABEL_NAMES if name in features), None)
    label = label or _only([name for name, kind in features.items() if isinstance(kind, ClassLabel)])
    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    strings = [n for n, kind in features.items() if isinstance(kind, Value) and kind.dtype == "string" and n != label]
    if any(isinstance(kind, Audio) for kind in features.values()):
        raise FungiError(f"{folder} holds sounds, which are not read from saved datasets. Use images or texts.")
    item = _only(images) or (None if images else next((n for n in _TEXT_NAMES if n in strings), _only(strings)))
    if item is None or label is None:
        wanted = "an image or text column" if item is None else "a column 'label'"
        raise FungiError(
            f"{folder} has the columns {', '.join(features)}; which is {wanted}? Keep one, and save again."
        )
    return Columns(item, label, "vision" if images else "text")


def string_classes(path: Path, splits: Sequence[str]) -> list[str]:
    """Class names, sorted, of a saved dataset whose labels are strings: those of all its splits; else none."""
    found: set[str] = set()
    for split in splits:
        table = _open_table(path / split)
        label = choose_columns(table, path / split).label
        if getattr(table.features[label], "dtype", None) == "string":
            found.update(table.unique(label))
    return sorted(found)


def modality_of(path: Path, split: str) -> Kind:
    """What the items of a saved split are."""
    return choose_columns(_open_table(path / split), path / split).kind


def _only(names: list[str]) -> str | None:
    return names[0] if len(names) == 1 else None


def _open_table(folder: Path) -> Any:
    from datasets import load_from_disk

    try:
        return load_from_disk(str(folder))
    except FileNotFoundError:
        raise MissingFilesError(f"{folder} is no split of a dataset saved to disk. Save the dataset again.") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        cause = str(error).partition("\n")[0]
        raise FungiError(f"the saved dataset {folder} can't be opened ({cause}). Save it again.") from error


@lru_cache(maxsize=8)
def _items(folder: str, columns: Columns, process: int) -> Any:
    """The column of items, images undecoded. `process` makes a forked worker open its own."""
    from datasets import Image

    table = _open_table(Path(folder)).select_columns([columns.item])
    return table.cast_column(columns.item, Image(decode=False)) if columns.kind == "vision" else table


def _labels(table: Any, columns: Columns, class_names: Sequence[str], folder: Path) -> np.ndarray:
    """Labels `[n]` uint32; strings are looked up in `class_names`."""
    values = table.data.column(columns.label).to_pylist()
    if values and isinstance(values[0], str):
        number = {name: label for label, name in enumerate(class_names)}
        values = [number[value] for value in values]
    for row, value in enumerate(values):
        if not isinstance(value, int) or value < 0:
            raise FungiError(f"{folder}: row {row} has the label {value!r}; labels count from 0. Leave that row out.")
    return np.asarray(values, dtype=np.uint32)


def _file_names(table: Any, column: str) -> list[str] | None:
    """Base names of the files that the images came from, without reading the images; None where any is unknown."""
    import pyarrow.compute

    names = pyarrow.compute.struct_field(table.data.column(column), "path").to_pylist()
    return [name.rpartition("/")[2] for name in names] if all(names) else None
