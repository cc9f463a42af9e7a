"""Tables of the ablations in the paper's form: ours, and below it the published one, never mixed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fungi.results.published import published_tables
from fungi.results.text import markdown, plus_minus

NONE = "-"
IMAGES_PER_SECOND, QUERIES_PER_SECOND, MILLISECONDS = "images/s", "kNN queries/s", "ms"
AS_THEY_ARE = (IMAGES_PER_SECOND, QUERIES_PER_SECOND, MILLISECONDS)
"""Columns that are no shares."""
_NOT_OF_A_ROW = ("backbone", "default", "values", "std")


@dataclass
class AblationTable:
    """Rows by columns, in percent but for `AS_THEY_ARE`.

    values: (row, column) -> one value per seed, as shares. published: ids of the published tables that it is to stand
    beside. notes: what the reader has to know.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def add(self, row: str, column: str, value: float) -> None:
        """One more seed's value of a cell."""
        self.values.setdefault((row, column), []).append(value)

    def text(self) -> str:
        """The table, its notes, and the published ones."""
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
        """Return everything but the cells as plain data."""
        facts = {"columns": self.columns, "notes": self.notes, "published": self.published}
        return {"title": self.title, **{name: list(texts) for name, texts in facts.items()}}

    @classmethod
    def of(cls, content: dict[str, Any]) -> "AblationTable":
        """Return the table that a result file holds."""
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
        found = self.values.get((row, column))
        if not found:
            return NONE
        return plus_minus(*mean_and_deviation(column, found))


def mean_and_deviation(column: str, values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds as it is shown, and the deviation where there are several."""
    shown = (1.0 if column in AS_THEY_ARE else 100.0) * np.array(values)
    return float(shown.mean()), float(shown.std()) if len(values) > 1 else None


def published_text(name: str) -> str:
    """A published table with its source."""
    table = published_tables()[name]
    cells = []
    for row in table["rows"]:
        spread = row.get("std", {})
        values = {column: value for column, value in row["values"].items() if value is not None}
        shown = [
            plus_minus(values[column], spread.get(column)) if column in values else NONE for column in table["columns"]
        ]
        of = [
            f"{key} {'yes' if value else 'no'}" if isinstance(value, bool) else str(value)
            for key, value in row.items()
            if key not in _NOT_OF_A_ROW and value is not None
        ]
        cells.append([", ".join(of), *shown])
    where = table["rows"][0]["backbone"] + (f" on {table['dataset']}" if "dataset" in table else "")
    source = f"{table['source']}, table {table['table']}"
    return f"published: {table['caption']} ({source}; {where})\n\n" + markdown(["", *table["columns"]], cells)
