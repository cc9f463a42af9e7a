"""`fungi submit` submits arrays in the order of the stages, with their dependencies and a copy of the code."""

import errno
import shlex
import sys
from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest

from fungi.backbones.base import BACKBONES
from fungi.commands import COMMANDS
from fungi.grid.array import MAX_ARRAY
from fungi.grid.calls import command_line
from fungi.grid.chain import PlannedJob, submit_all
from fungi.grid.declaration import GRID_FILE, LAST_GRID, Grid, declared_grid
from fungi.grid.elements import elements_of
from fungi.grid.freezing import freeze
from fungi.grid.submission import Array, Dependency, GridJob, JobEnvironment, arrays
from fungi.grid.submit import DEFAULT_JOBS
from tests.grid.submitted_jobs import ENVIRONMENT, ROOT, jobs_of

main = COMMANDS["submit"].main

pytestmark = pytest.mark.usefixtures("project_folder")


def test_jobs_are_in_the_order_of_the_stages_and_jobs_without_elements_are_left_out() -> None:
    submitted_jobs = jobs_of(
        Grid(datasets=("digits",)), "report", "concat", "retrieval/concat", "merge", "extract", "projection"
    )
    assert [grid_job.job.name for grid_job in submitted_jobs] == [
        "projection",
        "extract",
        "merge",
        "concat",
        "report",
    ]


def test_a_stage_waits_for_the_previous_stage_and_is_cancelled_if_the_previous_stage_fails() -> None:
    grid = Grid(root=Path("/r"), shards=4)
    (grid_job,) = jobs_of(grid, "extract")
    (array,) = arrays(grid, grid_job, ENVIRONMENT, range(8), Dependency(("11", "12")))
    assert "--dependency=afterok:11:12" in array.command
    assert "--kill-on-invalid-dep=yes" in array.command
    assert "--array=0-7" in array.command
    assert "--output=/r/logs/%x-%A_%a.out" in array.command
    assert array.variables == {}


def test_an_array_of_a_part_of_the_grid_declares_this_in_a_valid_shell_line() -> None:
    grid = Grid(root=Path("/r"), shards=4)
    (grid_job,) = jobs_of(grid, "extract")
    (array,) = arrays(grid, grid_job, JobEnvironment(ROOT, Path("/with blank/g.toml"), "/usr/bin/python3"), [1, 2, 7])
    words = shlex.split(array.as_shell(JobEnvironment(ROOT, Path("/with blank/g.toml"), "/usr/bin/python3")))
    assert "FUNGI_PARTIAL=1" in words
    assert "FUNGI_GRID=/with blank/g.toml" in words
    assert "--array=1-2,7" in words


def test_a_grid_larger_than_an_array_becomes_several_arrays() -> None:
    grid = Grid(root=Path("/r"), shards=700)
    (grid_job,) = jobs_of(grid, "extract")
    first, second = arrays(grid, grid_job, ENVIRONMENT, range(grid_job.count))
    assert ("--array=0-999" in first.command, "--array=0-399" in second.command) == (True, True)
    assert second.variables == {"FUNGI_PARTIAL": "1", "FUNGI_FIRST": "1000"}


def test_jobs_read_their_grid_only_from_the_file() -> None:
    environment_of_user = {
        "FUNGI_DATASETS": "x",
        "FUNGI_FLAGS_KNN": "--k 1",
        "SLURM_ARRAY_TASK_ID": "3",
        "HOME": "/h",
        "FUNGI_MAX_RESTARTS": "2",
    }
    environment = ENVIRONMENT.for_sbatch(environment_of_user)
    assert environment == {"HOME": "/h", "FUNGI_MAX_RESTARTS": "2", **ENVIRONMENT.variables()}


def test_a_dry_run_prints_every_array_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "features"
    assert main(["--dry-run", "--root", str(root), "--jobs", "extract", "concat", "--shards", "2"]) == 0
    extract, concat = capsys.readouterr().out.splitlines()
    assert "--array=0-3" in extract
    assert "--dependency=afterok:$extract" in concat.replace("'", "")
    assert not root.exists()


def test_a_submission_freezes_code_and_grid(tmp_path: Path, fake_sbatch: Path) -> None:
    root = tmp_path / "features"
    assert main(["--root", str(root), "--shards", "2", "--jobs", "extract", "merge", "concat"]) == 0
    extract, merge, concat = [(fake_sbatch / str(n)).read_text().splitlines() for n in (1, 2, 3)]
    grid_file, code = Path(extract[0]), Path(extract[1])
    grid = declared_grid({"FUNGI_GRID": str(grid_file)})
    assert (grid.shards, grid.datasets, grid.jobs) == (2, ("digits",), ("extract", "merge", "concat"))
    assert code.parent == root / "code"
    assert extract[-1] == str(code / "jobs" / "extract.job")
    assert (code / "src" / "fungi" / "extraction" / "extract.py").read_text() == (
        ROOT / "src" / "fungi" / "extraction" / "extract.py"
    ).read_text()
    assert "--dependency=afterok:1" in merge
    assert "--dependency=afterok:2" in concat
    assert (root / "logs").is_dir(), "SLURM ends a job without a message if this folder does not exist"


