"""Missing steps are submitted as tasks of SLURM arrays, and finished steps are not submitted."""

import json
from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.reproduction import reproduce, submission
from fungi.reproduction.plan import Step, StepSettings, plan_of
from fungi.reproduction.recipe import values_of
from fungi.views.plans import PLANS

PROJECT = Path(__file__).parents[2]


def submitted_arrays(settings: StepSettings, name: str, monkeypatch: pytest.MonkeyPatch) -> list[submission.Array]:
    """Submit the missing steps of a table, and return the arrays."""
    calls: list[submission.Array] = []

    def sbatch(array: submission.Array, environment: submission.JobEnvironment) -> str:
        calls.append(array)
        return str(100 + len(calls))

    monkeypatch.setattr(submission, "sbatch", sbatch)
    monkeypatch.chdir(PROJECT)
    submission.submit(plan_of(values_of(name), settings), settings, ["--partition=gpu"], "a100", {})
    return calls


def steps_of_tasks(array: submission.Array) -> list[Step]:
    """Return the step of each task of an array."""
    file = Path(array.variables[submission.STEPS])
    count = len(json.loads(file.read_text()))
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_MIN": "0"}
    return [
        submission.step_of_task(
            file,
            {**variables, "SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": str(count)}
            | {"SLURM_ARRAY_TASK_MAX": str(count - 1)},
        )
        for index in range(count)
    ]


def test_tasks_are_the_missing_steps_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = StepSettings(tmp_path / "paper", tmp_path / "data", "clean")
    extraction, evaluation = submitted_arrays(settings, "paper-9", monkeypatch)
    plan = plan_of(values_of("paper-9"), settings)
    assert {step.flags[: step.flags.index("--shard")] for step in steps_of_tasks(extraction)} == {
        step.flags for step in plan.extractions
    }
    assert [(step.command, step.flags) for step in steps_of_tasks(evaluation)] == [
        (step.command, step.flags) for step in plan.evaluations
    ]
    assert "--dependency=afterany:101" in evaluation.command
    assert "--partition=gpu" in extraction.command
    for name in ("extraction", "evaluation"):
        assert (PROJECT / "jobs" / "reproduce" / f"{name}.job").is_file()


@pytest.mark.slow
def test_all_shards_of_a_step_are_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = StepSettings(tmp_path / "paper", tmp_path / "data", "clean")
    extraction = submitted_arrays(settings, "figure-11", monkeypatch)[0]
    shards: dict[tuple[str, ...], list[str]] = {}
    for step in steps_of_tasks(extraction):
        position = step.flags.index("--shard")
        shards.setdefault(step.flags[:position], []).append(step.flags[position + 1])
    assert max(map(len, shards.values())) > 10  # ImageNet-1k with ViT-L needs many shards
    for shards_of_step in shards.values():
        count = len(shards_of_step)
        assert shards_of_step == [f"{index}/{count}" for index in range(1, count + 1)]


def test_finished_steps_are_not_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = StepSettings(tmp_path / "paper", tmp_path / "data", "clean")
    for step in plan_of(values_of("paper-9"), settings).extractions[1:]:
        for path in step.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    extraction, _ = submitted_arrays(settings, "paper-9", monkeypatch)
    first_dataset = values_of("paper-9")[0].evaluations[0].dataset
    datasets = {step.flags[step.flags.index("--dataset") + 1] for step in steps_of_tasks(extraction)}
    assert datasets == {first_dataset} == {"cars"}


def test_jobs_get_absolute_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = StepSettings(Path("paper"), Path("data"), "clean")
    monkeypatch.setattr(submission, "project_folder", lambda: PROJECT)
    calls: list[submission.Array] = []

    def sbatch(array: submission.Array, environment: submission.JobEnvironment) -> str:
        calls.append(array)
        return "1"

    monkeypatch.setattr(submission, "sbatch", sbatch)
    monkeypatch.chdir(tmp_path)
    submission.submit(plan_of(values_of("rebuttal-30"), settings), settings, [], "a100", {})
    (root,) = {step.flags[step.flags.index("--root") + 1] for step in steps_of_tasks(calls[0])}
    assert root == str(tmp_path / "paper" / "clean")


def test_a_step_is_refused_outside_of_an_array(tmp_path: Path) -> None:
    file = tmp_path / "steps.json"
    file.write_text(json.dumps([["knn", [], ""], ["knn", [], ""]]))
    with pytest.raises(FungiError, match="tasks of a SLURM array"):
        submission.step_of_task(file, {})


def printed_lines(capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    """Run `fungi reproduce`, and return the lines that it prints."""
    assert COMMANDS["reproduce"].main([*flags]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_list_names_tables_and_their_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = printed_lines(capsys, "paper-9", "--list", "--root", str(tmp_path))
    assert lines[1].split()[0] == "paper-9"
    assert "0/32" in lines[1]
    assert "24 + 8" in lines[1]
    assert "  datasets: aircraft, cars, cub-200, eurosat, flowers102, food101, pets, textures" in lines
    assert "  backbones: vit-b16" in lines


def test_the_list_has_an_overview_of_each_profile(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ("paper-9", "--list", "--root", str(tmp_path), "--profile")
    clean, published = (printed_lines(capsys, *flags, profile) for profile in ("clean", "published"))
    both = printed_lines(capsys, *flags, "clean", "published")
    assert both == ["profile clean", "", *clean, "", "profile published", "", *published]


def test_failed_steps_of_a_profile_do_not_stop_the_next_profile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(reproduce, "run_step", lambda step: 1)
    flags = ("--root", str(tmp_path), "--profile", "clean", "published")
    assert COMMANDS["reproduce"].main(["paper-9", *flags]) == 2
    output = capsys.readouterr()
    assert "paper-9, profile clean" in output.out
    assert "paper-9, profile published" in output.out
    assert output.err.splitlines()[-1].startswith("fungi reproduce: 64 steps failed: ")


@pytest.mark.slow
def test_the_list_has_every_table_and_figure_and_fits_a_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    lines = printed_lines(capsys, "--list", "--root", str(tmp_path))
    assert lines.index("") == 1 + 27 + 4 + 9  # header, tables, prose, figures
    assert max(map(len, lines)) <= 100


def test_another_plan_of_views_has_its_own_cost_flags_and_folders(tmp_path: Path) -> None:
    published, native = (
        plan_of(values_of("paper-9"), StepSettings(tmp_path, tmp_path, "clean", views=name)) for name in PLANS[:2]
    )
    outputs, published_outputs = (
        {path for step in steps.extractions + steps.evaluations for path in step.outputs}
        for steps in (native, published)
    )
    assert not outputs & published_outputs
    for step, published_step in zip(native.extractions, published.extractions, strict=True):
        assert step.hours("a100") < published_step.hours("a100")
        assert step.flags[-2:] == ("--views", "native")
        assert "--views" not in published_step.flags
