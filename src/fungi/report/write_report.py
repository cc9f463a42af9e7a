"""Result files -> tables beside the published numbers, and plots."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fungi.errors import FungiError
from fungi.runtime.files import written_whole
from fungi.settings import setting

DESCRIPTION = """The paper's tables and plots from result files, with the published values beside them.

  python scripts/report.py --results features
  python scripts/report.py --results features other/results/knn/pets/vit-b16.json --formats markdown csv
"""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Flags of `scripts/report.py`."""

    results: tuple[Path, ...] = setting((Path("features"),), "folders that hold result files, or the files themselves")
    output: Path = setting(Path("report"), "folder of the report")
    formats: tuple[Literal["markdown", "csv", "latex", "png"], ...] = setting(
        ("markdown", "csv", "latex", "png"), "what to write"
    )
    expect: tuple[Path, ...] = setting((), "result files that the report is to hold; it says which are missing")

    def __post_init__(self) -> None:
        for place in self.results:
            if not place.exists():
                raise FungiError(f"--results {place} is not there.")


def run(settings: ReportSettings) -> list[Path]:
    """Write the report; the files written."""
    from fungi.report.cells import cells_of, distinct, read_results
    from fungi.report.choice_table import choices
    from fungi.report.gallery import draw_all
    from fungi.report.segmentation_cells import segmentation_cells
    from fungi.report.tables import make_tables, to_csv, to_latex, to_markdown

    try:
        records = read_results(settings.results, put_aside=True)
    except FungiError as error:
        if missing := _missing(settings):
            raise FungiError(f"{error}\n{missing}") from None
        raise
    cells = distinct([cell for record in records for cell in (*cells_of(record), *segmentation_cells(record))])
    tables = make_tables(cells)
    settings.output.mkdir(parents=True, exist_ok=True)
    figures = draw_all(settings.output / "figures", records, cells, tables) if "png" in settings.formats else []
    texts = {
        "markdown": (
            "report.md",
            lambda: to_markdown(tables) + choices(records) + _missing(settings) + _embedded(figures, settings.output),
        ),
        "csv": ("report.csv", lambda: to_csv(cells)),
        "latex": ("report.tex", lambda: to_latex(tables)),
    }
    written = []
    for name in settings.formats:
        if name in texts:
            path = settings.output / texts[name][0]
            with written_whole(path) as temporary:
                temporary.write_text(texts[name][1]())
            written.append(path)
    return written + figures


def _missing(settings: ReportSettings) -> str:
    """A list of the results that should be there and are not: their evaluations failed, or did not run."""
    absent = [path for path in settings.expect if not path.exists()]
    return "\n".join(["# Missing", "", *(f"- {path}" for path in absent), ""]) if absent else ""


def _embedded(figures: list[Path], output: Path) -> str:
    if not figures:
        return ""
    lines = [f"![{path.stem}]({path.relative_to(output)})" for path in figures]
    return "\n".join(["# Figures", "", *lines, ""])


def show(settings: ReportSettings, written: list[Path]) -> None:
    """Say what was written."""
    for path in written:
        print(f"wrote {path}")
    if absent := _missing(settings):
        print(absent)
