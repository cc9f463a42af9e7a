"""Choose the figures for a set of results, and draw them."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from fungi.combine.names import in_order
from fungi.data.base import open_split
from fungi.errors import FungiError
from fungi.evaluators.metrics import per_class_accuracy
from fungi.report.ablation_figures import ablation_figures
from fungi.report.cells import Cell, ResultRecord
from fungi.report.facts import Setting
from fungi.report.figures import (
    MAX_CLASS_NAMES,
    TITLE_WIDTH,
    Series,
    draw_compared_dots,
    draw_curves,
    draw_dots,
    draw_heatmap,
    draw_sorted_differences,
    figure_path,
)
from fungi.report.protocol import Protocol, origin_of, protocol_of, task_of
from fungi.report.tables import Table, label
from fungi.report.words import feature_in_words, metric_in_words, protocol_in_words, task_in_words
from fungi.results.published import MEAN
from fungi.results.result_file import ABLATION, runs_of
from fungi.results.text import by_size_and_order
from fungi.runtime.log import logger, progress
from fungi.store.layout import EMBEDDINGS

COMBINATIONS, BEST = "combinations", "best combination"
_MAX_PER_TABLE = 6
"""Largest number of figures of combinations per table. With more, only the means over datasets have figures."""
_BLOCK = re.compile(r"(?:blocks\.|encoder_layer_|layers?\.)(?P<number>\d+)\.(?P<layer>.+)")
"""Path of a layer: the number of its block, and the layer in the block."""


@dataclass(frozen=True)
class Figure:
    """A figure: its file, and the function that draws it."""

    path: Path
    draw: Callable[[Path], None]


def figures_of(
    folder: Path,
    records: Sequence[ResultRecord],
    cells: Sequence[Cell],
    tables: Sequence[Table],
    data_dir: Path = Path(),
) -> list[Figure]:
    """Return all figures that can be drawn from the results. Figures that summarise many results come first.

    folder: folder of the figures. records: the result files. cells, tables: the cells and tables of these results.
    data_dir: folder of the datasets, for class names that a result does not contain.
    """
    figures = [figure for table in tables for figure in _figures_of_backbones(folder, table)]
    figures += [*_figures_of_shots(folder, cells), *_figures_of_layers(folder, cells)]
    by_task: dict[str, list[Figure]] = defaultdict(list)
    for record in records:
        task = task_of(record.content)
        if not record.is_previous and task in _FIGURES_OF_RECORD:
            by_task[task] += _FIGURES_OF_RECORD[task](folder, record, data_dir)
    figures_of_classes = by_task.pop(_TASK_WITH_CLASSES, [])
    figures += [figure for figures_of_task in by_task.values() for figure in figures_of_task]
    figures += [figure for table in tables for figure in _figures_of_combinations(folder, table)]
    figures += figures_of_classes  # one figure per result, so they come last
    return list({figure.path: figure for figure in figures}.values())


def draw_all(figures: Sequence[Figure], limit: int) -> list[Path]:
    """Draw the first `limit` figures, and return their paths. Log how many figures are not drawn, if there are any."""
    selected = figures[:limit]
    for figure in progress(selected, label="figures", unit="figure"):
        figure.draw(figure.path)
    if len(selected) < len(figures):
        logger.info("drew %d of %d figures; --figures %d draws all", len(selected), len(figures), len(figures))
    return [figure.path for figure in selected]


def _figures_of_combinations(folder: Path, table: Table) -> list[Figure]:
    """Return a figure of all combinations for each backbone and dataset, like figure 2 (right) of the paper."""
    groups: dict[tuple[str, str], dict[str, Cell]] = defaultdict(dict)
    for (backbone, combination, dataset), cell in table.cells.items():
        groups[backbone, dataset][combination] = cell
    if len(groups) > _MAX_PER_TABLE:
        groups = {key: cells for key, cells in groups.items() if key[1] == MEAN}
    figures = []
    for (backbone, dataset), cells in groups.items():
        if any("+" in combination for combination in cells):
            names = sorted(cells, key=by_size_and_order)
            values = {name: (cells[name].value, cells[name].std) for name in names}
            title = _title(table.shown_protocol, label(backbone), dataset)
            x_axis = f"{metric_in_words(cells[names[0]].metric)}, %"
            draw = partial(draw_dots, title=title, values=values, baseline=EMBEDDINGS, x_axis=x_axis)
            figures.append(Figure(figure_path(folder, COMBINATIONS, table.protocol, backbone, dataset), draw))
    return figures


def _figures_of_backbones(folder: Path, table: Table) -> list[Figure]:
    """Return a figure of embeddings and best combination per backbone, like figures 5 (kNN) and 9 (linear).

    The figure shows the mean over datasets. Without a mean, it shows the only dataset of the table.
    """
    columns = {column for _, _, column in table.cells}
    if MEAN not in columns and len(columns) != 1:
        return []
    column = MEAN if MEAN in columns else columns.pop()
    best = _best_combinations(table, column)
    if len(best) < 2:
        return []
    # A caption is the combination without the embeddings: `+ KL`.
    x, captions = range(len(best)), [feature_in_words(name).partition(" ")[2] for name in best.values()]
    values = {
        EMBEDDINGS: [table.cells[backbone, EMBEDDINGS, column].value for backbone in best],
        BEST: [table.cells[backbone, name, column].value for backbone, name in best.items()],
    }
    series = [Series(EMBEDDINGS, x, values[EMBEDDINGS]), Series(BEST, x, values[BEST], captions=captions)]
    draw = partial(
        draw_compared_dots,
        title=_title(table.shown_protocol, column),
        groups=[label(backbone) for backbone in best],
        series=series,
        x_axis="accuracy, %  (the best combination is selected on the scored rows)",
    )
    return [Figure(figure_path(folder, "backbones", table.protocol, column), draw)]


def _best_combinations(table: Table, column: str) -> dict[str, str]:
    """Return for each backbone the best combination that contains the embeddings.

    Of several combinations with the best score, return the smallest combination. Backbones without a score of the
    embeddings are omitted.
    """
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for backbone, name in sorted(table.rows, key=lambda row: by_size_and_order(row[1])):
        if (backbone, name, column) in table.cells:
            scores[backbone][name] = table.cells[backbone, name, column].value
    best = {}
    for backbone in dict.fromkeys(backbone for backbone, _ in table.rows):
        combinations = [name for name in scores[backbone] if name.startswith(f"{EMBEDDINGS}+")]
        if combinations and EMBEDDINGS in scores[backbone]:
            best[backbone] = max(combinations, key=lambda name: scores[backbone][name])
    return best


def _figures_of_shots(folder: Path, cells: Sequence[Cell]) -> list[Figure]:
    """Return figures of accuracy per number of shots, for embeddings and the largest combination, like figure 6."""
    groups: dict[tuple[Protocol, str, str], dict[str, dict[int, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        setting = cell.protocol.setting
        if setting.kind == "shots" and cell.dataset != MEAN:
            any_shots = replace(cell.protocol, setting=Setting("few", drawn=setting.drawn))
            groups[any_shots, cell.backbone, cell.dataset][cell.combination][int(setting.amount)] = cell
    figures = []
    for (protocol, backbone, dataset), by_name in groups.items():
        largest = max(by_name, key=by_size_and_order)
        series = [_series(name, by_name[name]) for name in dict.fromkeys((EMBEDDINGS, largest)) if name in by_name]
        if max(len(line.x) for line in series) > 1:
            title = _title(protocol, label(backbone), dataset)
            draw = partial(draw_curves, title=title, series=series, x_axis="train examples per class")
            figures.append(Figure(figure_path(folder, "shots", protocol, backbone, dataset), draw))
    return figures


def _figures_of_layers(folder: Path, cells: Sequence[Cell]) -> list[Figure]:
    """Return figures of single gradients per block, with a line per objective and kind of layer, like figure 8."""
    groups: dict[tuple[Protocol, str, str], dict[str, dict[int, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        match = _BLOCK.search(cell.layer)
        if match and "+" not in cell.combination and cell.combination != EMBEDDINGS:
            protocol = cell.protocol.without("layer", "layer_key")
            name, block = f"{cell.combination}, {match['layer']}", int(match["number"])
            groups[protocol, cell.backbone, cell.dataset][name][block] = cell
    figures = []
    for (protocol, backbone, dataset), by_name in groups.items():
        if len({block for cells_of_name in by_name.values() for block in cells_of_name}) > 1:
            series = [_series(name, by_name[name]) for name in sorted(by_name)]
            title = _title(protocol, label(backbone), dataset, "single gradients")
            draw = partial(draw_curves, title=title, series=series, x_axis="block")
            figures.append(Figure(figure_path(folder, "layers", protocol, backbone, dataset), draw))
    return figures


def _series(name: str, cells: dict[int, Cell]) -> Series:
    """Return a line of scores. cells: x value -> cell."""
    numbers = sorted(cells)
    stds = [cells[number].std or 0.0 for number in numbers]
    return Series(name, numbers, [cells[number].value for number in numbers], stds if any(stds) else None)


def _figures_of_classes(folder: Path, record: ResultRecord, data_dir: Path) -> list[Figure]:
    """Return a figure of the gain over the embeddings per class, for each single gradient, like figure 3."""
    content = record.content
    if not _single_gradients(content):
        return []
    protocol, origin = protocol_of(content), origin_of(content)
    path = figure_path(folder, "per-class", protocol, origin["backbone"], origin["dataset"])
    title = _title(protocol, label(origin["backbone"]), origin["dataset"], "each gradient alone, by class")

    def draw(path: Path) -> None:
        gains = per_class_differences(content)
        series = [Series(name, [], [100 * value for value in values]) for name, values in gains.items()]
        classes = class_names(content, data_dir)
        draw_sorted_differences(path, title, series, "gain in accuracy over the embeddings, points", classes)

    return [Figure(path, draw)]


def class_names(content: dict[str, Any], data_dir: Path) -> Sequence[str]:
    """Return the class names of the scored rows, in label order; empty if there are more than `MAX_CLASS_NAMES`.

    The names come from the result. If the result has no names, they come from the dataset. A class without a name gets
    the name `class NUMBER`.
    """
    labels = np.unique(content["test_targets"]).tolist()
    if len(labels) > MAX_CLASS_NAMES:
        return ()
    names: Sequence[str] = content.get("class_names", ())
    if not names:
        with suppress(FungiError):
            names = open_split(content["settings"].get("dataset", ""), "test", data_dir).class_names
    return [names[number] if number < len(names) else f"class {number}" for number in labels]


def _single_gradients(content: dict[str, Any]) -> list[str]:
    """Return the single gradients with predictions.

    For a result of `--choose`, and for a result without predictions of the embeddings, return an empty list.
    """
    runs = runs_of(content)
    first = runs[0]["results"]
    if "predictions" not in first.get(EMBEDDINGS, ()) or content["settings"].get("choose"):
        return []
    names = [name for name, scores in first.items() if "+" not in name and "predictions" in scores]
    return [name for name in in_order(names) if name != EMBEDDINGS and all(name in run["results"] for run in runs)]


def per_class_differences(content: dict[str, Any]) -> dict[str, list[float]]:
    """Return the gain in accuracy over the embeddings, for each gradient and class: the mean over the runs.

    The classes are in label order.
    """
    runs = [run["results"] for run in runs_of(content)]
    targets = np.array(content["test_targets"])

    def accuracies(run: dict[str, Any], name: str) -> np.ndarray:
        """Return the accuracy `[c]` of each class with a feature."""
        _, accuracy_of_class = per_class_accuracy(np.array(run[name]["predictions"]), targets)
        return accuracy_of_class

    return {
        name: np.mean([accuracies(run, name) - accuracies(run, EMBEDDINGS) for run in runs], axis=0).tolist()
        for name in _single_gradients(content)
    }


def _figures_of_cka(folder: Path, record: ResultRecord, _data_dir: Path) -> list[Figure]:
    """Return a figure of the similarity of the features, like figure 2 (left) of the paper."""
    pairs = {tuple(name.split("+")): scores["cka"] for name, scores in record.content["results"].items()}
    names = in_order({name for pair in pairs for name in pair})
    values = np.eye(len(names))
    for (first, second), value in pairs.items():
        row, column = names.index(first), names.index(second)
        values[row, column] = values[column, row] = value
    origin = origin_of(record.content)
    protocol = protocol_of(record.content).without("k", "pca_dim")  # CKA uses no neighbours and no PCA
    path = figure_path(folder, "cka", protocol, origin["backbone"], origin["dataset"])
    title = f"Similarity of the features (CKA): {label(origin['backbone'])}, {origin['dataset']}"
    details = wrap(protocol_in_words(protocol.profile, protocol.details), TITLE_WIDTH)
    draw = partial(draw_heatmap, title="\n".join([*wrap(title, TITLE_WIDTH), *details]), names=names, values=values)
    return [Figure(path, draw)]


def _figures_of_ablation(folder: Path, record: ResultRecord, _data_dir: Path) -> list[Figure]:
    return [Figure(path, draw) for path, draw in ablation_figures(folder, record)]


_TASK_WITH_CLASSES = "knn"
"""Task with a figure of the gain per class for each result."""
_FIGURES_OF_RECORD: dict[str, Callable[[Path, ResultRecord, Path], list[Figure]]] = {
    _TASK_WITH_CLASSES: _figures_of_classes,
    "cka": _figures_of_cka,
    ABLATION: _figures_of_ablation,
}
"""Task -> function that returns the figures of a result: (folder of figures, result, folder of datasets)."""


def _title(protocol: Protocol, *subjects: str) -> str:
    """Return a title of a few lines: task, setting, `subjects` (backbone, dataset), details of the protocol."""
    heading = ", ".join([task_in_words(protocol.task, protocol.setting), *subjects])
    details = protocol_in_words(protocol.profile, protocol.details)
    return "\n".join([*wrap(heading, TITLE_WIDTH), *wrap(details, TITLE_WIDTH)])
