"""Tables of the ablations in the paper's form: ours, and below it the published one, never mixed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fungi.report.published import published_tables

NONE = "-"
_NOT_OF_A_ROW = ("backbone", "default", "values", "std")


@dataclass
class AblationTable:
    """Rows by columns, in percent (or what the title says).

    values: (row, column) -> one value per seed, as shares. published: ids of the published tables that it is to stand
    beside. notes: what the reader has to know. scale: from values to what is shown.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    scale: float = 100.0

    def add(self, row: str, column: str, value: float) -> None:
        """One more seed's value of a cell."""
        self.values.setdefault((row, column), []).append(value)

    def text(self) -> str:
        """The table, its notes, and the published ones."""
        cells = [[row, *(self._cell(row, column) for column in self.columns)] for row in self.rows]
        parts = [f"{self.title}\n", grid(["", *self.columns], cells), *(f"note: {note}" for note in self.notes)]
        return "\n".join([*parts, *(f"\n{published_text(name)}" for name in self.published)])

    def content(self) -> dict[str, Any]:
        """The same as plain data."""
        cells = [{"row": row, "column": column, "values": values} for (row, column), values in self.values.items()]
        return {"title": self.title, "cells": cells, "notes": self.notes, "published": list(self.published)}

    def _cell(self, row: str, column: str) -> str:
        found = self.values.get((row, column))
        return (
            NONE
            if not found
            else percent(self.scale * float(np.mean(found)), self.scale * float(np.std(found)), len(found))
        )


def percent(mean: float, deviation: float = 0.0, count: int = 1) -> str:
    """`57.2`, with the deviation where there are several values."""
    return f"{mean:.1f}" + (f" ± {deviation:.1f}" if count > 1 else "")


def published_text(name: str) -> str:
    """A published table with its source."""
    table = published_tables()[name]
    cells = []
    for row in table["rows"]:
        spread = row.get("std", {})
        shown = [_published_cell(row["values"].get(column), spread.get(column)) for column in table["columns"]]
        of = [_words(key, value) for key, value in row.items() if key not in _NOT_OF_A_ROW and value is not None]
        cells.append([", ".join(of), *shown])
    where = table["rows"][0]["backbone"] + (f" on {table['dataset']}" if "dataset" in table else "")
    source = f"{table['source']}, table {table['table']}"
    return f"published: {table['caption']} ({source}; {where})\n\n" + grid(["", *table["columns"]], cells)


def _published_cell(value: int | float | None, deviation: float | None) -> str:
    return NONE if value is None else f"{value:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def _words(key: str, value: Any) -> str:
    return f"{key} {'yes' if value else 'no'}" if isinstance(value, bool) else str(value)


def grid(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A markdown table with aligned columns."""
    widths = [max(len(line[place]) for line in [header, *cells]) for place in range(len(header))]

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)) + " |"

    return "\n".join([line(header), line(["-" * width for width in widths]), *(line(row) for row in cells)])
