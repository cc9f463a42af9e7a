"""Cells -> tables of one protocol each, as markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from fungi.report.cells import Cell, mean_cells
from fungi.report.gain_table import by_size_and_order
from fungi.report.protocol import Protocol
from fungi.report.published import MEAN, backbone_labels, mean_datasets
from fungi.report.text import plus_minus

MISSING = "-"
LEGEND = (
    "Percent. `76.5 ± 0.4 (+8.5) [76.0, +0.5]`: value, population standard deviation over runs where there are several,"
    " gain over the embeddings alone, and in brackets the published value and how far ours is from it."
    f" `{MISSING}`: missing. Published values stand only beside results with the published settings; what else"
    " was set stands in the heading, and the profile tells whether features were made as the published code made them."
)
CSV_COLUMNS = (
    "task",
    "setting",
    "profile",
    "protocol",
    "backbone",
    "dataset",
    "combination",
    "metric",
    "value",
    "std",
    "runs",
    "gain",
    "published",
    "difference",
    "published_table",
    "warnings",
)


@dataclass(frozen=True)
class Table:
    """Rows: backbone and combination; columns: datasets, then their mean."""

    protocol: Protocol
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    cells: dict[tuple[str, str, str], Cell]

    def text(self, backbone: str, combination: str, column: str) -> str:
        """A cell in words."""
        cell = self.cells.get((backbone, combination, column))
        return MISSING if cell is None else cell_text(cell)

    @property
    def gaps(self) -> list[str]:
        """What is missing, by backbone: datasets without any cell."""
        found = {(backbone, column) for backbone, _, column in self.cells}
        backbones = dict.fromkeys(backbone for backbone, _ in self.rows)
        lacking = {
            name: [column for column in self.columns if column != MEAN and (name, column) not in found]
            for name in backbones
        }
        return [f"{label(name)}: {', '.join(columns)}" for name, columns in lacking.items() if columns]


def make_tables(cells: Sequence[Cell]) -> list[Table]:
    """One table per protocol; means over the paper's datasets where all of them are there."""
    everything = [*cells, *mean_cells(cells)]
    protocols = sorted({cell.protocol for cell in everything}, key=lambda protocol: protocol.place)
    return [_table(protocol, everything) for protocol in protocols]


def cell_text(cell: Cell) -> str:
    """`76.5 ± 0.4 (+8.5) [76.0, +0.5]`."""
    text = plus_minus(cell.value, cell.std)
    text += "" if cell.gain is None else f" ({cell.gain:+.1f})"
    return text + ("" if cell.published is None else f" [{cell.published.value:.1f}, {_difference(cell):+.1f}]")


def label(backbone: str) -> str:
    """The paper's name of a backbone, else its own."""
    return backbone_labels().get(backbone, backbone)


def to_markdown(tables: Sequence[Table]) -> str:
    """All tables under headings that name their protocols."""
    parts = ["# Results", "", LEGEND, ""]
    for table in tables:
        parts += [f"## {table.protocol}", ""]
        parts += ["| " + " | ".join(["backbone", "features", *table.columns]) + " |"]
        parts += ["|" + "---|" * (len(table.columns) + 2)]
        parts += ["| " + " | ".join(line) + " |" for line in _lines(table)]
        parts += ["", *[f"Missing for {gap}." for gap in table.gaps], ""]
    return "\n".join(parts)


def to_latex(tables: Sequence[Table]) -> str:
    """All tables as `tabular`, each under a comment that names its protocol; needs the package booktabs."""
    parts = [f"% {LEGEND}"]
    for table in tables:
        head = " & ".join(["backbone", "features", *table.columns])
        parts += ["", f"% {table.protocol}", rf"\begin{{tabular}}{{ll{'r' * len(table.columns)}}}", r"\toprule"]
        parts += [_escaped(head, keep="&") + r" \\", r"\midrule"]
        parts += [" & ".join(_escaped(text) for text in line) + r" \\" for line in _lines(table)]
        parts += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(parts) + "\n"


def to_csv(cells: Sequence[Cell]) -> str:
    """One line per cell, means included."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for cell in [*cells, *mean_cells(cells)]:
        published = cell.published
        writer.writerow(
            [
                cell.protocol.task,
                cell.protocol.setting,
                cell.protocol.profile,
                cell.protocol.details,
                cell.backbone,
                cell.dataset,
                cell.combination,
                cell.metric,
                _number(cell.value),
                _number(cell.std),
                cell.runs,
                _number(cell.gain),
                "" if published is None else published.value,
                "" if published is None else _number(_difference(cell)),
                "" if published is None else published.table,
                cell.warnings,
            ]
        )
    return buffer.getvalue()


def _table(protocol: Protocol, everything: Sequence[Cell]) -> Table:
    cells = [cell for cell in everything if cell.protocol == protocol]
    rows = sorted(
        {(cell.backbone, cell.combination) for cell in cells}, key=lambda row: (row[0], by_size_and_order(row[1]))
    )
    indexed = {(cell.backbone, cell.combination, cell.dataset): cell for cell in cells}
    return Table(protocol, _columns({cell.dataset for cell in cells}), tuple(rows), indexed)


def _columns(datasets: set[str]) -> tuple[str, ...]:
    """The paper's datasets all together as soon as one of them is there, in its order; others after them."""
    of_the_mean = mean_datasets() if datasets & set(mean_datasets()) else ()
    others = sorted(datasets - set(of_the_mean) - {MEAN})
    return (*of_the_mean, *others, *((MEAN,) if of_the_mean else ()))


def _lines(table: Table) -> list[list[str]]:
    return [
        [label(backbone), combination, *(table.text(backbone, combination, column) for column in table.columns)]
        for backbone, combination in table.rows
    ]


def _difference(cell: Cell) -> float:
    assert cell.published is not None
    return cell.value - cell.published.value


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _escaped(text: str, keep: str = "") -> str:
    for character in "&%#_":
        if character not in keep:
            text = text.replace(character, f"\\{character}")
    return text.replace("±", r"$\pm$")
