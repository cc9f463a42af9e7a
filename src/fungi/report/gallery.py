"""Which figures a set of results can fill, and their drawing."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from fungi.combine.names import in_order
from fungi.data.base import open_split
from fungi.errors import FungiError
from fungi.evaluators.metrics import per_class_accuracy
from fungi.report.ablation_figures import draw_ablation
from fungi.report.cells import Cell, ResultRecord
from fungi.report.figures import (
    MOST_NAMED,
    Series,
    compared_dots,
    curves,
    dots,
    figure_path,
    heatmap,
    sorted_differences,
)
from fungi.report.protocol import Protocol, details_of, origin_of, setting_of
from fungi.report.tables import Table, label
from fungi.report.words import asked_in_words, feature_in_words, how_in_words, metric_in_words
from fungi.results.published import MEAN
from fungi.results.result_file import ABLATION
from fungi.results.text import by_size_and_order
from fungi.store.layout import EMBEDDINGS

COMBINATIONS, BEST = "combinations", "best combination"
_MOST_PER_TABLE = 6  # bar charts of single datasets: beyond that a table reads better
_SHOTS = re.compile(r"(\d+)-shot( drawn)?")
_SAYS_LAYER = re.compile(r"(layer|array) ")
_BLOCK = re.compile(r"(?:blocks\.|encoder_layer_|layers?\.)(\d+)\.(.+)")


def draw_all(
    folder: Path,
    records: Sequence[ResultRecord],
    cells: Sequence[Cell],
    tables: Sequence[Table],
    data_dir: Path = Path(),
) -> list[Path]:
    """Every figure that the results fill, into a folder; their paths. data_dir: where datasets lie, for class names."""
    drawn: list[Path] = []
    for table in tables:
        drawn += _bars_of(folder, table)
        drawn += _backbones_of(folder, table)
    drawn += _shots(folder, cells)
    drawn += _layers(folder, cells)
    for record in records:
        draw = None if record.put_aside else _drawing_of(record.content.get("task", ""))
        drawn += draw(folder, record, data_dir) if draw else []
    return drawn


def _bars_of(folder: Path, table: Table) -> list[Path]:
    """Figure 2, right: every combination, for each backbone and dataset."""
    found: dict[tuple[str, str], dict[str, Cell]] = defaultdict(dict)
    for (backbone, combination, dataset), cell in table.cells.items():
        found[backbone, dataset][combination] = cell
    if len(found) > _MOST_PER_TABLE:
        found = {key: cells for key, cells in found.items() if key[1] == MEAN}
    drawn = []
    for (backbone, dataset), cells in found.items():
        if any("+" in combination for combination in cells):
            path = figure_path(folder, COMBINATIONS, table.protocol, backbone, dataset)
            ordered = sorted(cells, key=by_size_and_order)
            title = _titled(table.protocol, label(backbone), dataset)
            axis = f"{metric_in_words(next(iter(cells.values())).metric)}, %"
            dots(path, title, {name: (cells[name].value, cells[name].std) for name in ordered}, EMBEDDINGS, axis)
            drawn.append(path)
    return drawn


def _backbones_of(folder: Path, table: Table) -> list[Path]:
    """Figures 5 (kNN) and 9 (linear probes): embeddings against each backbone's best combination."""
    filled = {column for _, _, column in table.cells}
    column = MEAN if MEAN in filled else filled.pop() if len(filled) == 1 else None
    best = {} if column is None else _best_combinations(table, column)
    if column is None or len(best) < 2:
        return []
    places, gained = range(len(best)), [feature_in_words(name).partition(" ")[2] for name in best.values()]
    series = [
        Series(EMBEDDINGS, places, [table.cells[backbone, EMBEDDINGS, column].value for backbone in best]),
        Series(
            BEST, places, [table.cells[backbone, name, column].value for backbone, name in best.items()], told=gained
        ),
    ]
    path = figure_path(folder, "backbones", table.protocol, column)
    axis = "accuracy, %  (best on the scored rows themselves)"
    compared_dots(path, _titled(table.protocol, column), [label(backbone) for backbone in best], series, axis)
    return [path]


