"""`fungi report`: write results and published values as a page, as tables and as figures."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fungi.errors import FungiError
from fungi.runtime.files import write_text_atomically
from fungi.runtime.owner import remove_orphans
from fungi.settings import require_values, setting

if TYPE_CHECKING:
    from fungi.report.cells import Cell, ResultRecord
    from fungi.report.tables import Table

DESCRIPTION = """Write results and published values as tables and figures. report.html is a page with a summary,
sortable tables and figures. The other formats are for papers and for other programs.

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
        Path("data"), "folder of the datasets, for class names that a result does not contain", topic="data"
    )
    expect: tuple[Path, ...] = setting(
        (), "expected result files; the report lists those that do not exist", topic="files"
    )

    def __post_init__(self) -> None:
        require_values(self, "results", "formats")
        for place in self.results:
            if not place.exists():
                raise FungiError(
                    f"--results {place} does not exist. Name result files, or a folder that contains them, such as the"
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
        """Return result files with their cells and tables."""
        from fungi.report.cells import cells_of, without_duplicates
        from fungi.report.tables import make_tables

        cells = without_duplicates([cell for record in records for cell in cells_of(record)])
        return cls(records, cells, make_tables(cells))


def run(settings: ReportSettings) -> list[Path]:
    """Write the report; return the paths of its files."""
    from fungi.report.gallery import draw_all, figures_of

    all_results = _Results.from_records(_read(settings))
    records = [record for record in all_results.records if not record.uses_choose]
    has_choices = len(records) < len(all_results.records)
    without_choices = _Results.from_records(records) if has_choices else all_results
    settings.output.mkdir(parents=True, exist_ok=True)
    with _folder_of_figures(settings) as folder:
        for output_folder in (settings.output, folder):
            remove_orphans(output_folder)
        figures: list[Path] = []
        if {"png", "html"} & set(settings.formats):
            possible_figures = figures_of(
                folder, without_choices.records, without_choices.cells, without_choices.tables, settings.data_dir
            )
            figures = draw_all(possible_figures, settings.figures)
        texts = _texts(settings, all_results, without_choices, figures)
        paths = []
        for name in settings.formats:
            if name in texts:
                file, text = texts[name]
                write_text_atomically(settings.output / file, text())
                paths.append(settings.output / file)
    return paths + (figures if "png" in settings.formats else [])


def _texts(
    settings: ReportSettings, all_results: _Results, without_choices: _Results, figures: list[Path]
) -> dict[str, tuple[str, Callable[[], str]]]:
    """Return for each format the name of its file, and a function that returns the text of the file.

    without_choices: all results except those of `--choose`.
    """
    from fungi.report.choices import choices
    from fungi.report.report_page import report_page
    from fungi.report.tables import to_csv, to_latex, to_markdown

    cells, tables, records = all_results.cells, all_results.tables, all_results.records
    figure_files = figures if "png" in settings.formats else []
    links = [f"![{path.stem}]({path.relative_to(settings.output)})" for path in figure_files]
    figure_section = ["# Figures", "", *links, ""] if figure_files else []
    return {
        "html": (
            "report.html",
            lambda: report_page(
                records, without_choices.cells, without_choices.tables, figures, _missing_paths(settings)
            ),
        ),
        "markdown": (
            "report.md",
            lambda: to_markdown(tables) + choices(records) + _missing(settings) + "\n".join(figure_section),
        ),
        "csv": ("report.csv", lambda: to_csv(cells)),
        "latex": ("report.tex", lambda: to_latex(tables)),
    }


def _read(settings: ReportSettings) -> "list[ResultRecord]":
    """Return all results. If there are none, the error also lists the expected results that do not exist."""
    from fungi.report.cells import read_results

    try:
        return read_results(settings.results, include_previous=True)
    except FungiError as error:
        if missing := _missing(settings):
            raise FungiError(f"{error}\n{missing}") from None
        raise


@contextmanager
def _folder_of_figures(settings: ReportSettings) -> Iterator[Path]:
    """Yield the folder of the figures. If the figures are only embedded in the page, the folder is temporary."""
    if "png" in settings.formats:
        yield settings.output / "figures"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _missing(settings: ReportSettings) -> str:
    """Return the markdown section of the expected result files that do not exist; empty if all of them exist."""
    paths = _missing_paths(settings)
    return "\n".join(["# Missing", "", *(f"- {path}" for path in paths), ""]) if paths else ""


def _missing_paths(settings: ReportSettings) -> list[Path]:
    """Return the expected result files that do not exist."""
    return [path for path in settings.expect if not path.exists()]


def show(settings: ReportSettings, paths: list[Path]) -> None:
    """Print the paths of the files of the report, and the list of missing results."""
    for path in paths:
        print(f"wrote {path}")
    if missing := _missing(settings):
        print(missing)
