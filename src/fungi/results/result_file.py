"""The result file of a command: settings, provenance and scores. It is saved after each combination.

    {"task": "knn", "settings": {...}, "provenance": {...}, "warnings": [...], "test_targets": [...],
     "complete": true,
     "results": {"embeddings+kl": {"accuracy": ..., "mean-per-class-accuracy": ..., "predictions": [...]}, ...}}

`complete` is true once all combinations are scored. With several runs (extraction seeds, few-shot draws), `results`
contains means and population standard deviations (`accuracy`, `accuracy-std`), and `runs` contains the scores of each
run.
"""

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from fungi.errors import FungiError, MissingFilesError, counted
from fungi.results.published_code import convert_to_our_form, has_published_form
from fungi.runtime.files import locked, write_text_atomically
from fungi.runtime.log import logger
from fungi.runtime.owner import remove_orphans
from fungi.store.code_version import CodeVersion, difference
from fungi.store.seal import checksum_of_record

Scores = dict[str, Any]
SCHEMA_VERSION = 1
PREVIOUS = ".previous-"
"""Part of the name of a renamed file, before its number."""
ABLATION = "ablation"
"""Prefix of the tasks of `fungi ablate`. Their results are cells: row -> column -> one value per seed."""
_NOT_IN_IDENTITY = ("file", "settings", "weights_source", "modified_ns", "commit", "fungi")
"""Entries of a provenance that do not decide the content of the features: places, times, commits, flags as written."""


@dataclass
class Run:
    """One pass of an evaluation over its combinations: one extraction (root) and one few-shot draw.

    label: names of root and draw, for the file. features: split -> feature -> record of its origin.
    results: combination -> scores. warnings: texts for the user.
    """

    label: dict[str, Any]
    features: dict[str, Any]
    results: dict[str, Scores] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class ResultFile:
    """A result file while a command writes it.

    If a file with the same settings, input files and code version exists, its scores are kept. A different file at the
    same path is renamed to `<name>.previous-1.json`, `-2`, ..., so that no score is lost. Reports still read the
    renamed file if its features differ from the features of the new file.

    task: `knn`, `linear`, ...
    settings: all settings that determine the content.
    runs: the runs to evaluate, in order.
    unusual: the settings that determine scores and differ from the defaults, for the headings of tables.
    code_version: version of the code that computes the scores.
    facts: other entries that belong to all combinations (`test_targets`).
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
        self.settings = to_plain_data(settings)
        self.runs = runs
        self.unusual = to_plain_data(unusual)
        self.code_version = code_version
        self.facts: dict[str, Any] = {}
        self.complete = False
        self._resume()

    def add(self, run: Run, combination: str, scores: Scores) -> None:
        """Record the scores of a combination, and save."""
        run.results[combination] = to_plain_data(scores)
        self.complete = False
        self.save()

    def finish(self) -> None:
        """Record that all combinations are scored."""
        if not self.complete:
            self.complete = True
            self.save()

    def content(self) -> dict[str, Any]:
        """Return the content of the file."""
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
        """Write the file. Add the scores that another process with the same settings has saved in the meantime."""
        with locked(self.path):
            self._merge_file()
            content = to_plain_data(self.content())
            write_text_atomically(self.path, json.dumps(content | {"checksum": checksum_of_record(content)}) + "\n")

    def _resume(self) -> None:
        """Read the scores of an existing file. Raises FungiError if `path` is not the path of a result file."""
        remove_orphans(self.path.parent)
        if not self.path.exists():
            return
        if self.path.is_dir() or self.path.suffix != ".json":  # the user named the wrong path
            kind = "a folder" if self.path.is_dir() else "not a JSON file"
            raise FungiError(f"{self.path} exists and is {kind}. Choose another --output that ends in .json.")
        with locked(self.path):
            was_merged = self._merge_file()
        if was_merged:
            results = counted(sum(len(run.results) for run in self.runs), "result")
            logger.info("%s already contains %s of these settings and files, which are kept", self.path, results)

    def _merge_file(self) -> bool:
        """Read the scores of a file with the same settings; rename any other file. Return whether scores were read.

        If a file that was renamed earlier fits the features again, it gets its original name back.
        """
        if not self.path.exists():
            return False
        content = self._content_if_same(self.path)
        if content is None:
            previous_files = sorted(self.path.parent.glob(f"{glob.escape(self.path.stem)}{PREVIOUS}*.json"))
            same_files = [
                (path, previous) for path in previous_files if (previous := self._content_if_same(path)) is not None
            ]
            new_paths = (self.path.with_suffix(f"{PREVIOUS}{number}.json") for number in count(1))
            new_path = next(path for path in new_paths if not path.exists())
            self.path.replace(new_path)
            message = "%s contained results of other settings, input files or code versions. It was renamed to %s"
            logger.info(message, self.path, new_path.name)
            if not same_files:
                return False
            path, content = same_files[0]
            path.replace(self.path)
        for run, saved_run in zip(self.runs, runs_of(content), strict=True):
            run.results = {**saved_run["results"], **run.results}
            run.warnings = list(dict.fromkeys([*saved_run.get("warnings", []), *run.warnings]))
        self.facts = {name: value for name, value in content.items() if name not in _OWN_ENTRIES} | self.facts
        self.complete = self.complete or bool(content.get("complete"))
        return True

    def _content_if_same(self, path: Path) -> dict[str, Any] | None:
        """Return the content of a file with the same settings, input files and code version; None for other files."""
        try:
            content = read_result(path)
            is_same = (
                content["settings"] == self.settings
                and origins(content["provenance"]["features"])
                == origins([to_plain_data(run.features) for run in self.runs])
                and not difference(CodeVersion.from_record(content["provenance"]), self.code_version)
                and len(runs_of(content)) == len(self.runs)
            )
        except (FungiError, KeyError, TypeError, AttributeError):
            return None
        return content if is_same else None


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
"""Entries of a file that `ResultFile` writes itself; all others are facts."""


def origins(features: Any) -> Any:
    """Return the part of a result's provenance that determines the content of its feature files.

    The entries `_NOT_IN_IDENTITY` are left out.
    """
    if isinstance(features, list):
        return [origins(entry) for entry in features]
    if not isinstance(features, dict):
        return features
    return {name: origins(value) for name, value in features.items() if name not in _NOT_IN_IDENTITY}


def runs_of(content: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the runs of a result, each with `results`. The content of a single run is returned as the only run."""
    return content.get("runs") or [content]


