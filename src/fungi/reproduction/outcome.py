"""What the results that are there make of a published value."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fungi.data.base import DATASETS
from fungi.errors import FungiError
from fungi.reproduction.plan import Home, evaluation_step
from fungi.reproduction.recipe import Evaluation, Value
from fungi.results.result_file import read_result
from fungi.results.text import markdown, plus_minus

NONE = "-"


def outcome(value: Value, home: Home) -> tuple[float, float | None] | None:
    """Ours for a value, in its unit, with the deviation over seeds where there are several; None where a part lacks."""
    found = [_measured(value, run, home) for run in value.evaluations]
    if not found or any(one is None for one in found):
        return None
    means, deviations = zip(*(one for one in found if one is not None), strict=True)
    # The deviation of a mean over datasets would need the seeds one by one: it is given for single datasets.
    deviation = deviations[0] if len(found) == 1 else None
    scaled = None if deviation is None else value.scale * deviation
    return value.scale * float(np.mean(means)), scaled


def table_text(values: Sequence[Value], home: Home) -> str:
    """A table: ours, and the published value in brackets."""
    columns = list(dict.fromkeys(value.column for value in values))
    rows: dict[str, dict[str, str]] = {}
    for value in values:
        rows.setdefault(value.row, {})[value.column] = _cell(value, outcome(value, home))
    cells = [[row, *(found.get(column, NONE) for column in columns)] for row, found in rows.items()]
    return markdown(["ours (published)", *columns], cells)


def _cell(value: Value, ours: tuple[float, float | None] | None) -> str:
    published = "" if value.published is None else f" ({plus_minus(value.published, value.std)})"
    if value.quoted:
        return f"quoted{published}"
    return (NONE if ours is None else plus_minus(*ours)) + published


def _measured(value: Value, run: Evaluation, home: Home) -> tuple[float, float | None] | None:
    """Mean and deviation of one evaluation; None where its file, or the cell in it, is not there."""
    outputs = evaluation_step(run, home).outputs
    if not outputs or not outputs[0].exists():
        return None
    try:
        found = _read(outputs[0], value, run, value.cell or value.combination)
        if value.over is None:
            return found
        base = _read(outputs[0], value, run, value.over)[0]
        return (found[0] - base) / (base if value.relative else 1.0), None
    except (FungiError, KeyError):
        return None


def _read(path: Path, value: Value, run: Evaluation, of: str | tuple[str, str]) -> tuple[float, float | None]:
    """A combination's metric, or a cell of an ablation; KeyError where it is not there."""
    if isinstance(of, tuple):
        return _of_ablation(path, of)
    metric = value.metric or (DATASETS[run.dataset].metric if run.dataset in DATASETS else "accuracy")
    scores = read_result(path)["results"][of]
    return float(scores[metric]), scores.get(f"{metric}-std")


def _of_ablation(path: Path, cell: tuple[str, str]) -> tuple[float, float | None]:
    row, column = cell
    seeds = read_result(path)["results"][row][column]
    return float(np.mean(seeds)), float(np.std(seeds)) if len(seeds) > 1 else None
