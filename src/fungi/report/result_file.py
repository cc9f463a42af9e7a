"""The result file of an evaluation: what was run, on which files, and the scores, saved after each combination.

    {"task": "knn", "settings": {...}, "provenance": {...}, "warnings": [...], "test_targets": [...],
     "complete": true,
     "results": {"embeddings+kl": {"accuracy": ..., "mean-per-class-accuracy": ..., "predictions": [...]}, ...}}

`complete` is true once everything that was asked for is there. With several runs (extraction seeds, few-shot draws),
`results` holds means and population standard deviations (`accuracy`, `accuracy-std`), and `runs` what each run gave.
"""

import glob
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from fungi.errors import FungiError
from fungi.report.original_results import from_original, is_original
from fungi.runtime.files import locked, write_whole
from fungi.runtime.log import logger
from fungi.runtime.owner import remove_orphans
from fungi.store.code_version import CodeVersion, difference, evaluation_version

Scores = dict[str, Any]
SCHEMA_VERSION = 1
PUT_ASIDE = ".previous-"
ABLATION = "ablation"
"""Task of the tables of `fungi ablate`: cells in place of results."""
_PLACES = ("file", "settings", "weights_source", "modified_ns", "commit", "fungi")
"""Entries of a provenance that say where something was, or which commit it came from: not what is in it."""


@dataclass
class Run:
    """One pass of an evaluation over its combinations: one extraction (root) and one few-shot draw."""

    label: dict[str, Any]
    features: dict[str, Any]
    results: dict[str, Scores] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class ResultFile:
    """A result file in the making.

    Opening one whose settings and input files are the same goes on from what is there. A file of other settings at the
    same path is put aside as `<name>.previous-1.json`, `-2`, ..., so that nothing computed is lost;
    reports read it as long as its features are others.

    task: `knn`, `linear`, ...; settings: all that decides what it holds; runs: what to evaluate, in order; unusual:
    the settings that decide scores and are not the usual ones, for the headings of tables.
    """

    def __init__(
        self,
        path: Path,
        task: str,
        settings: Mapping[str, Any],
        runs: list[Run],
        unusual: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.task = task
        self.settings = _plain(settings)
        self.runs = runs
        self.unusual = None if unusual is None else _plain(unusual)
        self.test_targets: list[int] = []
        self.complete = False
        self._resume()

    def add(self, run: Run, combination: str, scores: Scores) -> None:
        """Record the scores of a combination, and save."""
        run.results[combination] = _plain(scores)
        self.complete = False
        self.save()

    def finish(self) -> None:
        """Record that nothing is left to do."""
        if not self.complete:
            self.complete = True
            self.save()

    def content(self) -> dict[str, Any]:
        """All of it, as it is written."""
        content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "task": self.task,
            "settings": self.settings,
            **({} if self.unusual is None else {"unusual": self.unusual}),
            "provenance": {"features": [run.features for run in self.runs], **asdict(evaluation_version())},
            "warnings": list(dict.fromkeys(text for run in self.runs for text in run.warnings)),
            "test_targets": self.test_targets,
            "complete": self.complete,
        }
        if len(self.runs) == 1:
            return content | {"results": self.runs[0].results}
        runs = [{**run.label, "results": run.results, "warnings": run.warnings} for run in self.runs]
        return content | {"results": summary_of_runs([run.results for run in self.runs]), "runs": runs}

    def save(self) -> None:
        """Write as a whole, with what another evaluation of the same settings and files wrote meanwhile."""
        with locked(self.path):
            self._take_in_what_is_there()
            write_whole(self.path, json.dumps(self.content()) + "\n")

    def _resume(self) -> None:
        remove_orphans(self.path.parent)
        if not self.path.exists():
            return
        if self.path.is_dir() or self.path.suffix != ".json":  # not ours to put aside
            what = "a folder" if self.path.is_dir() else "no JSON file"
            raise FungiError(f"{self.path} is there, and {what}. Choose another --output, ending in .json.")
        with locked(self.path):
            kept = self._take_in_what_is_there()
        if kept:
            done = sum(len(run.results) for run in self.runs)
            logger.info("%s holds %d finished results of these settings and files: they are kept", self.path, done)

    def _take_in_what_is_there(self) -> bool:
        """Add what the file holds of the same settings and files; put another file aside. Whether there was any.

        Where features change back to what they were, the file that was put aside for others has its place again.
        """
        if not self.path.exists():
            return False
        found = self._same(self.path)
        if found is None:
            aside = sorted(self.path.parent.glob(f"{glob.escape(self.path.stem)}{PUT_ASIDE}*.json"))
            earlier = [(path, self._same(path)) for path in aside]
            names = (self.path.with_suffix(f"{PUT_ASIDE}{number}.json") for number in count(1))
            self.path.replace(next(name for name in names if not name.exists()))
            logger.info("%s held results of other settings, input files or versions: put aside", self.path)
            back, found = next((entry for entry in earlier if entry[1] is not None), (self.path, None))
            if found is None:
                return False
            back.replace(self.path)
        results = found.get("runs") or [{"results": found["results"], "warnings": found.get("warnings", [])}]
        for run, entry in zip(self.runs, results, strict=True):
            run.results = {**entry["results"], **run.results}
            run.warnings = list(dict.fromkeys([*entry["warnings"], *run.warnings]))
        self.test_targets = self.test_targets or found.get("test_targets", [])
        self.complete = self.complete or bool(found.get("complete"))
        return True

    def _same(self, path: Path) -> dict[str, Any] | None:
        """The content of a file, if it is of the same settings, input files and version of the program.

        Settings that a file of an earlier version does not know had what is the usual value now.
        """
        try:
            found = read_result(path)
            settings, unusual = found["settings"], self.settings if self.unusual is None else self.unusual
            same = (
                all(
                    settings[name] == value if name in settings else name not in unusual
                    for name, value in self.settings.items()
                )
                and origins(found["provenance"]["features"]) == origins([_plain(run.features) for run in self.runs])
                and not difference(CodeVersion.from_record(found["provenance"]), evaluation_version())
                and len(found.get("runs") or [found["results"]]) == len(self.runs)
            )
        except (FungiError, KeyError, TypeError, AttributeError):
            return None
        return found if same else None


