"""Figures of ablations: by block and layer (figure 8), by number of views (12), one feature beside the other (10)."""

import json
import re
from pathlib import Path

from fungi.report.cells import ResultRecord
from fungi.report.figures import Series, curves, dots, figure_path
from fungi.report.tables import label
from fungi.results.ablation_table import IMAGES_PER_SECOND, mean_and_deviation
from fungi.results.naming import short_hash
from fungi.store.layout import EMBEDDINGS

_ACCURACY = "accuracy, %"
_NUMBERED = re.compile(r"(block )?(\d+)( views)?")
"""Rows that are points of a curve."""
_Values = dict[tuple[str, str], tuple[float, float | None]]
"""Row and column -> mean and deviation, as they are shown."""


def draw_ablation(folder: Path, record: ResultRecord, _data_dir: Path) -> list[Path]:
    """Curves where rows are numbers, dots where there is one column of accuracies; other ablations are tables alone."""
    content, settings = record.content, record.content["settings"]
    values = {
        (row, column): mean_and_deviation(column, seeds)
        for row, cells in content["results"].items()
        for column, seeds in cells.items()
    }
    rows, columns = (list(dict.fromkeys(key[place] for key in values)) for place in (0, 1))
    backbone, dataset = settings["backbone"], settings["dataset"]
    title = f"{content['title']}: {label(backbone)}, {dataset}\nprofile {settings.get('profile', 'unknown')}"
    settings_hash = short_hash(json.dumps(settings, sort_keys=True))
    name = (record.path.parent.parent.name, backbone, dataset, settings_hash)
    numbers = {row: found for row in rows if (found := _NUMBERED.fullmatch(row))}
    if len(numbers) == len(rows) > 1:
        x_axis, drawn = "block" if numbers[rows[0]][1] else "views", []
        for y_axis, shown in _by_unit(columns).items():
            path = figure_path(folder, *name, "" if y_axis == _ACCURACY else "speed")
            curves(path, title, [_series(column, numbers, values) for column in shown], x_axis=x_axis, y_axis=y_axis)
            drawn.append(path)
        return drawn
    if columns != ["accuracy"]:
        return []
    path = figure_path(folder, *name)
    dots(path, title, {row: values[row, "accuracy"] for row in rows}, EMBEDDINGS)
    return [path]


def _by_unit(columns: list[str]) -> dict[str, list[str]]:
    """Label of an axis -> the columns that belong to it."""
    found = {_ACCURACY: [name for name in columns if name != IMAGES_PER_SECOND]}
    return found | ({IMAGES_PER_SECOND: [IMAGES_PER_SECOND]} if IMAGES_PER_SECOND in columns else {})


def _series(column: str, numbers: dict[str, re.Match[str]], values: _Values) -> Series:
    """A column by the numbers of its rows; a row that lacks it is left out."""
    there = {int(found[2]): values[row, column] for row, found in numbers.items() if (row, column) in values}
    x = sorted(there)
    stds = [std for number in x if (std := there[number][1]) is not None]
    return Series(column, x, [there[number][0] for number in x], stds if len(stds) == len(x) else None)
