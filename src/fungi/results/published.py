"""The published numbers, as data: what the paper and its author response print under the default protocol."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

MEAN = "mean"
"""Stands for the mean over the datasets of the paper's averaged results, where a dataset's name is asked for."""

_TASKS = {"knn-classification": "knn", "linear-classification": "linear", "image-retrieval": "retrieval"}
_MASKED = {"voc2012": "pascal-voc", "voc": "pascal-voc", "ade20k": "ade20k"}
_TRAINING_IMAGES = {"voc-1/128": 83, "voc-1/64": 165, "ade20k-1/128": 158, "ade20k-1/64": 316}
_LANDMARKS = {"roxford5k": "oxford-landmarks", "rparis6k": "paris-landmarks"}


@dataclass(frozen=True)
class Published:
    """A published value in percent, its standard deviation where one is given, and the table it stands in."""

    value: float
    std: float | None
    table: str


@dataclass(frozen=True)
class PublishedKey:
    """What a published value is of. setting: `full`, `5-shot`; for retrieval `M`, `H`."""

    task: str
    setting: str
    backbone: str
    dataset: str
    combination: str


def published_value(key: PublishedKey) -> Published | None:
    """The published value, if there is one."""
    return _index().get(key)


@cache
def mean_datasets() -> tuple[str, ...]:
    """The eleven datasets of the averaged results."""
    return tuple(_tables()["datasets_of_means"])


@cache
def backbone_labels() -> dict[str, str]:
    """Backbone -> its name in the paper."""
    return dict(_tables()["backbones"])


@cache
def published_tables() -> dict[str, dict[str, Any]]:
    """All published tables by their ids (`paper-2`, `rebuttal-29`), in the paper's order."""
    return {table["id"]: table for table in _tables()["tables"]}


@cache
def _tables() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "paper_tables.json").read_text(encoding="utf-8"))


@cache
def _index() -> dict[PublishedKey, Published]:
    index: dict[PublishedKey, Published] = {}
    for table in filter(lambda table: table["default_protocol"], published_tables().values()):
        for row in table["rows"]:
            for column, value in row["values"].items():
                if value is not None:
                    dataset, setting = _dataset_and_setting(table["task"], column, row.get("setting", "full"))
                    key = PublishedKey(_TASKS[table["task"]], setting, row["backbone"], dataset, row["combination"])
                    # Where a value is printed twice, the first table in the paper's order counts.
                    index.setdefault(key, Published(value, row.get("std", {}).get(column), table["id"]))
    return index | _segmentation_index()


def _segmentation_index() -> dict[PublishedKey, Published]:
    """Tables 3 and 7 have a column for each size of the bank, table 4 one for each number of training images."""
    index = {}
    for name in ("paper-3", "paper-4", "paper-7"):
        table = published_tables()[name]
        for row in table["rows"]:
            for column, value in row["values"].items():
                count = _TRAINING_IMAGES.get(column)
                dataset = _MASKED[table.get("dataset") or column.partition("-")[0]]
                setting = f"{count} images" if count else f"{column} patches"
                if value is not None and not row.get("quoted"):
                    key = PublishedKey("segmentation", setting, row["backbone"], dataset, row["combination"])
                    index[key] = Published(value, None, name)
    return index


def _dataset_and_setting(task: str, column: str, row_setting: str) -> tuple[str, str]:
    """Columns are named `full`, `trec/5-shot`, `roxford5k-M` or after the dataset."""
    if task == "image-retrieval":
        name, _, letter = column.rpartition("-")
        return _LANDMARKS[name], letter
    if "/" in column:
        name, _, setting = column.partition("/")
        return name, setting
    return (MEAN, column) if column in ("full", "5-shot") else (column, row_setting)
