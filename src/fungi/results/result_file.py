"""The result file of a command: what was run, on which files, and the scores, saved after each combination.

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
from fungi.results.original import from_original, is_original
from fungi.runtime.files import locked, write_whole
from fungi.runtime.log import logger
from fungi.runtime.owner import remove_orphans
from fungi.store.code_version import CodeVersion, difference
from fungi.store.seal import checksum_of_record

Scores = dict[str, Any]
SCHEMA_VERSION = 1
PUT_ASIDE = ".previous-"
ABLATION = "ablation"
"""Beginning of the tasks of `fungi ablate`, whose results are cells: row -> column -> one value per seed."""
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
    """A result file that is being written.

    Opening a file of the same settings, input files and code goes on from what is there. A file of other settings at
    the same path is put aside as `<name>.previous-1.json`, `-2`, ..., so that nothing computed is lost; reports read it
    as long as its features are others.

    task: `knn`, `linear`, ...; settings: all that decides what it holds; runs: what to evaluate, in order; unusual:
    the settings that decide scores and are not the usual ones, for the headings of tables; code_version: of the code
    that computes the scores. facts: further entries, which belong to all combinations (`test_targets`).
    """

    def __init__(
        self,
        path: Path,
        task: str,
        settings: Mapping[str, Any],
        runs: list[Run],
        unusual: Mapping[str, Any],
        code_version: CodeVersion,
    ) -> None:
        self.path = path
        self.task = task
        self.settings = plain(settings)
        self.runs = runs
        self.unusual = plain(unusual)
        self.code_version = code_version
        self.facts: dict[str, Any] = {}
        self.complete = False
        self._resume()

    def add(self, run: Run, combination: str, scores: Scores) -> None:
        """Record the scores of a combination, and save."""
        run.results[combination] = plain(scores)
        self.complete = False
        self.save()

    def finish(self) -> None:
        """Record that nothing is left to do."""
        if not self.complete:
            self.complete = True
            self.save()

    def content(self) -> dict[str, Any]:
        """Return everything, as it is written."""
        content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "task": self.task,
            "settings": self.settings,
            "unusual": self.unusual,
            "provenance": {"features": [run.features for run in self.runs], **asdict(self.code_version)},
            "warnings": list(dict.fromkeys(text for run in self.runs for text in run.warnings)),
            "test_targets": [],
            **self.facts,
            "complete": self.complete,
        }
        if len(self.runs) == 1:
            return content | {"results": self.runs[0].results}
        runs = [{**run.label, "results": run.results, "warnings": run.warnings} for run in self.runs]
        return content | {"results": summary_of_runs([run.results for run in self.runs]), "runs": runs}

    def save(self) -> None:
        """Write the file anew, with what another evaluation of the same settings and files wrote in the meantime."""
        with locked(self.path):
            self._merge_file()
            content = plain(self.content())
            write_whole(self.path, json.dumps(content | {"checksum": checksum_of_record(content)}) + "\n")

    def _resume(self) -> None:
        remove_orphans(self.path.parent)
        if not self.path.exists():
            return
        if self.path.is_dir() or self.path.suffix != ".json":  # not ours to put aside
            what = "a folder" if self.path.is_dir() else "no JSON file"
            raise FungiError(f"{self.path} is there, and {what}. Choose another --output, ending in .json.")
        with locked(self.path):
            kept = self._merge_file()
        if kept:
            done = sum(len(run.results) for run in self.runs)
            logger.info("%s holds %d finished results of these settings and files: they are kept", self.path, done)

    def _merge_file(self) -> bool:
        """Take over what the file holds of the same settings; put another file aside. Return whether anything was kept.

        Where features change back to what they were, the file that was put aside for others has its place again.
        """
        if not self.path.exists():
            return False
        content = self._content_if_same(self.path)
        if content is None:
            aside = sorted(self.path.parent.glob(f"{glob.escape(self.path.stem)}{PUT_ASIDE}*.json"))
            earlier = [(path, same) for path in aside if (same := self._content_if_same(path)) is not None]
            names = (self.path.with_suffix(f"{PUT_ASIDE}{number}.json") for number in count(1))
            self.path.replace(next(name for name in names if not name.exists()))
            logger.info("%s held results of other settings, input files or versions: put aside", self.path)
            if not earlier:
                return False
            path, content = earlier[0]
            path.replace(self.path)
        results = content.get("runs") or [{"results": content["results"], "warnings": content.get("warnings", [])}]
        for run, entry in zip(self.runs, results, strict=True):
            run.results = {**entry["results"], **run.results}
            run.warnings = list(dict.fromkeys([*entry["warnings"], *run.warnings]))
        self.facts = {name: content[name] for name in content.keys() - _OWN_ENTRIES} | self.facts
        self.complete = self.complete or bool(content.get("complete"))
        return True

    def _content_if_same(self, path: Path) -> dict[str, Any] | None:
        """Return the content of a file, if it is of the same settings, input files and version of the code."""
        try:
            content = read_result(path)
            same = (
                content["settings"] == self.settings
                and origins(content["provenance"]["features"]) == origins([plain(run.features) for run in self.runs])
                and not difference(CodeVersion.from_record(content["provenance"]), self.code_version)
                and len(content.get("runs") or [content["results"]]) == len(self.runs)
            )
        except (FungiError, KeyError, TypeError, AttributeError):
            return None
        return content if same else None


_OWN_ENTRIES = {
    "schema_version",
    "task",
    "settings",
    "unusual",
    "provenance",
    "warnings",
    "complete",
    "results",
    "runs",
    "checksum",
}
"""Entries of a file that `ResultFile` makes itself; all others are facts."""


def origins(features: Any) -> Any:
    """Return what decides the content of feature files, from the provenance of a result.

    Where files lie, and how the settings that made them were spelled, is left out.
    """
    if isinstance(features, list):
        return [origins(entry) for entry in features]
    if not isinstance(features, dict):
        return features
    return {name: origins(value) for name, value in features.items() if name not in _PLACES}


def read_result(path: Path) -> dict[str, Any]:
    """Return a result file as plain data, the original harness's in our form; FungiError for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FungiError(f"{path} can't be read as a result file ({error}). Run its evaluation again.") from None
    if is_original(content):
        return from_original(path, content)
    for name in ("results", "settings", "provenance"):
        if not isinstance(content, dict) or not isinstance(content.get(name), dict):
            raise FungiError(f"{path} is no result file: it has no entry {name!r}, or it is of another form.")
    if not all(isinstance(scores, dict) for scores in content["results"].values()):
        raise FungiError(f"{path} is no result file: an entry of 'results' is of another form.")
    if "checksum" in content and content["checksum"] != checksum_of_record(content):
        raise FungiError(
            f"{path} is damaged, or was edited: it does not have the checksum that it was written with. Run its"
            " evaluation again, or remove its entry 'checksum' if the change was on purpose."
        )
    return content


def summary_of_runs(runs: list[dict[str, Scores]]) -> dict[str, Scores]:
    """Return mean and population standard deviation of every number, for the combinations that all runs have."""
    summary: dict[str, Scores] = {}
    for combination, first in runs[0].items():
        if all(combination in run for run in runs):
            scores = summary[combination] = {}
            for name in (name for name, value in first.items() if isinstance(value, float)):
                values = [run[combination][name] for run in runs]
                scores |= {name: float(np.mean(values)), f"{name}-std": float(np.std(values))}
    return summary


def plain(value: Any) -> Any:
    """Return the value as JSON gives it back, so that it compares equal with what is read."""
    return json.loads(json.dumps(value, default=str))
