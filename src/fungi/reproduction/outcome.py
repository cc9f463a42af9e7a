"""Read our values from the result files, and compare them with the published values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fungi.data.base import DATASETS
from fungi.errors import FungiError
from fungi.reproduction.plan import StepSettings, evaluation_step
from fungi.reproduction.recipe import Evaluation, Value
from fungi.results.result_file import read_result
from fungi.results.text import MISSING, markdown, plus_minus


def our_value(value: Value, settings: StepSettings) -> tuple[float, float | None] | None:
    """Return our mean and its deviation over seeds, in the unit of the published value; None if a result is missing.

    The deviation is None for a single seed.
    """
    measurements = [_measurement(value, evaluation, settings) for evaluation in value.evaluations]
    complete = [measurement for measurement in measurements if measurement is not None]
    if not complete or len(complete) < len(measurements):
        return None
    means, deviations = zip(*complete, strict=True)
    # The deviation of a mean over datasets needs the scores of every seed, so only single datasets have a deviation.
    deviation = deviations[0] if len(complete) == 1 else None
    scaled_deviation = None if deviation is None else value.scale * deviation
    return value.scale * float(np.mean(means)), scaled_deviation


def table_text(values: Sequence[Value], settings: StepSettings) -> str:
    """Return a markdown table of our values, with the published values in brackets."""
    columns = list(dict.fromkeys(value.column for value in values))
    rows: dict[str, dict[str, str]] = {}
    for value in values:
        rows.setdefault(value.row, {})[value.column] = _cell(value, our_value(value, settings))
    cells = [[row, *(texts.get(column, MISSING) for column in columns)] for row, texts in rows.items()]
    return markdown(["ours (published)", *columns], cells)


def _cell(value: Value, ours: tuple[float, float | None] | None) -> str:
    """Return our value, and the published value in brackets: `76.5 ± 0.4 (76.0)`."""
    published = "" if value.published is None else f" ({plus_minus(value.published, value.std)})"
    if value.quoted:
        return f"quoted{published}"
    return (MISSING if ours is None else plus_minus(*ours)) + published


def _measurement(value: Value, evaluation: Evaluation, settings: StepSettings) -> tuple[float, float | None] | None:
    """Return mean and standard deviation of one evaluation; None if its file, or the entry in the file, is missing."""
    outputs = evaluation_step(evaluation, settings).outputs
    if not outputs or not outputs[0].exists():
        return None
    try:
        mean, deviation = _read_entry(outputs[0], value, evaluation, value.cell or value.combination)
        baseline = value.over  # the published value is a difference to this combination or cell
        if baseline is None:
            return mean, deviation
        baseline_mean, _ = _read_entry(outputs[0], value, evaluation, baseline)
        return (mean - baseline_mean) / (baseline_mean if value.relative else 1.0), None
    except (FungiError, KeyError):
        return None


def _read_entry(
    path: Path, value: Value, evaluation: Evaluation, key: str | tuple[str, str]
) -> tuple[float, float | None]:
    """Return mean and standard deviation of an entry of a result file.

    key: a combination, or (row, column) of an ablation.

    Raises KeyError if the file does not have the entry.
    """
    if isinstance(key, tuple):
        return _read_ablation_cell(path, key)
    default_metric = DATASETS[evaluation.dataset].metric if evaluation.dataset in DATASETS else "accuracy"
    metric = value.metric or default_metric
    scores = read_result(path)["results"][key]
    return float(scores[metric]), scores.get(f"{metric}-std")


def _read_ablation_cell(path: Path, cell: tuple[str, str]) -> tuple[float, float | None]:
    """Return mean and standard deviation over the seeds of a cell (row, column)."""
    row, column = cell
    scores = read_result(path)["results"][row][column]  # one score per seed
    return float(np.mean(scores)), float(np.std(scores)) if len(scores) > 1 else None
