"""Tables as text: aligned columns, numbers with their deviation, and the table that an evaluation prints.

An evaluation prints its table with

    print_gain_table({"full": knn_result, "5-shot": few_shot_result})
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fungi.combine.names import CANONICAL_ORDER
from fungi.store.layout import EMBEDDINGS

MISSING = "-"
"""Text of a cell without a value."""


def plus_minus(value: float | int, deviation: float | None = None, width: int = 0) -> str:
    """Return `76.5 ± 0.4`, or `76.5` without a deviation. width: smallest number of characters of the value."""
    return f"{value:{width}.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as aligned columns, with two blanks between them."""
    return "\n".join("  ".join(line).rstrip() for line in _padded(lines))


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a markdown table with aligned columns."""
    titles, *rows = _padded([header, *cells])
    lines = [titles, ["-" * len(title) for title in titles], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _padded(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the texts of all lines, padded to the width of their column."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]


def gain_table(columns: Mapping[str, Mapping[str, Any]], metric: str = "accuracy") -> str:
    """Return a table with a row per combination: scores in percent, and the gain over embeddings: `76.5 ± 0.4 (+8.5)`.

    columns: title -> content of a result file. Results of several runs are shown with their deviation. If a result file
    does not contain a combination, the cell shows `MISSING`.
    """
    rows = sorted({name for content in columns.values() for name in content["results"]}, key=by_size_and_order)
    titles = [f"{metric}, %", *columns]
    cells = [[row, *(_cell(content["results"], row, metric) for content in columns.values())] for row in rows]
    rules = ["-" * max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    return aligned([titles, rules, *cells])


def print_gain_table(columns: Mapping[str, Mapping[str, Any]], metric: str = "accuracy") -> None:
    """Print `gain_table`, a legend if there are several runs, and the warnings."""
    print(gain_table(columns, metric))
    run_counts = {len(content.get("runs", [None])) for content in columns.values()}
    if run_counts != {1}:
        count = max(run_counts)
        print(f"mean ± population standard deviation of {count} runs; in brackets the gain over {EMBEDDINGS}.")
    for text in dict.fromkeys(text for content in columns.values() for text in content.get("warnings", [])):
        print(f"warning: {text}")


def _cell(results: Mapping[str, Any], row: str, metric: str) -> str:
    """Return the score of a combination with its gain over the embeddings. row: name of the combination."""
    if metric not in results.get(row, {}):
        return MISSING
    value, deviation = 100 * results[row][metric], results[row].get(f"{metric}-std")
    text = plus_minus(value, None if deviation is None else 100 * deviation, width=5)
    baseline = results.get(EMBEDDINGS, {}).get(metric)
    return text if baseline is None or row == EMBEDDINGS else f"{text} ({value - 100 * baseline:+.1f})"


def by_size_and_order(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Return the sorting key of a combination's name: combinations of fewer features first, then canonical order."""
    features = name.split("+")
    rank = {feature: number for number, feature in enumerate(CANONICAL_ORDER)}
    return len(features), [(rank.get(feature, len(rank)), feature) for feature in features]