_RESULT_FILE_ADVICE = "Use a JSON file that an evaluation wrote."


def read_result(path: Path) -> dict[str, Any]:
    """Return a result file as plain data; files of the published code are converted to our form.

    Raises FungiError for a file that is not a result file or is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFilesError(f"{path} does not exist. Check the path, or run its evaluation first.") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise FungiError(f"{path} is not a result file. {_RESULT_FILE_ADVICE}") from None
    except OSError as error:
        raise FungiError(f"{path} can't be read as a result file ({error}). Run its evaluation again.") from None
    if has_published_form(content):
        return convert_to_our_form(path, content)
    for name in ("results", "settings", "provenance"):
        if not isinstance(content, dict) or not isinstance(content.get(name), dict):
            raise FungiError(
                f"{path} is not a result file: its entry {name!r} is missing or has another form. {_RESULT_FILE_ADVICE}"
            )
    if not all(isinstance(scores, dict) for scores in content["results"].values()):
        raise FungiError(f"{path} is not a result file: an entry of 'results' has another form. {_RESULT_FILE_ADVICE}")
    if "checksum" in content and content["checksum"] != checksum_of_record(content):
        raise FungiError(
            f"{path} is damaged or was edited: its checksum is wrong. Run its evaluation again, or remove its entry"
            " 'checksum' if the change was on purpose."
        )
    return content


def summary_of_runs(runs: list[dict[str, Scores]]) -> dict[str, Scores]:
    """Return mean and population standard deviation of every score, for the combinations that all runs have."""
    summary: dict[str, Scores] = {}
    for combination, first in runs[0].items():
        if all(combination in run for run in runs):
            scores = summary[combination] = {}
            for name in (name for name, value in first.items() if isinstance(value, float)):
                values = [run[combination][name] for run in runs]
                scores |= {name: float(np.mean(values)), f"{name}-std": float(np.std(values))}
    return summary


def to_plain_data(value: Any) -> Any:
    """Return the value after a round trip through JSON, so that it compares equal with a value read from a file."""
    return json.loads(json.dumps(value, default=str))
