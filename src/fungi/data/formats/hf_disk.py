"""Read images or texts from a `datasets` dataset that was saved to disk (`DatasetDict.save_to_disk`).

Each process opens the table itself, because Arrow handles can't be used after a fork. Images are decoded here, not by
`datasets`, so that errors name the damaged image.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt32

from fungi.data.base import Samples
from fungi.data.content import digest_of_bytes, digest_of_file, digest_of_item
from fungi.data.formats.archives import atomic_folder
from fungi.data.formats.image_files import AS_DISPLAYED, decode
from fungi.data.formats.image_folders import to_nfc
from fungi.data.names import PackedNames
from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.log import logger

ItemModality = Literal["vision", "text"]
NameRows = Callable[[list[str], np.ndarray, Sequence[str]], list[str]]
"""Function (stored file names of the images, labels `[n]`, class names) -> sample ids."""

LARGEST_LABEL = 1_000_000
"""Largest label that is accepted: evaluators allocate memory for each class up to the largest label."""
_LABEL_COLUMNS = ("label", "labels")
_TEXT_COLUMNS = ("text", "sentence")


@dataclass(frozen=True)
class Columns:
    """Names of the item column and the label column of a saved dataset, and the modality of its items."""

    item: str
    label: str
    modality: ItemModality


@dataclass(frozen=True)
class SavedItems:
    """Function: row of a saved split -> RGB image or text.

    folder: folder of the split. ids: sample ids, for errors. as_displayed: apply the EXIF orientation, and put
    transparent pixels on white.
    """

    folder: str
    columns: Columns
    ids: Sequence[str]
    as_displayed: bool = False

    def __call__(self, row: int) -> Any:
        """Return the item of a row. Raises FungiError for a missing item or a damaged image."""
        value = _items(self.folder, self.columns, os.getpid())[row][self.columns.item]
        is_image = self.columns.modality == "vision"
        if value is None or (is_image and not value["bytes"] and not value["path"]):
            raise FungiError(
                f"sample {self.ids[row]!r}: row {row} of {self.folder} has no value in column {self.columns.item!r}. "
                "Remove this row."
            )
        if not is_image:
            return value
        source = value["bytes"] if value["bytes"] is not None else Path(value["path"])
        place = f"row {row} of {self.folder}"
        return decode(source, self.ids[row], place=place, as_displayed=self.as_displayed)

    def content(self, row: int) -> bytes:
        """Return a digest of the undecoded item of a row. For a missing item, return the digest of zero bytes."""
        value = _items(self.folder, self.columns, os.getpid())[row][self.columns.item]
        if value is None:
            return digest_of_bytes(b"")
        if self.columns.modality == "text":
            return digest_of_item(value)
        if value["bytes"] or not value["path"]:
            return digest_of_bytes(value["bytes"] or b"")
        return digest_of_file(Path(value["path"]), self.ids[row])


def saved_splits(path: Path) -> list[str]:
    """Return the names of the splits of a saved `DatasetDict`. Raises FungiError if the folder has no `DatasetDict`."""
    listing = path / "dataset_dict.json"
    try:
        return list(json.loads(listing.read_text(encoding="utf-8"))["splits"])
    except FileNotFoundError:
        raise MissingFilesError(
            f"{path} is not a saved dataset with splits: it has no dataset_dict.json. "
            "Save a DatasetDict with save_to_disk, or use NAME=folder:PATH for class folders."
        ) from None
    except (KeyError, ValueError) as error:
        raise FungiError(f"{listing} can't be read ({error}). Save the dataset again.") from None


def hub_copy(repository: str, target: Path) -> Path:
    """Return the folder of a saved copy of a dataset of the Hugging Face hub; download it if it does not exist.

    Raises MissingFilesError if the hub can't be reached or has no such dataset.
    """
    if (target / "dataset_dict.json").is_file():
        return target
    from datasets import load_dataset

    logger.info(f"downloading huggingface.co/datasets/{repository} to {target}")
    try:
        splits = load_dataset(repository)
    except Exception as error:  # the hub client, its cache and the network raise nearly anything
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise MissingFilesError(
            f"there is no folder {repository}, and huggingface.co/datasets/{repository} can't be downloaded ({cause}). "
            f"Correct the name, or run the same command on a machine with a network and copy {target} here."
        ) from None
    with atomic_folder(target) as work:
        splits.save_to_disk(str(work))
    return target


def open_saved(
    path: Path,
    split: str,
    *,
    class_names: Sequence[str] = (),
    name_rows: NameRows | None = None,
    as_displayed: bool = False,
) -> Samples:
    """Return one split of a saved dataset.

    class_names: class names in the order of the labels; labels of the split are matched with them by name. By default,
        the class names that are stored in the split are used, if there are any.
    name_rows: function that computes sample ids from the stored file names. Without this function, or without file
        names, the ids contain the row numbers.
    as_displayed: apply the EXIF orientation, and put transparent pixels on white.
    """
    folder = path / split
    table = _open_table(folder)
    columns = choose_columns(table, folder)
    names = class_names or getattr(table.features[columns.label], "names", None) or ()
    labels = _labels(table, columns, names, folder)
    files = _file_names(table, columns.item) if name_rows and columns.modality == "vision" else None
    numbered_ids = [f"{split}/{row}" for row in range(len(labels))]
    ids = PackedNames(name_rows(files, labels, names) if name_rows and files else numbered_ids)
    return Samples(
        targets=labels,
        ids=ids,
        load=SavedItems(str(folder), columns, ids, as_displayed),
        class_names=tuple(names),
        treatment=AS_DISPLAYED if as_displayed and columns.modality == "vision" else "",
    )


def choose_columns(table: Any, folder: Path) -> Columns:
    """Return the columns of items and labels, chosen by type and name.

    Raises FungiError if no column or several columns are possible.
    """
    from datasets import Audio, ClassLabel, Image

    features = table.features
    label = next((name for name in _LABEL_COLUMNS if name in features), None)
    label = label or _single([name for name, feature in features.items() if isinstance(feature, ClassLabel)])
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    strings = [name for name, feature in features.items() if _is_string(feature) and name != label]
    if any(isinstance(feature, Audio) for feature in features.values()):
        raise FungiError(f"{folder} contains sounds, which can't be read from saved datasets. Use images or texts.")
    text = next((name for name in _TEXT_COLUMNS if name in strings), None) or _single(strings)
    item = _single(images) if images else text
    if item is None or label is None:
        missing = "an image or text column" if item is None else "a column 'label'"
        raise FungiError(
            f"{folder} has the columns {', '.join(features)}; it needs exactly one that can be {missing}. Save the "
            "dataset again with fewer columns."
        )
    return Columns(item, label, "vision" if images else "text")


def saved_classes(path: Path, splits: Sequence[str]) -> list[str]:
    """Return the class names of the first split in `splits`; empty if no split has class names.

    If the labels are strings, these strings are the class names, in alphabetical order.
    Raises FungiError if only some splits have class names.
    """
    names = {split: _names_of_split(path / split) for split in splits}
    unnamed = [split for split in splits if names[split] is None]
    named = [split for split in splits if split not in unnamed]
    if unnamed and named:
        raise FungiError(
            f"{path}: the labels of {', '.join(named)} have class names, but those of {', '.join(unnamed)} are only "
            "numbers and can't be matched. Save the dataset again with the names."
        )
    return names[splits[0]] or []


def _names_of_split(folder: Path) -> list[str] | None:
    """Return the class names of a split; None if its labels are numbers without names."""
    table = _open_table(folder)
    label = choose_columns(table, folder).label
    feature = table.features[label]
    if _is_string(feature):
        return sorted(name for name in table.unique(label) if name)
    return getattr(feature, "names", None)


def _is_string(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string", "string_view")


def modality_of(path: Path, split: str) -> ItemModality:
    """Return the modality of the items of a saved split."""
    return choose_columns(_open_table(path / split), path / split).modality


def _single(names: list[str]) -> str | None:
    """Return the only name; None if there is no name, or if there are several names."""
    return names[0] if len(names) == 1 else None


def _open_table(folder: Path) -> Any:
    """Return the table of a saved split. Raises FungiError if it can't be opened."""
    from datasets import load_from_disk

    try:
        return load_from_disk(str(folder)).with_format(None)
    except FileNotFoundError:
        raise MissingFilesError(
            f"{folder} is not a split of a dataset saved to disk. Save the dataset again."
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        cause = str(error).partition("\n")[0]
        raise FungiError(f"the saved dataset {folder} can't be opened ({cause}). Save it again.") from error


@lru_cache(maxsize=8)
def _items(folder: str, columns: Columns, process: int) -> Any:
    """Return the column of items, without decoding images.

    process: process id. It is an argument of the cache, so a forked process opens the table itself and does not use the
        table of its parent.
    """
    from datasets import Image

    table = _open_table(Path(folder)).select_columns([columns.item])
    return table.cast_column(columns.item, Image(decode=False)) if columns.modality == "vision" else table


def _labels(table: Any, columns: Columns, class_names: Sequence[str], folder: Path) -> UInt32[np.ndarray, " n"]:
    """Return a class number per row: for a stored label with a class name, the position of the name in `class_names`.

    Raises FungiError with the row for an invalid label.
    """
    names_in_table = getattr(table.features[columns.label], "names", None)
    label_by_name = {to_nfc(name): label for label, name in enumerate(class_names)}

    def label_of(value: Any) -> int:
        """Return the label for a cell with a class name or a number. Raises ValueError with the cause and advice."""
        name = value
        if not isinstance(value, str):
            if not isinstance(value, int | float) or value < 0 or value % 1 != 0:
                raise ValueError("labels are whole numbers from 0. Remove this row")
            if names_in_table is None and value > LARGEST_LABEL:
                raise ValueError(f"labels are at most {LARGEST_LABEL:,}. Number the classes from 0")
            if names_in_table is None:
                return int(value)
            if value >= len(names_in_table):
                raise ValueError(f"there are only {len(names_in_table)} class names. Correct this row")
            name = names_in_table[int(value)]
        if to_nfc(name) not in label_by_name:
            class_list = f"{', '.join(class_names[:8])}{', ...' if len(class_names) > 8 else ''}"
            raise ValueError(f"train has no class {name!r}, and classes are matched by name. Train has: {class_list}")
        return label_by_name[to_nfc(name)]

    labels = []
    for row, value in enumerate(table.data.column(columns.label).to_pylist()):
        try:
            labels.append(label_of(value))
        except ValueError as error:
            column = columns.label
            raise FungiError(f"{folder}: row {row} has the label {value!r} in column {column!r}; {error}.") from None
    return np.asarray(labels, dtype=np.uint32)


def _file_names(table: Any, column: str) -> list[str] | None:
    """Return the stored file names of the images without reading the images; None if a name is missing."""
    import pyarrow.compute

    names = pyarrow.compute.struct_field(table.data.column(column), "path").to_pylist()
    return [name.rpartition("/")[2] for name in names] if all(names) else None
