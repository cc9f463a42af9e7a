"""Base of the settings of every command that writes result files."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from fungi.errors import FungiError
from fungi.results.naming import result_name, settings_that_affect, unusual_values
from fungi.results.result_file import ResultFile, Run, read_result, to_plain_data
from fungi.settings import flag_of, setting
from fungi.store.code_version import version_of
from fungi.store.layout import Layout
from fungi.store.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class ResultSettings:
    """Base of the settings of every command that writes result files.

    Each subclass has fields `dataset` and `backbone`, and `root` unless it overrides `results_root`.

    computed_in: module that computes the scores; if empty, the module of the settings. Results are reused only if the
        code of this module and of its imports has not changed.
    in_the_path: settings that the folder or the name of the task states, so that the file name omits them.
    """

    computed_in: ClassVar[str] = ""
    in_the_path: ClassVar[tuple[str, ...]] = ("dataset", "backbone")

    output: Path | None = setting(
        None,
        "result file (default: a file below <root>/results)",
        aliases=("--logs-output-path",),
        affects="nothing",
        topic="files",
    )

    @property
    def dataset_name(self) -> str:
        """Folder name of the dataset; for a user's own dataset `NAME=kind:PATH`, this is NAME."""
        return str(vars(self)["dataset"]).partition("=")[0]

    @property
    def backbone_name(self) -> str:
        """Folder name of the backbone; for a user's own backbone `NAME=kind:PLACE`, this is NAME."""
        return str(vars(self)["backbone"]).partition("=")[0]

    @property
    def results_root(self) -> Path:
        """Folder that contains `results`."""
        return Path(vars(self)["root"])

    @property
    def task_name(self) -> str:
        """Name of the task in result files, with the number of shots: `knn`, `knn-5shot`."""
        raise NotImplementedError

    def result_path(self, task: str | None = None) -> Path:
        """Return the result file of a task: `--output`, or a file below the root (`result_name`)."""
        if self.output is not None:
            return self.output
        name = result_name(task or self.task_name, self, self.in_the_path)
        return Layout(self.results_root).results(name, self.dataset_name, self.backbone_name)

    def outputs(self) -> list[Path]:
        """Return the result files of the command. If all exist, the command has finished."""
        return [self.result_path()]

    def resolved_for(self, provenances: Sequence[Provenance]) -> "ResultSettings":
        """Return the settings, with values from the provenances of the features. Subclasses override this method."""
        return self

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the content of the result file, including defaults, as JSON."""
        names = {"dataset": self.dataset_name, "backbone": self.backbone_name}
        return settings_that_affect(self, "values", "which_results") | names

    def unusual(self) -> dict[str, Any]:
        """Return the settings that affect values and differ from the defaults, as JSON, for the headings of tables."""
        return unusual_values(self, self.in_the_path)

    def difference(self, path: Path) -> str:
        """Return a sentence about a setting that has another value in the file at `path`; empty if all are equal."""
        try:
            recorded = read_result(path)["settings"]
        except FungiError as error:
            return str(error)
        flags = {field.name: flag_of(field) for field in fields(self)}
        for name, value in to_plain_data(self.identity()).items():
            if recorded.get(name, value) != value:
                return f"{path} was computed with {flags.get(name, name)} {recorded[name]}, not {value}"
        return ""

    def open_result(
        self, runs: list[Run], *, task: str | None = None, provenances: Sequence[Provenance] = ()
    ) -> ResultFile:
        """Return the result file, with the scores of an earlier run with the same settings, features and code.

        provenances: provenances of the features, which contain the values of settings without a flag.
        """
        resolved = self.resolved_for(provenances)
        code_version = version_of(self.computed_in or type(self).__module__)
        settings, unusual = resolved.identity(), resolved.unusual()
        return ResultFile(self.result_path(task), task or self.task_name, settings, runs, unusual, code_version)
