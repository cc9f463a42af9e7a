"""Print the mean of the scores over the five folds of ESC-50.

    python scripts/average_folds.py --root features --backbone patch-ssast
    python scripts/average_folds.py --root features --backbone patch-ssast --task knn-5shot

Extract and evaluate esc-50 and esc-50-fold2 to esc-50-fold5 first. The published scores are those of fold 1 only.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fungi.errors import FungiError, MissingFilesError
from fungi.report.cells import ResultRecord, cells_of
from fungi.results.result_file import read_result, summary_of_runs
from fungi.results.text import print_gain_table
from fungi.runtime.command import run_command
from fungi.settings import setting
from fungi.store.layout import Layout

DATASETS = ("esc-50", *(f"esc-50-fold{fold}" for fold in range(2, 6)))


@dataclass(frozen=True, kw_only=True)
class FoldSettings:
    """Settings of `average_folds.py`: the results to average."""

    root: Path = setting(Path("features"), "folder of the feature files")
    backbone: str = setting("patch-ssast", "backbone that was evaluated")
    task: str = setting("knn", "evaluation, such as knn or knn-5shot")


def average(settings: FoldSettings) -> None:
    """Print the table of the mean scores. Raises MissingFilesError if a fold was not evaluated."""
    paths = [Layout(settings.root).results(settings.task, name, settings.backbone) for name in DATASETS]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise MissingFilesError(f"there is no {', '.join(missing)}. Evaluate these folds first.")
    records = [ResultRecord(path, read_result(path)) for path in paths]
    _require_one_protocol(records)
    runs = [record.content["results"] for record in records]
    print_gain_table({f"{settings.task}, five folds": {"results": summary_of_runs(runs), "runs": runs}})


def _require_one_protocol(records: Sequence[ResultRecord]) -> None:
    """Raise FungiError if the protocol of a fold differs from the protocol of the first fold."""
    protocols_by_path = [(record.path, {str(cell.protocol) for cell in cells_of(record)}) for record in records]
    (first_path, first_protocols), *other_folds = protocols_by_path
    for path, protocols in other_folds:
        if protocols != first_protocols:
            differences = "; ".join(sorted(protocols ^ first_protocols))
            raise FungiError(
                f"{first_path} and {path} were computed in different ways ({differences}), so their mean has no "
                "meaning. Extract and evaluate all folds with the same settings."
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(
        FoldSettings, average, program="average_folds.py", description=__doc__ or "", arguments=arguments
    )


if __name__ == "__main__":
    sys.exit(main())
