"""Tables of the ablations in the form of the paper: our table, and the published tables below it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fungi.results.published import published_tables
from fungi.results.text import MISSING, markdown, plus_minus

IMAGES_PER_SECOND, QUERIES_PER_SECOND, MILLISECONDS = "images/s", "kNN queries/s", "ms"
NOT_IN_PERCENT = (IMAGES_PER_SECOND, QUERIES_PER_SECOND, MILLISECONDS)
"""Columns whose values are not shares and are not converted to percent."""
_NOT_IN_LABEL = ("backbone", "default", "values", "std")
"""Entries of a published row that are not part of its label."""


@dataclass
class AblationTable:
    """A table of an ablation. Its text is in percent, except for the columns `NOT_IN_PERCENT`.

    values: (row, column) -> one value per seed: a share from 0 to 1, or a number in the unit that names the column.
    published: ids of the published tables to print below this table.
    notes: remarks for the reader.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def add(self, row: str, column: str, value: float) -> None:
        """Add the value of another seed to a cell."""
        self.values.setdefault((row, column), []).append(value)

    def text(self) -> str:
        """Return the table with its notes and the published tables, as markdown."""
        cells = [[row, *(self._cell(row, column) for column in self.columns)] for row in self.rows]
        parts = [f"{self.title}\n", markdown(["", *self.columns], cells), *(f"note: {note}" for note in self.notes)]
        return "\n".join([*parts, *(f"\n{published_text(name)}" for name in self.published)])

    def results(self) -> dict[str, dict[str, list[float]]]:
        """Return the cells as plain data: row -> column -> one value per seed."""
        results: dict[str, dict[str, list[float]]] = {row: {} for row in self.rows}
        for (row, column), values in self.values.items():
            results[row][column] = values
        return results

    def facts(self) -> dict[str, Any]:
        """Return title, columns, notes and published tables as plain data."""
        lists = {"columns": self.columns, "notes": self.notes, "published": self.published}
        return {"title": self.title, **{name: list(texts) for name, texts in lists.items()}}

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> "AblationTable":
        """Return the table in the content of a result file."""
        results = content["results"]
        return cls(
            content["title"],
            content["columns"],
            list(results),
            {(row, column): values for row, cells in results.items() for column, values in cells.items()},
            tuple(content["published"]),
            content["notes"],
        )

    def _cell(self, row: str, column: str) -> str:
        values = self.values.get((row, column))
        return plus_minus(*mean_and_deviation(column, values)) if values else MISSING


def mean_and_deviation(column: str, values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and population standard deviation over seeds, in the unit of the table.

    With one seed, the deviation is None.
    """
    scaled = (1.0 if column in NOT_IN_PERCENT else 100.0) * np.array(values)
    return float(scaled.mean()), float(scaled.std()) if len(values) > 1 else None


def published_text(name: str) -> str:
    """Return a published table with its caption and source, as markdown."""
    table = published_tables()[name]
    cells = []
    for row in table["rows"]:
        deviations = row.get("std", {})
        values = {column: value for column, value in row["values"].items() if value is not None}
        texts = [
            plus_minus(values[column], deviations.get(column)) if column in values else MISSING
            for column in table["columns"]
        ]
        label = [
            f"{key} {'yes' if value else 'no'}" if isinstance(value, bool) else str(value)
            for key, value in row.items()
            if key not in _NOT_IN_LABEL and value is not None
        ]
        cells.append([", ".join(label), *texts])
    measured_on = table["rows"][0]["backbone"] + (f" on {table['dataset']}" if "dataset" in table else "")
    source = f"{table['source']}, table {table['table']}"
    return f"published: {table['caption']} ({source}; {measured_on})\n\n" + markdown(["", *table["columns"]], cells)
