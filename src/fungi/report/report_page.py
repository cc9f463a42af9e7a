"""The report as an HTML page: a summary in words, results of `--choose`, sortable tables, figures."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from fungi.errors import counted
from fungi.report import page
from fungi.report.cells import Cell, ResultRecord, metric_of
from fungi.report.choices import EXPLANATION
from fungi.report.gallery import COMBINATIONS
from fungi.report.page import Entry, data_address, document, dot_entry, sortable_table, text_entry
from fungi.report.protocol import protocol_of
from fungi.report.summary import choice_findings, comparison_with_published, findings, headings, in_order_of_tasks
from fungi.report.tables import Table, label
from fungi.report.words import feature_in_words, metric_in_words, protocol_in_words, task_in_words
from fungi.results.choice_table import CHOICE_COLUMNS, choice_rows
from fungi.results.published import MEAN
from fungi.results.text import by_size_and_order
from fungi.store.layout import EMBEDDINGS

STYLE = (
    page.STYLE
    + """
dt { font-weight: 600; margin-top: .75rem; } dd { margin: 0; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.figures img { max-width: 100%; height: auto; background: white; border-radius: 4px; display: block; }
h3 { font-size: 1rem; margin: 1.5rem 0 0; } p.how { margin: 0; opacity: .75; font-size: .9rem; }
"""
)
PIXELS_PER_POINT = 2
"""Pixels of a figure per point of the page, so that figures are sharp on screens with a high resolution."""
ABSENT = Entry("–", kind="number")
_CAUTION = (
    "The best features were selected by their test scores, so these scores are slightly too high. To select features "
    "on the train rows only, use <code>fungi knn --choose</code>."
)
_HOW_TO_READ = (
    "Scores are in percent. A score is followed by its standard deviation over the runs; for a single run, by its "
    "standard error over the scored rows. The next number is the gain (+) or loss (−) over the embeddings alone. It is "
    "grey if it is within noise (p ≥ 0.05 on the scored rows: McNemar's test, or a t-test for several runs). Results "
    "with the published settings also show the published value. In the plot, a dot is the score, a line is the "
    "deviation or error, and the dashed line is the score of the embeddings. The best score is bold; of equal scores, "
    "the score of the fewest features. Click on a column name to sort by this column."
)


def report_page(
    records: Sequence[ResultRecord],
    cells: Sequence[Cell],
    tables: Sequence[Table],
    figures: Sequence[Path],
    missing: Sequence[Path],
) -> str:
    """Return the complete page with its figures.

    records: all results. cells, tables: cells and tables of all results except those of `--choose`. figures: paths of
    the figures. missing: paths of expected results that do not exist.
    """
    ordered = sorted(tables, key=lambda table: in_order_of_tasks(table.protocol))
    sections = [
        _summary(cells, records, missing),
        _choices(records),
        _section("Tables", f"<p>{_HOW_TO_READ}</p>" + _tables(ordered) if tables else ""),
        _section("Figures", _figures(figures, tables)),
    ]
    return document("Results", "\n".join(filter(None, sections)), style=STYLE, script=page.SCRIPT)


def _section(title: str, body: str) -> str:
    """Return a section with a heading; empty if the body is empty."""
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _summary(cells: Sequence[Cell], records: Sequence[ResultRecord], missing: Sequence[Path]) -> str:
    """Return the statements of the summary, the comparison with the paper, warnings, and missing results."""
    statements = [*findings(cells), *choice_findings(records)]
    items = "".join(f"<dt>{escape(finding.title)}</dt><dd>{escape(finding.text)}</dd>" for finding in statements)
    warnings = dict.fromkeys(text for record in records for text in record.content.get("warnings", []))
    notes = [escape(comparison_with_published(cells)), _CAUTION if items else ""]
    notes += [f"<b>Warning</b>: {_unbroken_flags(escape(text))}" for text in warnings]
    notes += [f"<b>Missing</b>: {escape(str(path))}" for path in missing]
    return f"<dl>{items}</dl>" + "".join(f"<p>{note}</p>" for note in notes if note)


def _choices(records: Iterable[ResultRecord]) -> str:
    """Return the section with a table for each result of `--choose`; empty if there are no such results."""
    parts = []
    for record in records:
        if record.has_choice:
            settings = record.content["settings"]
            choices = choice_rows(record.content, metric_of(record.content), feature_in_words)
            rows = [list(map(text_entry, row)) for row in choices]
            title = f"{settings['dataset']}, {label(settings['backbone'])}"
            protocol = protocol_of(record.content).without("choose")
            task, details = (
                task_in_words(protocol.task, protocol.setting),
                protocol_in_words(protocol.profile, protocol.details),
            )
            heading = f"<h3>{escape(title)}</h3><p class='how'>{escape(f'{task}, {details}')}</p>"
            parts.append(heading + sortable_table(CHOICE_COLUMNS, rows))
    explanation = f"<p>{escape(EXPLANATION.replace('`', ''))}</p>"
    return _section("Choices on the train rows", explanation + "".join(parts)) if parts else ""


def _tables(tables: Sequence[Table]) -> str:
    titles = headings(table.protocol for table in tables)
    return "".join(_table(table, titles[table.protocol]) for table in tables)


def _table(table: Table, heading: str) -> str:
    """Return a table with its heading, the details of its protocol, and the datasets without results."""
    protocol = table.shown_protocol
    details = protocol_in_words(protocol.profile, protocol.details)
    columns = _columns_with_cells(table)
    if len(columns) == 1 and (rows := table.rows_of(columns[0])) is not None:
        details = f"{rows} scored rows, {details}"
    body = _table_of_one_dataset(table) if len(columns) == 1 else _table_of_datasets(table)
    gaps = "".join(f"<p class='how'>Missing for {escape(gap)}.</p>" for gap in table.gaps)
    title = ", ".join([heading, *_common_names(table)])
    return f"<h3>{escape(title)}</h3><p class='how'>{escape(details)}</p>{body}{gaps}"


def _common_names(table: Table) -> list[str]:
    """Return the dataset if the table has only one dataset, and the backbone if it has only one backbone."""
    columns, backbones = _columns_with_cells(table), {backbone for backbone, _ in table.rows}
    return [*(columns if len(columns) == 1 else ()), *(map(label, backbones) if len(backbones) == 1 else ())]


def _table_of_one_dataset(table: Table) -> str:
    """Return the HTML table of a single dataset, with columns for score, gain, published value and plot."""
    (column,) = _columns_with_cells(table)
    lines = [(backbone, name, table.cells[backbone, name, column]) for backbone, name in table.rows]
    cells = [cell for _, _, cell in lines]
    edges = [cell.value + sign * _spread(cell) for cell in cells for sign in (-1, 1)]
    margin = 0.08 * (max(edges) - min(edges)) + 0.5
    largest = max(*edges, 100.0)  # the plot ends at 100 %, or at an error bar beyond 100 %
    span = (min(edges) - margin, min(max(edges) + margin, largest))
    has_several_backbones = len({backbone for backbone, _ in table.rows}) > 1
    has_published = any(cell.published for cell in cells)
    columns = [
        *(["Backbone"] if has_several_backbones else []),
        "Features",
        metric_in_words(cells[0].metric).capitalize(),
    ]
    columns += ["Gain", *(["Published"] if has_published else []), f"{span[0]:.0f} to {span[1]:.0f} %"]
    rows, best = [], _best_of(cells)
    for backbone, name, cell in lines:
        baseline = table.cells.get((backbone, EMBEDDINGS, column))
        row = [text_entry(label(backbone))] if has_several_backbones else []
        row += [text_entry(feature_in_words(name)), _score(cell, best), _gain(cell)]
        if has_published:
            published = cell.published
            row.append(Entry(f"{published.value:.1f}", published.value, "number") if published else ABSENT)
        rows.append([*row, dot_entry(cell.value, _spread(cell), baseline.value if baseline else None, span)])
    return sortable_table(columns, rows)


def _table_of_datasets(table: Table) -> str:
    """Return the HTML table of several datasets: a column per dataset, with score, gain and published value."""
    best_cells = {
        column: _best_of([cell for (_, _, dataset), cell in table.cells.items() if dataset == column])
        # The mean comes first, because the reader may have to scroll to the other columns.
        for column in sorted(_columns_with_cells(table), key=lambda column: column != MEAN)
    }
    rows = []
    for backbone, name in table.rows:
        row = [Entry(escape(text), text, "name") for text in (label(backbone), feature_in_words(name))]
        for column, best in best_cells.items():
            cell = table.cells.get((backbone, name, column))
            row.append(_score_and_gain(cell, best) if cell else ABSENT)
        rows.append(row)
    return sortable_table(["Backbone", "Features", *(_column_title(table, column) for column in best_cells)], rows)


def _columns_with_cells(table: Table) -> list[str]:
    """Return the columns with at least one cell. Missing datasets are listed below the table."""
    with_cells = {column for _, _, column in table.cells}
    return [column for column in table.columns if column in with_cells]


def _unbroken_flags(text: str) -> str:
    """Return HTML in which no line ends within a flag (`--choose`)."""
    return re.sub(r"--[a-z-]+(?: \d+)?", r"<code style='white-space: nowrap'>\g<0></code>", text)


def _column_title(table: Table, column: str) -> str:
    """Return the dataset with its number of scored rows."""
    rows = table.rows_of(column)
    title = "Mean" if column == MEAN else column
    return title if rows is None else f"{title} ({counted(rows, 'row')})"


def _spread(cell: Cell) -> float:
    """Return the deviation over the runs, or the standard error of a single run; 0 if neither is known."""
    known = [spread for spread in (cell.std, cell.error) if spread is not None]
    return known[0] if known else 0.0


def _best_of(cells: Sequence[Cell]) -> Cell | None:
    """Return the best cell, or None if all scores are equal.

    If several cells are best, return the cell with the fewest features.
    """
    highest = max(cell.value for cell in cells)
    if highest == min(cell.value for cell in cells):
        return None
    return min((cell for cell in cells if cell.value == highest), key=lambda cell: by_size_and_order(cell.combination))


def _score(cell: Cell, best: Cell | None) -> Entry:
    """Return the score and its spread; the best score is bold."""
    kind = "best" if cell is best else ""
    has_spread = cell.std is not None or cell.error is not None
    spread = f"<small>± {_spread(cell):.1f}</small>" if has_spread else ""
    return Entry(f"<span class='{kind}'>{cell.value:.1f}</span>{spread}", cell.value, "number")


def _gain(cell: Cell) -> Entry:
    """Return the gain in the colour of its direction, or in grey if it is within noise; empty without a gain."""
    if cell.gain is None:
        return Entry("", kind="number")
    direction = "more" if cell.gain >= 0 else "less"
    kind = "noise" if cell.within_noise else direction
    return Entry(f"<span class='{kind}'>{f'{cell.gain:+.1f}'.replace('-', '−')}</span>", cell.gain, "number")


def _score_and_gain(cell: Cell, best: Cell | None) -> Entry:
    """Return the score with its gain, and the published value on a second line."""
    score, gain = _score(cell, best), _gain(cell)
    below = f"<br><small>published {cell.published.value:.1f}</small>" if cell.published else ""
    return Entry(f"{score.html} {gain.html}{below}", cell.value, "number")


def _figures(figures: Sequence[Path], tables: Sequence[Table]) -> str:
    """Return the HTML of the figures.

    The table of a single dataset contains a plot of all combinations. If all tables are of this kind, the figures of
    combinations are omitted.
    """
    tables_have_plots = all(len(_columns_with_cells(table)) == 1 for table in tables)
    parts = []
    for path in figures:
        if not (tables_have_plots and path.name.startswith(COMBINATIONS)):
            content = path.read_bytes()
            # The header of a PNG file stores the width in pixels in these four bytes.
            width = int.from_bytes(content[16:20], "big") // PIXELS_PER_POINT
            address = data_address(content, "image/png")
            parts.append(
                f"<figure><img alt='{escape(path.stem, quote=True)}' width='{width}' src='{address}'></figure>"
            )
    return f"<div class='figures'>{''.join(dict.fromkeys(parts))}</div>" if parts else ""
