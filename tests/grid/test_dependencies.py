"""Tasks of arrays wait for the tasks whose files they read."""

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
from tests.grid.submitted_jobs import JOBS, jobs_of

main = COMMANDS["submit"].main

pytestmark = pytest.mark.usefixtures("project_folder")


CHAIN = ("--jobs", "projection", "extract", "merge", "concat", "concat_linear", "report", "--shards", "2")


TWO = ("--backbones", "digits-vit", "vit-b16", "--datasets", "digits", "pets", "--splits", "test")


def dependencies_of(calls: Path) -> dict[str, tuple[str, str, list[str]]]:
    """Return job id -> job file, indices, and the dependency: its kind and the jobs."""
    dependencies = {}
    for path in sorted(calls.iterdir(), key=lambda path: int(path.name)):
        words = path.read_text().splitlines()
        given = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        kind, _, ids = given.get("--dependency", "").partition(":")
        dependencies[path.name] = (Path(words[-1]).stem, given["--array"], [kind, *filter(None, ids.split(":"))])
    return dependencies


def test_pairs_with_the_same_work_share_arrays_whose_tasks_wait_for_their_own_pair(
    tmp_path: Path, fake_sbatch: Path
) -> None:
    """Four pairs of backbone and dataset, two shards: an array per shard, then one per job, all with equal indices."""
    assert main([*CHAIN, *TWO, "--root", str(tmp_path / "features")]) == 0
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
    one = ("--backbones", "digits-vit", "--datasets", "digits", "--splits", "test")
    assert main([*CHAIN, *one, "--root", str(tmp_path / "features")]) == 0
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
"""Grids with two or three splits, one to many shards, and a dataset that kNN does not evaluate."""


CHAIN_JOBS = ("grads_all_multi", "merge", "concat", "retrieval/concat", "report")


@pytest.mark.parametrize("grid", [VARIED, replace(VARIED, shards=4, pack=2), replace(VARIED, shards=5, pack=3)])
@pytest.mark.parametrize("most", [7, 1000])
def test_every_element_is_submitted_once_and_waits_for_its_own_pair(grid: Grid, most: int) -> None:
    """By brute force: list the elements of each task, and the tasks for which SLURM makes it wait."""
    planned_jobs = [PlannedJob(grid_job, range(grid_job.count), {}) for grid_job in jobs_of(grid, *CHAIN_JOBS)]
    tasks: dict[str, tuple[str, list[Element]]] = {}  # array_task -> job, elements
    arrays_of: dict[str, list[str]] = {}
    waits: dict[str, list[str]] = {}

    def submit(array: Array, grid_job: GridJob) -> str:
        job = str(len(arrays_of) + 1)
        words = dict(word.split("=", 1) for word in array.command if word.startswith("--") and "=" in word)
        kind, _, needed = words.get("--dependency", "").partition(":")
        arrays_of[job] = []
        numbers = numbers_of(words["--array"])
        for number in numbers:
            spread = {"JOB_ID": 7, "TASK_ID": number, "TASK_COUNT": len(numbers), "TASK_MIN": min(numbers)}
            environ = {f"SLURM_ARRAY_{name}": str(value) for name, value in spread.items()}
            environ |= {"SLURM_ARRAY_TASK_MAX": str(max(numbers)), **array.variables}
            pack = grid.pack if grid_job.stage == "extraction" else 1
            indices = chosen_indices(environ, grid_job.count, pack, grid_job.places)
            tasks[f"{job}_{number}"] = (grid_job.job.name, [grid_job.elements[index] for index in indices])
            arrays_of[job].append(f"{job}_{number}")
            waits[f"{job}_{number}"] = [
                task
                for name in needed.split(":")
                for task in ([f"{name}_{number}"] if kind == "aftercorr" else arrays_of.get(name, [name]))
                if name
            ]
        return job

    submit_all(grid, planned_jobs, replace(JOBS, max_array=most), submit)
    done = Counter((name, element) for name, elements in tasks.values() for element in elements)
    assert done == Counter(
        (job.grid_job.job.name, element) for job in planned_jobs for element in job.grid_job.elements
    )
    for stage, before in (("merge", "grads_all_multi"), ("concat", "merge"), ("retrieval/concat", "merge")):
        for task, (name, (element, *_)) in tasks.items():
            if name == stage:
                needed = {
                    one
                    for one, (job, elements) in tasks.items()
                    if job == before
                    for other in elements
                    if other.pair == element.pair
                }
                assert needed <= set(waits[task])
                # A pack may hold shards of two pairs; nothing else is waited for.
                strangers = [one for one in waits[task] if one not in needed]
                assert not strangers
    (report,) = [task for task, (name, _) in tasks.items() if name == "report"]
    assert set(waits[report]) == {task for task, (name, _) in tasks.items() if name.endswith("concat")}


def numbers_of(array: str) -> list[int]:
    spans = [span.partition("-") for span in array.partition("%")[0].split(",")]
    return [number for low, _, high in spans for number in range(int(low), int(high or low) + 1)]


def test_a_merge_that_waits_for_a_failed_shard_is_cancelled_and_submitted_again(
    tmp_path: Path, fake_sbatch: Path
) -> None:
    """One shard failed, the other runs, and the merge of the first submission is still in the queue."""
    root = tmp_path / "features"
    assert main(["--jobs", "extract", "merge", "--splits", "test", "--shards", "2", "--root", str(root)]) == 0
    grid = declared_grid({"FUNGI_GRID": str(root / LAST_GRID)})
    extract, merge = jobs_of(grid, "extract", "merge")
    for index, state in enumerate((Attempt(state="ended", status=1, job="1_0"), Attempt(job="1_1", host="n1"))):
        Records(root, extract.call).write(extract.elements[index], state)
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
