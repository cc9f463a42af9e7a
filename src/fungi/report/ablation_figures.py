"""Draw ablations: by block and layer (figure 8), by single feature (figure 10), by number of views (figure 12)."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fungi.report.cells import ResultRecord
from fungi.report.figures import Series, draw_curves, draw_dots, figure_path
from fungi.report.tables import label
from fungi.results.ablation_table import IMAGES_PER_SECOND, AblationTable, mean_and_deviation
from fungi.results.naming import short_hash
from fungi.store.layout import EMBEDDINGS

_ACCURACY = "accuracy, %"
_NUMBERED_ROW = re.compile(r"(?P<block>block )?(?P<number>\d+)( views)?")
"""Row labels that contain the x value of a point: `block 3`, `49 views`."""
_Values = dict[tuple[str, str], tuple[float, float | None]]
"""(row, column) -> mean and standard deviation, in the unit of the table."""


def ablation_figures(folder: Path, record: ResultRecord) -> list[tuple[Path, Callable[[Path], None]]]:
    """Return path and drawing function of each figure of an ablation.

    Ablations with numbered rows are drawn as curves. Ablations with the single column `accuracy` are drawn as dots.
    Other ablations have no figure.
    """
    content, settings = record.content, record.content["settings"]
    table = AblationTable.from_content(content)
    values = {key: mean_and_deviation(key[1], seeds) for key, seeds in table.values.items()}
    rows, columns = table.rows, list(table.columns)
    backbone, dataset = settings["backbone"], settings["dataset"]
    title = f"{table.title}: {label(backbone)}, {dataset}\nprofile {settings.get('profile', 'unknown')}"
    settings_hash = short_hash(json.dumps(settings, sort_keys=True))
    name_parts = (content["task"], backbone, dataset, settings_hash)
    matches = {row: match for row in rows if (match := _NUMBERED_ROW.fullmatch(row))}
    if len(matches) == len(rows) > 1:
        x_axis = "block" if matches[rows[0]]["block"] else "views"
        numbers = {row: int(match["number"]) for row, match in matches.items()}
        figures: list[tuple[Path, Callable[[Path], None]]] = []
        for y_axis, columns_of_axis in _columns_by_axis(columns).items():
            path = figure_path(folder, *name_parts, "" if y_axis == _ACCURACY else "speed")
            series = [_series(column, numbers, values) for column in columns_of_axis]
            figures.append((path, partial(draw_curves, title=title, series=series, x_axis=x_axis, y_axis=y_axis)))
        return figures
    if columns != ["accuracy"]:
        return []
    scores = {row: values[row, "accuracy"] for row in rows if (row, "accuracy") in values}
    return [(figure_path(folder, *name_parts), partial(draw_dots, title=title, values=scores, baseline=EMBEDDINGS))]


def _columns_by_axis(columns: list[str]) -> dict[str, list[str]]:
    """Return the columns of each y axis: accuracies and, if it is measured, the speed."""
    by_axis = {_ACCURACY: [name for name in columns if name != IMAGES_PER_SECOND]}
    return by_axis | ({IMAGES_PER_SECOND: [IMAGES_PER_SECOND]} if IMAGES_PER_SECOND in columns else {})


def _series(column: str, numbers: dict[str, int], values: _Values) -> Series:
    """Return the values of a column. Rows without a value are omitted. numbers: row label -> x value."""
    by_number = {number: values[row, column] for row, number in numbers.items() if (row, column) in values}
    x = sorted(by_number)
    stds = [std for number in x if (std := by_number[number][1]) is not None]
    return Series(column, x, [by_number[number][0] for number in x], stds if len(stds) == len(x) else None)