def test_code_is_copied_again_only_if_it_has_changed(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("src/fungi", "jobs", "src/fungi/__pycache__"):
        (project / name).mkdir(parents=True)
    (project / "src/fungi/a.py").write_text("one")
    (project / "src/fungi/__pycache__/a.pyc").write_text("compiled")
    first, second = freeze(project, tmp_path), freeze(project, tmp_path)
    (project / "src/fungi/a.py").write_text("two")
    changed = freeze(project, tmp_path)
    assert first == second != changed
    assert (first / "src/fungi/a.py").read_text() == "one"
    assert not (first / "src/fungi/__pycache__").exists()
    assert (first / "COMMIT").read_text().strip()


def test_the_commit_of_copied_code_is_read_from_its_file(tmp_path: Path) -> None:
    import subprocess

    code = freeze(ROOT, tmp_path)
    (code / "COMMIT").write_text("abc123\n")
    command = [sys.executable, "-c", "from fungi.runtime.versions import code_commit; print(code_commit())"]
    process = subprocess.run(command, env={"PYTHONPATH": str(code / "src")}, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "abc123"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages", "extracton"], "unknown stage 'extracton'. Did you mean 'extraction'"),
        (["--jobs", "grads_all"], "unknown job 'grads_all'"),
        (["--jobs", "retrieval/concat"], "nothing to submit"),
        (["--backbones", "vit-b61"], "unknown backbone"),
        (["--jobs", "extract"], "sbatch is not installed here"),
    ],
)
def test_messages_name_invalid_input(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([*words, "--root", str(tmp_path / "features")]) == 2
    assert message in capsys.readouterr().err


def test_the_number_of_sbatch_calls_does_not_grow_with_the_pairs() -> None:
    """Separate arrays for these 30 pairs would take 152 calls."""
    backbones = tuple(name for name in BACKBONES if BACKBONES[name].modality == "vision")[:10]
    grid = Grid(backbones=backbones, datasets=("pets", "cars", "food101"), root=Path("/r"), shards=16)
    planned_jobs = [PlannedJob(grid_job, range(grid_job.count), {}) for grid_job in jobs_of(grid, *DEFAULT_JOBS)]
    calls: list[Array] = []

    def submit(array: Array, grid_job: GridJob) -> str:
        calls.append(array)
        return str(len(calls))

    submit_all(grid, planned_jobs, ENVIRONMENT, submit)
    assert len(calls) == 1 + 2 * 16 + 1 + 4 + 1  # projection, 16 shards of 2 jobs, merge, 4 evaluations, report


def test_a_submission_beyond_the_limit_of_the_cluster_is_refused_before_anything_is_written(
    tmp_path: Path, fake_sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise sbatch would retry for two minutes and then fail, with a part of the grid submitted."""
    program = tmp_path / "bin" / "scontrol"
    program.write_text("#!/bin/sh\necho 'MaxJobCount             = 10'\n")
    program.chmod(0o755)
    root = tmp_path / "features"
    assert main(["--jobs", "extract", "--shards", "5", "--root", str(root)]) == 2
    assert (
        "with the tasks of arrays, this is 10 jobs, but the cluster allows only 10 (MaxJobCount)"
        in capsys.readouterr().err
    )
    assert not root.exists()
    assert main(["--jobs", "extract", "--shards", "4", "--root", str(root)]) == 0


def test_a_root_may_have_a_percent_sign_but_no_backslash_in_its_name(
    tmp_path: Path, fake_sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "50% of %x"
    assert main(["--jobs", "extract", "--splits", "test", "--root", str(root)]) == 0
    words = (fake_sbatch / "1").read_text().splitlines()
    assert f"--output={tmp_path}/50%% of %%x/logs/%x-%A_%a.out" in words
    assert main(["--jobs", "extract", "--root", str(tmp_path / "back\\slash")]) == 2
    assert "has a backslash in its name" in capsys.readouterr().err
    assert not (tmp_path / "back\\slash").exists()


def test_a_failed_copy_of_the_code_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Path] = []

    def copy(source: Path, target: Path) -> None:
        if len(copied) == 5:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        copied.append(target)
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr("fungi.grid.freezing.shutil.copy2", copy)
    with pytest.raises(OSError, match="No space left"):
        freeze(ROOT, tmp_path)
    assert copied
    assert list((tmp_path / "code").iterdir()) == []


def test_options_of_a_stage_are_passed_to_its_jobs_and_stored(tmp_path: Path, fake_sbatch: Path) -> None:
    root = str(tmp_path / "features")
    options = ("--sbatch=--account=mine --partition=cpu", "--sbatch-extraction=--partition=gpu", "--limit", "3")
    jobs = ("--jobs", "extract", "concat")
    assert main([*jobs, "--root", root, *options]) == 0
    assert main(["--missing", "--root", root]) == 0
    for extract, concat in (("1", "2"), ("3", "4")):
        words = {name: (fake_sbatch / name).read_text().splitlines() for name in (extract, concat)}
        assert [word for word in words[extract] if "--partition" in word][-1] == "--partition=gpu"
        assert [word for word in words[concat] if "--partition" in word] == ["--partition=cpu"]
        assert all("--account=mine" in words_of_job for words_of_job in words.values())
        assert any(word.startswith("--array=") and word.endswith("%3") for word in words[extract])


def test_the_missing_elements_of_chosen_jobs_can_be_submitted(tmp_path: Path, fake_sbatch: Path) -> None:
    root = str(tmp_path / "features")
    assert main(["--jobs", "extract", "concat", "--root", root]) == 0
    assert main(["--missing", "--jobs", "concat", "--root", root]) == 0
    names = [Path((fake_sbatch / str(number)).read_text().splitlines()[-1]).stem for number in (1, 2, 3)]
    assert names == ["extract", "concat", "concat"]
    assert not (fake_sbatch / "4").exists()
    last_grid = declared_grid({GRID_FILE: str(tmp_path / "features" / LAST_GRID)})
    assert last_grid.jobs == ("extract", "concat")  # the next `--missing` submits both again


def test_a_pack_is_one_task_that_requests_a_gpu_for_each_element(tmp_path: Path, fake_sbatch: Path) -> None:
    """Ten shards in packs of four are three tasks."""
    root = str(tmp_path / "features")
    words = ["--jobs", "extract", "merge", "--splits", "test", "--shards", "10", "--pack", "4", "--root", root]
    assert main(words) == 0
    calls = [(fake_sbatch / name).read_text().splitlines() for name in ("1", "2")]
    assert "--array=0-2" in calls[0]
    assert {"--gpus=4", "--cpus-per-task=64", "--mem=256G"} <= set(calls[0])
    assert not any(word.startswith(("--gpus", "--mem")) for word in calls[1])
    grid = declared_grid({"FUNGI_GRID": calls[0][0]})
    (grid_job,) = jobs_of(grid, "extract")
    (array,) = arrays(grid, grid_job, ENVIRONMENT, [5, 9])  # missing elements of the second and the third pack
    assert "--array=1-2" in array.command
    assert array.variables == {"FUNGI_PARTIAL": "1"}
    assert array.tasks == {5: 1, 9: 2}


@pytest.mark.parametrize("size", [1, 7, 1001, 4_000_001])
def test_arrays_are_as_large_as_the_cluster_allows(size: int, tmp_path: Path, fake_sbatch: Path) -> None:
    program = tmp_path / "bin" / "scontrol"
    program.write_text(f"#!/bin/sh\necho 'MaxArraySize            = {size}'\n")
    program.chmod(0o755)
    words = ("--jobs", "extract", "--splits", "test", "--shards", "20", "--root", str(tmp_path / "features"))
    assert main(words) == 0
    sizes = []
    for path in fake_sbatch.iterdir():
        (array,) = [word for word in path.read_text().splitlines() if word.startswith("--array=")]
        low, _, high = array.removeprefix("--array=").partition("-")
        assert int(high or low) < size
        sizes.append(int(high or low) - int(low) + 1)
    assert sum(sizes) == 20
    assert len(sizes) == ceil(20 / min(size, MAX_ARRAY))


def test_the_users_own_backbone_runs_in_the_grid(
    tmp_path: Path, fake_sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_backbone = replace(BACKBONES["digits-vit"], name="mine")
    monkeypatch.setattr("fungi.backbones.own.forms.own_backbone", lambda text: own_backbone)
    root, name = tmp_path / "features", "mine=hf:/models/mine"
    grid = Grid(backbones=(name,), datasets=("digits",), splits=("test",), root=root, shards=1)
    outputs = []
    for job, command in (("grads_kl_multi", "extract-gradients"), ("concat", "knn")):
        (grid_job,) = jobs_of(grid, job)
        (element,) = elements_of(grid, grid_job.call)
        line = command_line(element, grid_job.call, grid)
        assert line[line.index("--backbone") + 1] == name
        outputs += COMMANDS[command].parse(line).outputs()
    assert outputs == [root / "gradients/digits/mine/kl-test.h5", root / "results/knn/digits/mine.json"]
    assert main(["--backbones", name, "--jobs", "projection", "extract", "--root", str(root)]) == 0
    assert len(list(fake_sbatch.iterdir())) == 2
