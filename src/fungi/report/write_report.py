"""Result files -> tables beside the published numbers, and plots: as a page, and in the forms of papers."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fungi.errors import FungiError
from fungi.runtime.files import write_whole
from fungi.runtime.owner import remove_orphans
from fungi.settings import setting

if TYPE_CHECKING:
    from fungi.report.cells import Cell, ResultRecord
    from fungi.report.tables import Table

DESCRIPTION = """Tables and plots of result files, with the published values beside them: report.html is one page
that says what came out, with tables that sort at a click; the others are for papers and other programs.

  fungi report --results features
  fungi report --results features other/results/knn/pets/vit-b16.json --formats markdown csv
"""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Flags of `fungi report`."""

    results: tuple[Path, ...] = setting((Path("features"),), "folders that hold result files, or the files themselves")
    output: Path = setting(Path("report"), "folder of the report")
    formats: tuple[Literal["html", "markdown", "csv", "latex", "png"], ...] = setting(
        ("html", "markdown", "csv", "latex", "png"), "what to write"
    )
    figures: int = setting(
        40, "number of figures to draw at most; those that sum up many results come first", within=(0, 100_000)
    )
    data_dir: Path = setting(Path("data"), "folder of the datasets, for names of classes that results do not hold")
    expect: tuple[Path, ...] = setting((), "result files that the report is to hold; it says which are missing")

    def __post_init__(self) -> None:
        for place in self.results:
            if not place.exists():
                raise FungiError(f"--results {place} is not there.")


@dataclass(frozen=True)
class _Results:
    """Result files, their numbers, and the tables of those."""

    records: "Sequence[ResultRecord]"
    cells: "Sequence[Cell]"
    tables: "Sequence[Table]"

    @classmethod
    def of(cls, records: "Sequence[ResultRecord]") -> "_Results":
        """Everything that result files hold."""
        from fungi.report.cells import cells_of, distinct
        from fungi.report.tables import make_tables

        cells = distinct([cell for record in records for cell in cells_of(record)])
        return cls(records, cells, make_tables(cells))


def run(settings: ReportSettings) -> list[Path]:
    """Write the report; the files written."""
    from fungi.report.gallery import draw_all, figures_of

    everything = _Results.of(_read(settings))
    unchosen = [record for record in everything.records if not record.chosen]
    fixed = everything if len(unchosen) == len(everything.records) else _Results.of(unchosen)
    settings.output.mkdir(parents=True, exist_ok=True)
    with _folder_of_figures(settings) as folder:
        for place in (settings.output, folder):
            remove_orphans(place)  # of what killed reports left
        figures: list[Path] = []
        if {"png", "html"} & set(settings.formats):
            fillable = figures_of(folder, fixed.records, fixed.cells, fixed.tables, settings.data_dir)
            figures = draw_all(fillable, settings.figures)
        texts = _texts(settings, everything, fixed, figures)
        written = []
        for name in settings.formats:
            if name in texts:
                file, text = texts[name]
                write_whole(settings.output / file, text())
                written.append(settings.output / file)
    return written + (figures if "png" in settings.formats else [])


def _texts(
    settings: ReportSettings, everything: _Results, fixed: _Results, figures: list[Path]
) -> dict[str, tuple[str, Callable[[], str]]]:
    """Format -> name of its file, and what makes its text."""
    from fungi.report.choices import choices
    from fungi.report.report_page import report_page
    from fungi.report.tables import to_csv, to_latex, to_markdown

    cells, tables, records = everything.cells, everything.tables, everything.records
    kept = figures if "png" in settings.formats else []
    embedded = [f"![{path.stem}]({path.relative_to(settings.output)})" for path in kept]
    embedded = ["# Figures", "", *embedded, ""] if kept else []
    return {
        "html": ("report.html", lambda: report_page(records, fixed.cells, fixed.tables, figures, _absent(settings))),
        "markdown": (
            "report.md",
            lambda: to_markdown(tables) + choices(records) + _missing(settings) + "\n".join(embedded),
        ),
        "csv": ("report.csv", lambda: to_csv(cells)),
        "latex": ("report.tex", lambda: to_latex(tables)),
    }


def _read(settings: ReportSettings) -> "list[ResultRecord]":
    from fungi.report.cells import read_results

    try:
        return read_results(settings.results, put_aside=True)
    except FungiError as error:
        if missing := _missing(settings):
            raise FungiError(f"{error}\n{missing}") from None
        raise


@contextmanager
def _folder_of_figures(settings: ReportSettings) -> Iterator[Path]:
    """Where figures are kept; one that goes again where only the page holds them."""
    if "png" in settings.formats:
        yield settings.output / "figures"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _missing(settings: ReportSettings) -> str:
    absent = _absent(settings)
    return "\n".join(["# Missing", "", *(f"- {path}" for path in absent), ""]) if absent else ""


def _absent(settings: ReportSettings) -> list[Path]:
    """Results that should be there and are not: their evaluations failed, or did not run."""
    return [path for path in settings.expect if not path.exists()]


def show(settings: ReportSettings, written: list[Path]) -> None:
    """Say what was written."""
    for path in written:
        print(f"wrote {path}")
    if absent := _missing(settings):
        print(absent)
