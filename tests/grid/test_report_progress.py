"""`fungi status` shows a report as done only if it includes all results."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from fungi.grid.declaration import Grid
from fungi.grid.elements import Element, GridCall
from fungi.grid.records import Attempt, Records
from tests.grid.blocks_of_grid import status

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def grid_with_report(grid: Grid, tmp_path: Path) -> tuple[Grid, Path]:
    """Return a grid with a result and a newer report, and the path of the result."""
    settings = COMMANDS["knn"].parse(["--root", str(tmp_path)])
    (result,) = settings.outputs()
    result.parent.mkdir(parents=True)
    content = {"settings": settings.identity(), "provenance": {}, "results": {}, "complete": True}
    result.write_text(json.dumps(content, default=str))
    os.utime(result, (1000, 1000))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.md").write_text("# Results\n")
    Records(grid.root, GridCall("report")).write(Element(), Attempt(state="ended", status=0, started=2000.0))
    return replace(grid, splits=()), result


def report_state(grid: Grid, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output of `fungi status` from the line of the report on."""
    output = status(capsys, "--root", str(grid.root), "--jobs", "concat", "report")
    return output[output.index("report ") :]


def test_a_report_that_is_newer_than_all_results_is_done(grid_with_report, capsys: pytest.CaptureFixture[str]) -> None:
    assert "done 1/1" in report_state(grid_with_report[0], capsys)


def test_a_report_that_is_older_than_a_result_is_not_done(grid_with_report, capsys: pytest.CaptureFixture[str]) -> None:
    grid, result = grid_with_report
    os.utime(result, (3000, 3000))
    assert "1 result newer than the report" in report_state(grid, capsys)


def test_a_report_that_lists_an_existing_result_as_missing_is_not_done(
    grid_with_report, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time of the file does not help here, because a copied result keeps its old time."""
    grid, result = grid_with_report
    (grid.root / "report" / "report.md").write_text(f"# Missing\n\n- {result}\n")
    assert "does not contain 1 new result" in report_state(grid, capsys)


def test_a_report_without_files_is_not_done(grid_with_report, capsys: pytest.CaptureFixture[str]) -> None:
    grid, _ = grid_with_report
    (grid.root / "report" / "report.md").unlink()
    assert "missing 1" in report_state(grid, capsys)