def _best_combinations(table: Table, column: str) -> dict[str, str]:
    """Backbone -> the combination with embeddings that scores highest; of equal ones the smallest."""
    scored: dict[str, dict[str, float]] = defaultdict(dict)
    for backbone, name in sorted(table.rows, key=lambda row: by_size_and_order(row[1])):
        if (backbone, name, column) in table.cells:
            scored[backbone][name] = table.cells[backbone, name, column].value
    found = {}
    for backbone in dict.fromkeys(backbone for backbone, _ in table.rows):
        of = {name: value for name, value in scored[backbone].items() if name.startswith(f"{EMBEDDINGS}+")}
        if of and EMBEDDINGS in scored[backbone]:
            found[backbone] = max(of, key=lambda name: of[name])
    return found


def _shots(folder: Path, cells: Sequence[Cell]) -> list[Path]:
    """Figure 6: accuracy against the number of shots, embeddings and the largest combination."""
    found: dict[tuple[str, ...], dict[str, dict[int, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        match = _SHOTS.fullmatch(cell.protocol.setting)
        if match and cell.dataset != MEAN:
            protocol = (cell.protocol.task, cell.protocol.profile, cell.protocol.details, match[2] or "")
            found[*protocol, cell.backbone, cell.dataset][cell.combination][int(match[1])] = cell
    drawn = []
    for (task, profile, details, way, backbone, dataset), by_name in found.items():
        largest = max(by_name, key=by_size_and_order)
        series = [_by_number(name, by_name[name]) for name in dict.fromkeys((EMBEDDINGS, largest)) if name in by_name]
        if max(len(one.x) for one in series) > 1:
            path = figure_path(folder, "shots", task, profile, details, way, backbone, dataset)
            few = Protocol(task, f"few train rows per class{way}", profile, details)
            title = _titled(few, label(backbone), dataset)
            curves(path, title, series, x_axis="train examples per class")
            drawn.append(path)
    return drawn


def _layers(folder: Path, cells: Sequence[Cell]) -> list[Path]:
    """Figure 8: single gradients by block; a line for each objective and kind of layer."""
    found: dict[tuple[str, ...], dict[str, dict[int, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        match = _BLOCK.search(cell.layer)
        if match and "+" not in cell.combination and cell.combination != EMBEDDINGS:
            details = ", ".join(part for part in cell.protocol.details.split(", ") if not _SAYS_LAYER.match(part))
            protocol = (cell.protocol.task, cell.protocol.setting, cell.protocol.profile, details)
            found[*protocol, cell.backbone, cell.dataset][f"{cell.combination}, {match[2]}"][int(match[1])] = cell
    drawn = []
    for key, by_name in found.items():
        blocks = {block for cells_of_name in by_name.values() for block in cells_of_name}
        if len(blocks) > 1:
            series = [_by_number(name, by_name[name]) for name in sorted(by_name)]
            path = figure_path(folder, "layers", *key)
            task, setting, profile, details, backbone, dataset = key
            title = _titled(Protocol(task, setting, profile, details), label(backbone), dataset, "single gradients")
            curves(path, title, series, x_axis="block")
            drawn.append(path)
    return drawn


def _by_number(name: str, cells: dict[int, Cell]) -> Series:
    numbers = sorted(cells)
    stds = [cells[number].std or 0.0 for number in numbers]
    return Series(name, numbers, [cells[number].value for number in numbers], stds if any(stds) else None)


def _per_class(folder: Path, record: ResultRecord, data_dir: Path) -> list[Path]:
    """Figure 3: per-class accuracy of each gradient alone minus that of the embeddings."""
    content = record.content
    deltas = per_class_differences(content)
    if not deltas:
        return []
    origin = origin_of(content)
    profile, details = origin["profile"], details_of(content, origin)
    path = figure_path(folder, "per-class", content["task"], profile, details, origin["backbone"], origin["dataset"])
    series = [Series(name, [], [100 * value for value in values]) for name, values in deltas.items()]
    title = (
        f"{label(origin['backbone'])}, {origin['dataset']}: each gradient alone against the embeddings, by class\n"
        f"{asked_in_words(content['task'].split('-')[0], setting_of(content))}"
    )
    title = "\n".join([title, *wrap(how_in_words(profile, details), 80)])
    classes = class_names(content["settings"].get("dataset", ""), data_dir, len(series[0].y))
    sorted_differences(path, title, series, "difference of accuracy, points", classes)
    return [path]


def class_names(dataset: str, data_dir: Path, count: int) -> Sequence[str]:
    """Names of a dataset's classes where they are few enough to be shown; their numbers where it is not at hand."""
    if count > MOST_NAMED:
        return ()
    try:
        names = open_split(dataset, "test", data_dir).class_names
    except FungiError:
        names = ()
    return names if len(names) == count else [f"class {number}" for number in range(count)]


def per_class_differences(content: dict[str, Any]) -> dict[str, list[float]]:
    """Gradient -> per-class accuracy minus that of the embeddings, classes in label order; the mean over runs."""
    runs = [run["results"] for run in content.get("runs", [])] or [content["results"]]
    targets = np.array(content.get("test_targets", []))
    single = [
        name for name, scores in runs[0].items() if "+" not in name and name != EMBEDDINGS and "predictions" in scores
    ]
    if not single or EMBEDDINGS not in runs[0] or content["settings"].get("choose"):
        return {}

    def recall(run: dict[str, Any], name: str) -> np.ndarray:
        return per_class_accuracy(np.array(run[name]["predictions"]), targets)[1]

    complete = [run for run in runs if all(name in run for name in (EMBEDDINGS, *single))]
    return {
        name: np.mean([recall(run, name) - recall(run, EMBEDDINGS) for run in complete], axis=0).tolist()
        for name in in_order(single)
        if complete
    }


def _cka(folder: Path, record: ResultRecord, _data_dir: Path) -> list[Path]:
    """Figure 2, left: how alike the features are."""
    pairs = {tuple(name.split("+")): scores["cka"] for name, scores in record.content["results"].items()}
    names = in_order({name for pair in pairs for name in pair})
    values = np.eye(len(names))
    for (first, second), value in pairs.items():
        row, column = names.index(first), names.index(second)
        values[row, column] = values[column, row] = value
    origin = origin_of(record.content)
    settings = {name: value for name, value in record.content["settings"].items() if name not in ("k", "pca_dim")}
    details = details_of(record.content | {"settings": settings}, origin)  # neighbours and PCA play no part
    path = figure_path(folder, "cka", origin["profile"], details, origin["backbone"], origin["dataset"])
    title = f"How alike the features are (CKA): {label(origin['backbone'])}, {origin['dataset']}"
    heatmap(path, "\n".join([title, *wrap(how_in_words(origin["profile"], details), 80)]), names, values)
    return [path]


_DRAWN_FROM_RECORDS: dict[str, Callable[[Path, ResultRecord, Path], list[Path]]] = {
    "knn": _per_class,
    "cka": _cka,
    ABLATION: draw_ablation,
}


def _drawing_of(task: str) -> Callable[[Path, ResultRecord, Path], list[Path]] | None:
    """Return what draws a record of a task; all ablations are drawn alike."""
    return _DRAWN_FROM_RECORDS.get(ABLATION if task.startswith(f"{ABLATION}-") else task)


def _titled(protocol: Protocol, *of: str) -> str:
    """Two or three lines: what was measured and on what, and how."""
    how = wrap(how_in_words(protocol.profile, protocol.details), 80)
    return "\n".join([", ".join([asked_in_words(protocol.task, protocol.setting), *of]), *how])
