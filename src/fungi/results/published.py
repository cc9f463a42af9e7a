"""The published numbers as data: all tables of the paper and of the author response."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

MEAN = "mean"
"""Name that replaces the dataset in keys for the mean over the eleven datasets (`mean_datasets`)."""

# Names in `paper_tables.json` -> our names.
_TASKS = {"knn-classification": "knn", "linear-classification": "linear", "image-retrieval": "retrieval"}
_SEGMENTATION_DATASETS = {"voc2012": "pascal-voc", "voc": "pascal-voc", "ade20k": "ade20k"}
_LANDMARKS = {"roxford5k": "oxford-landmarks", "rparis6k": "paris-landmarks"}
_TRAINING_IMAGES = {"voc-1/128": 83, "voc-1/64": 165, "ade20k-1/128": 158, "ade20k-1/64": 316}
"""Column of table 4 -> number of training images."""


@dataclass(frozen=True)
class Published:
    """A published value in percent, its standard deviation if it is published, and the id of its table."""

    value: float
    std: float | None
    table: str


@dataclass(frozen=True)
class PublishedKey:
    """The measurement of a published value.

    setting: `full` or `5-shot`; for retrieval `M` (medium) or `H` (hard); for segmentation the size of the bank, or the
    number of training images.
    """

    task: str
    setting: str
    backbone: str
    dataset: str
    combination: str


def published_value(key: PublishedKey) -> Published | None:
    """Return the published value of a measurement; None if nothing is published."""
    return _index().get(key)


@cache
def mean_datasets() -> tuple[str, ...]:
    """Return the eleven datasets of the averaged results."""
    return tuple(_tables()["datasets_of_means"])


@cache
def backbone_labels() -> dict[str, str]:
    """Return the names of the backbones in the paper: backbone -> name."""
    return dict(_tables()["backbones"])


@cache
def published_tables() -> dict[str, dict[str, Any]]:
    """Return all published tables by their ids (`paper-2`, `rebuttal-29`), in the paper's order."""
    return {table["id"]: table for table in _tables()["tables"]}


@cache
def _tables() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "paper_tables.json").read_text(encoding="utf-8"))


@cache
def _index() -> dict[PublishedKey, Published]:
    """Return the values of all tables with the default protocol, and of the tables on segmentation."""
    index: dict[PublishedKey, Published] = {}
    for table in [table for table in published_tables().values() if table["default_protocol"]]:
        for row in table["rows"]:
            for column, value in row["values"].items():
                if value is not None:
                    dataset, setting = _dataset_and_setting(table["task"], column, row.get("setting", "full"))
                    key = PublishedKey(_TASKS[table["task"]], setting, row["backbone"], dataset, row["combination"])
                    # Some values are printed in two tables. The first table in the paper's order counts.
                    index.setdefault(key, Published(value, row.get("std", {}).get(column), table["id"]))
    return index | _segmentation_index()


def _segmentation_index() -> dict[PublishedKey, Published]:
    """Return the values of tables 3 and 7 (columns: sizes of the bank) and table 4 (columns: numbers of images)."""
    index = {}
    for name in ("paper-3", "paper-4", "paper-7"):
        table = published_tables()[name]
        for row in table["rows"]:
            for column, value in row["values"].items():
                count = _TRAINING_IMAGES.get(column)
                dataset = _SEGMENTATION_DATASETS[table.get("dataset") or column.partition("-")[0]]
                setting = f"{count} images" if count else f"{column} patches"
                if value is not None and not row.get("quoted"):  # the paper quotes some rows from other work
                    key = PublishedKey("segmentation", setting, row["backbone"], dataset, row["combination"])
                    index[key] = Published(value, None, name)
    return index


def _dataset_and_setting(task: str, column: str, row_setting: str) -> tuple[str, str]:
    """Return dataset and setting of a column, e.g. `full`, `trec/5-shot`, `roxford5k-M`, or the name of a dataset."""
    if task == "image-retrieval":
        name, _, letter = column.rpartition("-")
        return _LANDMARKS[name], letter
    if "/" in column:
        name, _, setting = column.partition("/")
        return name, setting
    return (MEAN, column) if column in ("full", "5-shot") else (column, row_setting)
