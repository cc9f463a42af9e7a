"""Every command with a result knows its files, whether they are finished, and in which flag they differ."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from fungi.grid.calls import call_of, progress_of_jobs
from fungi.grid.declaration import Grid
from fungi.grid.job_files import JobFile
from fungi.grid.queue import Queue
from fungi.results.result_file import Run, read_result
from fungi.results.settings import ResultSettings
from fungi.runtime.code_hash import imported_files

FLAGS = {
    "segment": (["--dataset", "digit-scenes"], ["--k", "7"]),
    "retrieval": (["--dataset", "oxford-landmarks"], ["--renormalise-after-pca"]),
    "analyse": (["--analysis", "cka"], ["--pca-dim", "7"]),
    "in-context": (["--dataset", "banking-77", "--backbone", "bert-base-uncased"], ["--k", "7"]),
    "evaluate-encoder": (["--dataset", "patterns", "--backbone", "udi-micro"], ["--temperature", "0.5"]),
    "linear": (["--dataset", "digits"], ["--tolerance", "0.5"]),
    "cluster": (["--dataset", "digits"], ["--restarts", "7"]),
}
DEFAULT_FLAGS = (["--dataset", "digits"], ["--k", "7"])
"""For each command in `FLAGS`, and by default: flags of a call, and flags that change a score."""
WITH_RESULTS = [
    name
    for name, command in COMMANDS.items()
    if hasattr(command._load(), "run") and issubclass(command.settings_type, ResultSettings)
]
GRID_EVALUATIONS = [name for name, command in COMMANDS.items() if command.stage == "evaluation"]


def settings_of(name: str, output: Path, *further_flags: str) -> ResultSettings:
    """Return the settings of a command for the flags in `FLAGS` and further flags."""
    return COMMANDS[name].parse([*FLAGS.get(name, DEFAULT_FLAGS)[0], "--output", str(output), *further_flags])


def write_result(settings: ResultSettings) -> Path:
    """Write a finished result with the functions of the command, and return its path."""
    task = "cka" if type(settings).__name__ == "AnalyseSettings" else None
    result = settings.open_result([Run(label={}, features={})], task=task)
    result.add(result.runs[0], "embeddings", {"accuracy": 0.5})
    result.finish()
    return result.path


def test_every_evaluation_of_the_grid_writes_a_result() -> None:
    assert set(GRID_EVALUATIONS) <= set(WITH_RESULTS)
    assert "evaluate-encoder" in WITH_RESULTS


@pytest.mark.parametrize("name", WITH_RESULTS)
def test_a_result_agrees_with_its_settings_and_the_message_names_a_different_flag(name: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    settings = settings_of(name, path)
    assert settings.outputs() == [path]
    assert write_result(settings) == path
    assert settings.difference(path) == ""
    changed_flags = FLAGS.get(name, DEFAULT_FLAGS)[1]
    assert changed_flags[0] in settings_of(name, path, *changed_flags).difference(path)
    path.write_text("{}")
    assert str(path) in settings.difference(path)


@pytest.mark.parametrize("name", WITH_RESULTS)
def test_a_result_is_reused_and_a_result_of_other_settings_is_renamed(name: str, tmp_path: Path) -> None:
    settings = settings_of(name, tmp_path / "result.json")
    first = read_result(write_result(settings))
    assert read_result(write_result(settings)) == first
    write_result(settings_of(name, tmp_path / "result.json", *FLAGS.get(name, DEFAULT_FLAGS)[1]))
    (renamed,) = tmp_path.glob("result.previous-1.json")
    assert json.loads(renamed.read_text()) == first


@pytest.mark.parametrize("name", GRID_EVALUATIONS)
def test_the_grid_distinguishes_finished_missing_and_other_results(name: str, tmp_path: Path) -> None:
    flags, changed_flags = FLAGS.get(name, DEFAULT_FLAGS)
    values = dict(zip(flags[::2], flags[1::2], strict=True))
    grid = Grid(
        root=tmp_path,
        datasets=(values.get("--dataset", "digits"),),
        backbones=(values.get("--backbone", "digits-vit"),),
    )
    path = tmp_path / "result.json"
    words = [name, "--output", str(path), *(["--analysis", "cka"] if name == "analyse" else [])]

    def state(*further_flags: str) -> tuple[str, str]:
        call = call_of([*words, *further_flags], grid)
        ((_, (progress,)),) = progress_of_jobs(
            grid, [(JobFile(name, path, directives={}, words=tuple(words), landmarks=False), call)], Queue()
        )
        return progress.state, progress.detail

    assert state() == ("missing", "")
    write_result(settings_of(name, path))
    assert state()[0] == "done"
    assert state(*changed_flags)[0] == "missing"
    assert changed_flags[0] in state(*changed_flags)[1]
    path.unlink()
    assert state()[0] == "missing"


@pytest.mark.parametrize("name", WITH_RESULTS)
def test_the_code_version_of_a_result_includes_the_module_that_computes_it(name: str) -> None:
    settings_type = COMMANDS[name].settings_type
    assert COMMANDS[name].module in imported_files(settings_type.computed_in or settings_type.__module__)


@pytest.mark.parametrize("name", WITH_RESULTS)
def test_folders_devices_and_workers_do_not_decide_the_result(name: str) -> None:
    """These settings may change between two runs of the same evaluation."""
    affects = {field.name: field.metadata["affects"] for field in fields(COMMANDS[name].settings_type)}
    for field in ("root", "data_dir", "output", "device", "num_workers", "wandb", "memory_gb"):
        assert affects.get(field, "nothing") == "nothing", field