def origins(features: Any) -> Any:
    """What decides the content of feature files, from the provenance of a result: their places are left out, and how
    the settings that made them were spelled."""
    if isinstance(features, list):
        return [origins(entry) for entry in features]
    if not isinstance(features, dict):
        return features
    return {name: origins(value) for name, value in features.items() if name not in _PLACES}


def read_result(path: Path) -> dict[str, Any]:
    """A result file as plain data, the original harness's in our form; FungiError where it is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FungiError(
            f"{path} is no readable result file ({error}). Delete it and run the evaluation again."
        ) from None
    if is_original(found):
        return from_original(path, found)
    if _is_ablation(found):
        found = {"task": ABLATION, "provenance": {"features": []}, "results": {}, **found}
    parts = {"results": dict, "settings": dict, "provenance": dict}
    for name, kind in parts.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise FungiError(f"{path} is no result file: it has no entry {name!r}, or it is of another form.")
    return found


def _is_ablation(found: Any) -> bool:
    """Whether this is a table of `fungi ablate`."""
    cells = found.get("cells") if isinstance(found, dict) and "title" in found else None
    whole = {"row", "column", "values"}
    return isinstance(cells, list) and all(isinstance(cell, dict) and cell.keys() >= whole for cell in cells)


def summary_of_runs(runs: list[dict[str, Scores]]) -> dict[str, Scores]:
    """Mean and population standard deviation of every number, for the combinations that all runs have."""
    summary: dict[str, Scores] = {}
    for combination, first in runs[0].items():
        if all(combination in run for run in runs):
            scores = summary[combination] = {}
            for name in (name for name, value in first.items() if isinstance(value, float)):
                values = [run[combination][name] for run in runs]
                scores |= {name: float(np.mean(values)), f"{name}-std": float(np.std(values))}
    return summary


def _plain(value: Any) -> Any:
    """The value as JSON gives it back, so that it compares equal with what was read."""
    return json.loads(json.dumps(value, default=str))
