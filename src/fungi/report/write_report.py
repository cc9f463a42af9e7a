"""`fungi report`: write tables and figures of results, with the published values, as a page and for papers."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fungi.errors import FungiError
from fungi.runtime.files import write_text_atomically
from fungi.runtime.owner import remove_orphans
from fungi.settings import setting

if TYPE_CHECKING:
    from fungi.report.cells import Cell, ResultRecord
    from fungi.report.tables import Table

DESCRIPTION = """Write tables and figures of results, with the published values. report.html is a page with a summary,
sortable tables and figures. The other formats are for papers and other programs.

  fungi report --results features
  fungi report --results features other/results/knn/pets/vit-b16.json --formats markdown csv
"""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Flags of `fungi report`."""

    results: tuple[Path, ...] = setting(
        (Path("features"),), "result files, or folders that contain them", aliases=("--root",)
    )
    output: Path = setting(
        Path("report"), "folder of the report", flag="--output-dir", aliases=("--output",), topic="files"
    )
    formats: tuple[Literal["html", "markdown", "csv", "latex", "png"], ...] = setting(
        ("html", "markdown", "csv", "latex", "png"), "formats to write"
    )
    figures: int = setting(
        40, "largest number of figures; figures that summarise many results are drawn first", within=(0, 100_000)
    )
    data_dir: Path = setting(
        Path("data"), "folder of the datasets, used if a result does not contain class names", topic="data"
    )
    expect: tuple[Path, ...] = setting(
        (), "result files that have to exist; the report lists the missing ones", topic="files"
    )

    def __post_init__(self) -> None:
        for place in self.results:
            if not place.exists():
                raise FungiError(
                    f"--results {place} does not exist. Name result files, or a folder that contains some, such as the"
                    " --root of the evaluation."
                )


@dataclass(frozen=True)
class _Results:
    """Result files, their cells, and the tables of the cells."""

    records: "Sequence[ResultRecord]"
    cells: "Sequence[Cell]"
    tables: "Sequence[Table]"

    @classmethod
    def from_records(cls, records: "Sequence[ResultRecord]") -> "_Results":
        """Return the cells and tables of some result files."""
        from fungi.report.cells import cells_of, distinct
        from fungi.report.tables import make_tables

        cells = distinct([cell for record in records for cell in cells_of(record)])
        return cls(records, cells, make_tables(cells))


def run(settings: ReportSettings) -> list[Path]:
    """Write the report; return the paths of its files."""
    from fungi.report.gallery import draw_all, figures_of

    everything = _Results.from_records(_read(settings))
    with_fixed_settings = [record for record in everything.records if not record.chosen]
    all_fixed = len(with_fixed_settings) == len(everything.records)
    fixed = everything if all_fixed else _Results.from_records(with_fixed_settings)
    settings.output.mkdir(parents=True, exist_ok=True)
    with _folder_of_figures(settings) as folder:
        for place in (settings.output, folder):
            remove_orphans(place)  # files of reports that were killed
        figures: list[Path] = []
        if {"png", "html"} & set(settings.formats):
            fillable = figures_of(folder, fixed.records, fixed.cells, fixed.tables, settings.data_dir)
            figures = draw_all(fillable, settings.figures)
        texts = _texts(settings, everything, fixed, figures)
        written = []
        for name in settings.formats:
            if name in texts:
                file, text = texts[name]
                write_text_atomically(settings.output / file, text())
                written.append(settings.output / file)
    return written + (figures if "png" in settings.formats else [])


def _texts(
    settings: ReportSettings, everything: _Results, fixed: _Results, figures: list[Path]
) -> dict[str, tuple[str, Callable[[], str]]]:
    """Return format -> (name of its file, function that returns its text).

    everything: all results; fixed: all results except those of `--choose`.
    """
    from fungi.report.choices import choices
    from fungi.report.report_page import report_page
    from fungi.report.tables import to_csv, to_latex, to_markdown

    cells, tables, records = everything.cells, everything.tables, everything.records
    figure_files = figures if "png" in settings.formats else []
    embedded = [f"![{path.stem}]({path.relative_to(settings.output)})" for path in figure_files]
    embedded = ["# Figures", "", *embedded, ""] if figure_files else []
    return {
        "html": (
            "report.html",
            lambda: report_page(records, fixed.cells, fixed.tables, figures, _missing_paths(settings)),
        ),
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
    """Yield the folder of the figures; a temporary folder if the figures are only embedded in the page."""
    if "png" in settings.formats:
        yield settings.output / "figures"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _missing(settings: ReportSettings) -> str:
    paths = _missing_paths(settings)
    return "\n".join(["# Missing", "", *(f"- {path}" for path in paths), ""]) if paths else ""


def _missing_paths(settings: ReportSettings) -> list[Path]:
    """Return the expected result files that do not exist."""
    return [path for path in settings.expect if not path.exists()]


def show(settings: ReportSettings, written: list[Path]) -> None:
    """Print the paths of the written files and the list of missing results."""
    for path in written:
        print(f"wrote {path}")
    if missing := _missing(settings):
        print(missing)
