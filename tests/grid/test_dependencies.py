"""Tasks of an array wait for the tasks that write the files they read."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from fungi.grid.array import chosen_indices
from fungi.grid.chain import PlannedJob, submit_all
from fungi.grid.declaration import LAST_GRID, Grid, declared_grid
from fungi.grid.elements import Element
from fungi.grid.queue import comment_of
from fungi.grid.records import Attempt, Records
from fungi.grid.submission import Array, GridJob
from tests.grid.submitted_jobs import ENVIRONMENT, jobs_of

main = COMMANDS["submit"].main

pytestmark = pytest.mark.usefixtures("project_folder")


CHAIN = ("--jobs", "projection", "extract", "merge", "concat", "concat_linear", "report", "--shards", "2")


TWO_BY_TWO = ("--backbones", "digits-vit", "vit-b16", "--datasets", "digits", "pets", "--splits", "test")


def dependencies_of(calls: Path) -> dict[str, tuple[str, str, list[str]]]:
    """Return job id -> its job file, its indices, and its dependency: the kind, then the job ids."""
    dependencies = {}
    for path in sorted(calls.iterdir(), key=lambda path: int(path.name)):
        words = path.read_text().splitlines()
        options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        kind, _, ids = options.get("--dependency", "").partition(":")
        dependencies[path.name] = (Path(words[-1]).stem, options["--array"], [kind, *filter(None, ids.split(":"))])
    return dependencies


def test_pairs_with_the_same_work_share_arrays_whose_tasks_wait_for_their_own_pair(
    tmp_path: Path, fake_sbatch: Path
) -> None:
    """Four pairs of backbone and dataset in two shards have an array per shard, then an array per job."""
    assert main([*CHAIN, *TWO_BY_TWO, "--root", str(tmp_path / "features")]) == 0
    assert list(dependencies_of(fake_sbatch).values()) == [
        ("projection", "0-1", [""]),
        ("extract", "0-3", ["afterany", "1"]),
        ("extract", "0-3", ["afterany", "1"]),
        ("merge", "0-3", ["aftercorr", "2", "3"]),
        ("concat", "0-3", ["aftercorr", "4"]),
        ("concat_linear", "0-3", ["aftercorr", "4"]),
        ("report", "0", ["afterany", "5", "6"]),
    ]


def test_a_single_pair_has_one_array_per_job(tmp_path: Path, fake_sbatch: Path) -> None:
    pair = ("--backbones", "digits-vit", "--datasets", "digits", "--splits", "test")
    assert main([*CHAIN, *pair, "--root", str(tmp_path / "features")]) == 0
    assert list(dependencies_of(fake_sbatch).values()) == [
        ("projection", "0", [""]),
        ("extract", "0-1", ["afterany", "1"]),
        ("merge", "0", ["afterok", "2"]),
        ("concat", "0", ["afterok", "3"]),
        ("concat_linear", "0", ["afterok", "3"]),
        ("report", "0", ["afterany", "4", "5"]),
    ]


VARIED = Grid(
    backbones=("digits-vit", "vit-b16", "vit-l16", "dinov2_vitg14"),
    datasets=("digits", "pets", "textures", "oxford-landmarks", "food101", "imagenet-1k", "flowers102"),
    root=Path("/r"),
)
"""Datasets with two or three splits, one or many shards, and one that kNN does not evaluate."""


CHAIN_JOBS = ("grads_all_multi", "merge", "concat", "retrieval/concat", "report")


@pytest.mark.parametrize("grid", [VARIED, replace(VARIED, shards=4, pack=2), replace(VARIED, shards=5, pack=3)])
@pytest.mark.parametrize("max_array", [7, 1000])
def test_every_element_is_submitted_once_and_waits_for_its_own_pair(grid: Grid, max_array: int) -> None:
    """The test lists the elements of each task, and the tasks for which SLURM lets the task wait."""
    planned_jobs = [PlannedJob(grid_job, range(grid_job.count), {}) for grid_job in jobs_of(grid, *CHAIN_JOBS)]
    elements_of: dict[str, tuple[str, list[Element]]] = {}  # task, such as 2_0 -> its job and elements
    tasks_of: dict[str, list[str]] = {}  # array -> its tasks
    awaited: dict[str, list[str]] = {}  # task -> the tasks for which it waits

    def submit(array: Array, grid_job: GridJob) -> str:
        array_id = str(len(tasks_of) + 1)
        options = dict(word.split("=", 1) for word in array.command if word.startswith("--") and "=" in word)
        kind, _, dependencies = options.get("--dependency", "").partition(":")
        tasks_of[array_id] = []
        numbers = numbers_of(options["--array"])
        for number in numbers:
            slurm = {"JOB_ID": 7, "TASK_ID": number, "TASK_COUNT": len(numbers), "TASK_MIN": min(numbers)}
            environ = {f"SLURM_ARRAY_{name}": str(value) for name, value in slurm.items()}
            environ |= {"SLURM_ARRAY_TASK_MAX": str(max(numbers)), **array.variables}
            pack = grid.pack if grid_job.stage == "extraction" else 1
            indices = chosen_indices(environ, grid_job.count, pack, grid_job.places)
            task = f"{array_id}_{number}"
            elements_of[task] = (grid_job.job.name, [grid_job.elements[index] for index in indices])
            tasks_of[array_id].append(task)
            awaited[task] = []
            for name in filter(None, dependencies.split(":")):
                # `aftercorr`: the task with the same number. Otherwise, all tasks of an array, or a single task.
                awaited[task] += [f"{name}_{number}"] if kind == "aftercorr" else tasks_of.get(name, [name])
        return array_id

    submit_all(grid, planned_jobs, replace(ENVIRONMENT, max_array=max_array), submit)
    counts = Counter((name, element) for name, elements in elements_of.values() for element in elements)
    assert counts == Counter(
        (job.grid_job.job.name, element) for job in planned_jobs for element in job.grid_job.elements
    )
    for job_name, earlier_job in (("merge", "grads_all_multi"), ("concat", "merge"), ("retrieval/concat", "merge")):
        for task, (name, (element, *_)) in elements_of.items():
            if name == job_name:
                tasks_of_pair = {
                    earlier_task
                    for earlier_task, (name_of_task, elements) in elements_of.items()
                    if name_of_task == earlier_job and any(earlier.pair == element.pair for earlier in elements)
                }
                assert set(awaited[task]) == tasks_of_pair
    (report,) = [task for task, (name, _) in elements_of.items() if name == "report"]
    assert set(awaited[report]) == {task for task, (name, _) in elements_of.items() if name.endswith("concat")}


def numbers_of(array: str) -> list[int]:
    """Return the indices in a value of --array, such as 0-2,5."""
    spans = [span.partition("-") for span in array.partition("%")[0].split(",")]
    return [number for low, _, high in spans for number in range(int(low), int(high or low) + 1)]


def test_a_merge_that_waits_for_a_failed_shard_is_cancelled_and_submitted_again(
    tmp_path: Path, fake_sbatch: Path
) -> None:
    """A shard has failed, another one runs, and the merge of the first submission is still in the queue."""
    root = tmp_path / "features"
    assert main(["--jobs", "extract", "merge", "--splits", "test", "--shards", "2", "--root", str(root)]) == 0
    grid = declared_grid({"FUNGI_GRID": str(root / LAST_GRID)})
    extract, merge = jobs_of(grid, "extract", "merge")
    attempts = (Attempt(state="ended", status=1, job="1_0"), Attempt(job="1_1", host="n1"))
    for element, attempt in zip(extract.elements, attempts, strict=True):
        Records(root, extract.call).write(element, attempt)
    lines = (f"1_1 RUNNING {comment_of(grid, extract.call)}", f"2_0 PENDING {comment_of(grid, merge.call)}")
    (tmp_path / "bin" / "squeue").write_text("".join(["#!/bin/sh\n", *(f"echo {line}\n" for line in lines)]))
    cancelled = tmp_path / "cancelled"
    program = tmp_path / "bin" / "scancel"
    program.write_text(f'#!/bin/sh\necho "$@" > {cancelled}\n')
    program.chmod(0o755)
    assert main(["--missing", "--root", str(root)]) == 0
    assert cancelled.read_text() == "2_0\n"
    assert list(dependencies_of(fake_sbatch).values())[2:] == [
        ("extract", "0", [""]),
        ("merge", "0", ["afterok", "1_1", "3"]),
    ]
