"""`fungi status` shows elements as running or queued if squeue prints their jobs."""

from dataclasses import replace
from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from fungi.grid.calls import call_of_job, progress_of_jobs
from fungi.grid.declaration import Grid
from fungi.grid.elements import elements_of
from fungi.grid.job_files import read_job_file
from fungi.grid.progress import ExpectedFiles, progress_of, shape_of
from fungi.grid.queue import Queue, comment_of
from fungi.grid.records import INTERRUPTED
from tests.grid.blocks_of_grid import CALL, file_of, progress_in, record, status

ROOT = Path(__file__).resolve().parents[2]


def test_an_element_is_running_while_its_job_is_in_the_queue(grid: Grid) -> None:
    record(grid, 1, job="7_1")
    assert progress_in(grid, Queue(["7_1 RUNNING (null)"]))[1].state == "running"
    failed = progress_in(grid, Queue([]))[1]
    assert (failed.state, failed.detail) == (
        "failed",
        "ended without a message: killed, or its node failed (no log file)",
    )


def test_without_squeue_an_attempt_without_an_end_counts_as_running(grid: Grid) -> None:
    record(grid, 1, job="7_1")
    assert progress_in(grid)[1].state == "running"


def test_an_interrupted_element_is_queued_while_squeue_prints_its_job(grid: Grid) -> None:
    record(grid, 1, job="7_1", state=INTERRUPTED, status=130)
    assert progress_in(grid, Queue(["7_1 PENDING (null)"]))[1].state == "queued"
    assert progress_in(grid, Queue([]))[1].state == "failed"


def test_queued_elements_are_recognised_by_the_comment_of_their_array(grid: Grid) -> None:
    queue = Queue([f"9_1 PENDING {comment_of(grid, CALL)}", "10_0 PENDING fungi:another:root:0"])
    assert [item.state for item in progress_in(grid, queue)] == ["missing", "queued"]


def test_a_failed_squeue_does_not_count_as_an_empty_queue(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    words = ["--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi"]
    status(capsys, *words)
    queue = Queue.ask()
    assert not queue.is_known
    assert "Unable to contact slurm controller" in queue.failure
    assert COMMANDS["submit"].main([*words, "--missing"]) == 2
    assert "squeue failed (slurm_load_jobs error: Unable to contact" in capsys.readouterr().err


def test_all_elements_of_a_pack_in_the_queue_are_queued(grid: Grid) -> None:
    packed = replace(grid, shards=5, pack=2)
    queue = Queue(
        [
            f"9_1 PENDING {comment_of(packed, CALL, shape_of(packed, CALL))}",
            f"10_0 PENDING {comment_of(packed, CALL, shape_of(packed, CALL, first=2))}",
        ]
    )
    expected = {element: ExpectedFiles([file_of(packed)]) for element in elements_of(packed, CALL)}
    progress = progress_of(packed, CALL, expected, queue)
    assert [(item.state, item.job) for item in progress] == [
        *(("missing", ""),) * 2,
        *(("queued", "9_1"),) * 2,
        ("queued", "10_0"),
    ]


def test_in_an_array_over_pairs_the_slot_is_the_shard_and_the_task_is_the_pair(grid: Grid) -> None:
    """With two backbones and two shards, task 1 of the array with slot 1 is shard 2 of the second backbone."""
    grid = replace(grid, backbones=("digits-vit", "vit-b16"))
    queue = Queue([f"9_1 PENDING {comment_of(grid, CALL, shape_of(grid, CALL, slot=1))}"])
    expected = {element: ExpectedFiles([file_of(grid)]) for element in elements_of(grid, CALL)}
    assert [item.job for item in progress_of(grid, CALL, expected, queue)] == ["", "", "", "9_1"]


@pytest.mark.parametrize(
    ("command", "message"), [("echo ' ' >&2", "exit status 1"), ("printf '\\377\\n' >&2", "\ufffd")]
)
def test_a_failure_of_squeue_without_a_message_or_in_another_encoding_is_shown(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    program = tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\n{command}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert message in Queue.ask().failure


def test_a_merge_that_waits_for_a_failed_shard_does_not_count_as_queued(grid: Grid) -> None:
    """A shard has failed and another one runs. SLURM keeps the merge in the queue until the other shard has ended."""
    record(grid, 0, state="ended", status=1, job="7_0")
    record(grid, 1, job="7_1")
    files = [read_job_file(ROOT, name) for name in ("grads_kl_multi", "merge")]
    jobs = [(job, call_of_job(job, grid)) for job in files]
    lines = ["7_1 RUNNING x", f"8_0 PENDING {comment_of(grid, jobs[1][1])}"]
    progress_by_job = {grid_job.job.name: progress for grid_job, progress in progress_of_jobs(grid, jobs, Queue(lines))}
    assert [item.state for item in progress_by_job["grads_kl_multi"]] == ["failed", "running"]
    (merge,) = progress_by_job["merge"]
    assert (merge.state, merge.job, merge.blocked_job) == ("missing", "", "8_0")
