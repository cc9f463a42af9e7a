"""Write cells as tables in markdown, LaTeX and CSV. Each protocol has its own table."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from fungi.report.cells import Cell, mean_cells
from fungi.report.facts import as_facts, heading_text
from fungi.report.protocol import Protocol
from fungi.results.published import MEAN, backbone_labels, mean_datasets
from fungi.results.text import MISSING, by_size_and_order, plus_minus

LEGEND = (
    "Values are in percent. `76.5 ± 0.4 (+8.5) [76.0, +0.5]`: value, population standard deviation if there are several"
    " runs, gain over the embeddings alone, and in brackets the published value and our value minus the published one."
    " `(+0.5 ~)`: a gain or loss within noise (p ≥ 0.05 on the scored rows: McNemar's test, or a t-test for several"
    " runs)."
    f" `pets (3669)`: a dataset and its number of scored rows. `{MISSING}`: missing. Published values are shown only"
    " for results with the published settings. Headings name all other settings, and the profile: `clean` for the"
    " method, `published` for the published code."
)


@dataclass(frozen=True)
class Table:
    """The table of a protocol. rows: (backbone, combination). columns: datasets, then their mean.

    cells: (backbone, combination, dataset) -> cell.
    """

    protocol: Protocol
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    cells: dict[tuple[str, str, str], Cell]

    @property
    def shown_protocol(self) -> Protocol:
        """Return the protocol for headings, with the fact `no PCA` if no feature was reduced."""
        sizes = [value for name, value in self.protocol.details if name == "pca_dim"]
        if not sizes or any(cell.reduced is not False for cell in self.cells.values() if cell.dataset != MEAN):
            return self.protocol
        without_dim = self.protocol.without("pca_dim")
        return replace(without_dim, details=as_facts([*without_dim.details, ("no_pca", sizes[0])]))

    def rows_of(self, column: str) -> int | None:
        """Return the number of scored rows of a dataset; None if the number is unknown or differs between results."""
        counts = {cell.rows for (_, _, dataset), cell in self.cells.items() if dataset == column}
        return counts.pop() if len(counts) == 1 else None

    @property
    def gaps(self) -> list[str]:
        """Return, for each backbone, the datasets without any cell: `ViT-B/16: cars, cub`."""
        filled = {(backbone, column) for backbone, _, column in self.cells}
        backbones = dict.fromkeys(backbone for backbone, _ in self.rows)
        missing = {
            name: [column for column in self.columns if column != MEAN and (name, column) not in filled]
            for name in backbones
        }
        return [f"{label(name)}: {', '.join(columns)}" for name, columns in missing.items() if columns]


def make_tables(cells: Sequence[Cell]) -> list[Table]:
    """Return a table per protocol, with means over the datasets of the paper if all these datasets have results."""
    all_cells = [*cells, *mean_cells(cells)]
    protocols = sorted({cell.protocol for cell in all_cells}, key=lambda protocol: protocol.sort_key)
    return [_table(protocol, all_cells) for protocol in protocols]


def label(backbone: str) -> str:
    """Return the name of a backbone in the paper. If the paper does not contain the backbone, return `backbone`."""
    return backbone_labels().get(backbone, backbone)


def to_markdown(tables: Sequence[Table]) -> str:
    """Return all tables under headings that name their protocols."""
    lines = ["# Results", "", LEGEND, ""]
    for table in tables:
        lines += [f"## {table.shown_protocol}", ""]
        lines += ["| " + " | ".join(["backbone", "features", *_column_titles(table)]) + " |"]
        lines += ["|" + "---|" * (len(table.columns) + 2)]
        lines += ["| " + " | ".join(texts) + " |" for texts in _texts_of_rows(table)]
        lines += ["", *[f"Missing for {gap}." for gap in table.gaps], ""]
    return "\n".join(lines)


def to_latex(tables: Sequence[Table]) -> str:
    """Return all tables as LaTeX for the package booktabs. A comment before each table names its protocol."""
    lines = [f"% {LEGEND}"]
    for table in tables:
        header = " & ".join(["backbone", "features", *_column_titles(table)])
        lines += ["", f"% {table.shown_protocol}", rf"\begin{{tabular}}{{ll{'r' * len(table.columns)}}}", r"\toprule"]
        lines += [_escaped(header, keep="&") + r" \\", r"\midrule"]
        lines += [" & ".join(map(_escaped, texts)) + r" \\" for texts in _texts_of_rows(table)]
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


_CSV_COLUMNS: dict[str, Callable[[Cell], Any]] = {
    "task": attrgetter("protocol.task"),
    "setting": lambda cell: str(cell.protocol.setting),
    "profile": attrgetter("protocol.profile"),
    "protocol": lambda cell: heading_text(cell.protocol.details),
    "backbone": attrgetter("backbone"),
    "dataset": attrgetter("dataset"),
    "combination": attrgetter("combination"),
    "metric": attrgetter("metric"),
    "value": lambda cell: _number(cell.value),
    "std": lambda cell: _number(cell.std),
    "runs": attrgetter("runs"),
    "rows": lambda cell: "" if cell.rows is None else cell.rows,
    "standard_error": lambda cell: _number(cell.error),
    "gain": lambda cell: _number(cell.gain),
    "p_value": lambda cell: "" if cell.p_value is None else f"{cell.p_value:.3g}",
    "published": lambda cell: cell.published and cell.published.value,
    "difference": lambda cell: cell.published and _number(_difference(cell)),
    "published_table": lambda cell: cell.published and cell.published.table,
    "warnings": attrgetter("warnings"),
}


def to_csv(cells: Sequence[Cell]) -> str:
    """Return the text of a CSV file with a line for each cell and each mean."""
    buffer = io.StringIO()
    lines = [[value(cell) for value in _CSV_COLUMNS.values()] for cell in [*cells, *mean_cells(cells)]]
    csv.writer(buffer, lineterminator="\n").writerows([list(_CSV_COLUMNS), *lines])
    return buffer.getvalue()


def _table(protocol: Protocol, all_cells: Sequence[Cell]) -> Table:
    """Return the table of the cells that have a protocol."""
    cells = {(cell.backbone, cell.combination, cell.dataset): cell for cell in all_cells if cell.protocol == protocol}
    rows = sorted({key[:2] for key in cells}, key=lambda row: (row[0], by_size_and_order(row[1])))
    datasets = {dataset for _, _, dataset in cells}
    # If there is a result for a dataset of the paper, all datasets of the paper are columns. Other datasets follow.
    paper_datasets = mean_datasets() if datasets & set(mean_datasets()) else ()
    columns = (*paper_datasets, *sorted(datasets - set(paper_datasets) - {MEAN}), *((MEAN,) if paper_datasets else ()))
    return Table(protocol, columns, tuple(rows), cells)


def _column_titles(table: Table) -> list[str]:
    """Return the datasets with their numbers of scored rows: `pets (3669)`."""
    counts = {column: table.rows_of(column) for column in table.columns}
    return [column if count is None else f"{column} ({count})" for column, count in counts.items()]


def _texts_of_rows(table: Table) -> list[list[str]]:
    """Return the texts of each row: backbone, combination, scores."""
    return [
        [
            *(label(backbone), combination),
            *(_text(table.cells.get((backbone, combination, column))) for column in table.columns),
        ]
        for backbone, combination in table.rows
    ]


def _text(cell: Cell | None) -> str:
    """Return a cell as in the legend: `76.5 ± 0.4 (+8.5) [76.0, +0.5]`."""
    if cell is None:
        return MISSING
    text = plus_minus(cell.value, cell.std)
    text += "" if cell.gain is None else f" ({cell.gain:+.1f}{' ~' if cell.within_noise else ''})"
    return text + ("" if cell.published is None else f" [{cell.published.value:.1f}, {_difference(cell):+.1f}]")


def _difference(cell: Cell) -> float:
    """Return our value minus the published value."""
    assert cell.published is not None
    return cell.value - cell.published.value


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _escaped(text: str, keep: str = "") -> str:
    """Return a text in which LaTeX's special characters are escaped, except those in `keep`."""
    for character in "&%#_":
        if character not in keep:
            text = text.replace(character, f"\\{character}")
    return text.replace("±", r"$\pm$")
