"""`fungi status` tells done from running, failed and missing by the files below the root."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from fungi.grid.declaration import Grid
from fungi.grid.elements import Element, Work, elements
from fungi.grid.progress import Progress, Queue, comment_of, counts, progress_of
from fungi.grid.records import INTERRUPTED, Attempt, Records
from fungi.store.birth import Birth
from fungi.store.blocks import BlockFolder, Manifest
from fungi.store.layout import Layout

merge = COMMANDS["merge"].main

ROOT = Path(__file__).resolve().parents[2]
WORK = Work("extract-gradients", ("--objective", "kl"), features=("kl",))


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue
    return Grid(root=tmp_path, splits=("test",), shards=2, datasets=("digits",))


def file_of(grid: Grid) -> Path:
    return Layout(grid.root).gradients("digits", "digits-vit", "kl", "test")


def begin_blocks(grid: Grid, done: list[int]) -> None:
    """Five blocks of two rows, some of them there."""
    import numpy as np

    facts = dict.fromkeys(("dataset_fingerprint", "weights_hash", "weights_source", "input", "profile", "dtype"), "x")
    birth = Birth(
        **facts, feature="kl", dataset="digits", split="test", rows=10, backbone="digits-vit", seed=42, device="cpu"
    )
    manifest = Manifest(str(file_of(grid).relative_to(grid.root)), birth, {}, 2)
    blocks = BlockFolder.create(Layout(grid.root).blocks(file_of(grid), manifest.key), manifest)
    for span in manifest.spans():
        if span.index in done:
            blocks.write(span, {"kl": np.zeros((len(span), 3), dtype=np.float32)})


def look(grid: Grid, queue: Queue | None = None) -> list[Progress]:
    outputs = {element: [file_of(grid)] for element in elements(grid, WORK)}
    return progress_of(grid, WORK, outputs, queue or Queue())


def note(grid: Grid, index: int, **fields) -> None:
    attempt = replace(Attempt(host="elsewhere", pid=1), **fields)
    Records(grid.root, WORK).write(elements(grid, WORK)[index], attempt)


def test_nothing_done_is_missing(grid: Grid) -> None:
    assert [p.state for p in look(grid)] == ["missing", "missing"]


def test_a_shard_is_done_when_its_own_blocks_are_there(grid: Grid) -> None:
    begin_blocks(grid, [0, 2, 4, 1])
    assert [(p.state, p.detail) for p in look(grid)] == [("done", "merge is left"), ("missing", "1 blocks done")]


def test_the_feature_file_shows_all_shards_to_be_done(grid: Grid) -> None:
    file_of(grid).parent.mkdir(parents=True)
    file_of(grid).touch()
    assert counts(look(grid)) == "done 2/2"


def test_an_element_runs_as_long_as_the_queue_has_it(grid: Grid) -> None:
    note(grid, 1, job="7_1")
    assert look(grid, Queue(["7_1 RUNNING (null)"]))[1].state == "running"
    failed = look(grid, Queue([]))[1]
    assert (failed.state, failed.detail) == ("failed", "ended without a word: killed, or its node failed (no log file)")


def test_without_a_queue_to_ask_an_attempt_without_an_end_counts_as_running(grid: Grid) -> None:
    note(grid, 1, job="7_1")
    assert look(grid)[1].state == "running"


def test_outside_of_slurm_the_process_is_looked_for(grid: Grid) -> None:
    ours = Attempt.begin({})
    Records(grid.root, WORK).write(elements(grid, WORK)[0], ours)
    Records(grid.root, WORK).write(elements(grid, WORK)[1], replace(ours, pid=2**22 + 1))
    assert [p.state for p in look(grid)] == ["running", "failed"]
    assert ours.pid == os.getpid()


def test_a_failure_is_told_with_the_last_line_of_its_log(grid: Grid, tmp_path: Path) -> None:
    log = tmp_path / "x.out"
    log.write_text("element 1\nextract.py: dataset 'pets' is not there.\n\n")
    note(grid, 1, job="7_1", state="ended", status=2, log=str(log))
    assert look(grid, Queue([]))[1].detail == f"extract.py: dataset 'pets' is not there.; status 2 ({log})"


def test_an_interrupted_element_that_waits_in_the_queue_is_not_submitted_again(grid: Grid) -> None:
    note(grid, 1, job="7_1", state=INTERRUPTED, status=130)
    assert look(grid, Queue(["7_1 PENDING (null)"]))[1].state == "queued"
    assert look(grid, Queue([]))[1].state == "failed"


def test_queued_elements_are_known_by_the_comment_of_their_array(grid: Grid) -> None:
    queue = Queue([f"9_1 PENDING {comment_of(grid, WORK)}", "10_0 PENDING fungi:another:root:0"])
    assert [p.state for p in look(grid, queue)] == ["missing", "queued"]


def test_a_restarted_element_that_ended_well_without_its_blocks_is_missing(grid: Grid) -> None:
    note(grid, 0, state="ended", status=0)
    assert look(grid)[0].state == "missing"


def test_an_evaluation_is_done_when_its_result_is_complete_and_no_attempt_says_otherwise(grid: Grid) -> None:
    work, element, result = Work("knn"), Element("digits-vit", "digits"), grid.root / "result.json"
    grid = replace(grid, splits=())

    def state() -> str:
        return progress_of(grid, work, {element: [result]}, Queue([]))[0].state

    assert state() == "missing"
    result.write_text('{"complete": false}')
    assert state() == "missing"  # started by hand, and killed
    result.write_text('{"complete": true}')
    assert state() == "done"
    Records(grid.root, work).write(element, Attempt(state="ended", status=2, job="1_0"))
    assert state() == "failed"


def status(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert COMMANDS["status"].main(words) == 0
    return capsys.readouterr().out


def test_status_prints_the_command_that_submits_what_is_left(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    begin_blocks(grid, [0, 2, 4])
    words = ["--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi", "concat"]
    said = status(capsys, *words)
    assert "grads_kl_multi               done 1/2, missing 1" in said
    (line,) = [line for line in said.splitlines() if " sbatch " in line]
    assert "--array=1 " in line
    assert "FUNGI_PARTIAL=1" in line
    assert line.endswith("jobs/grads_kl_multi.job")


def test_status_shows_the_jobs_that_have_run(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    note(grid, 0, state="ended", status=0)
    shown = status(capsys, "--root", str(grid.root)).split("\n\n")[0]
    assert [line.split()[0] for line in shown.splitlines()] == ["grads_kl_multi"]


def test_records_name_the_job_and_the_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "SLURM_ARRAY_JOB_ID": "5",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURMD_NODENAME": "n1",
        "SLURM_RESTART_COUNT": "2",
    }
    attempt = Attempt.begin(variables)
    assert (attempt.job, attempt.host, attempt.restarts) == ("5_3", "n1", 2)
    assert json.loads(json.dumps(attempt.finished(0).status)) == 0


def test_a_merge_fails_where_no_block_of_an_expected_file_is_there(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_blocks(grid, [0, 1, 2, 3])
    kl = str(file_of(grid).relative_to(grid.root))
    assert merge(["--root", str(grid.root), "--expect", kl, "embeddings/digits/digits-vit/test.h5"]) == 2
    said = capsys.readouterr().err
    assert "1 of 5 blocks are missing: 4 (rows 8-9)" in said
    assert "no block is there of: embeddings/digits/digits-vit/test.h5. Run the stages" in said


def test_a_merge_of_all_blocks_gives_the_file_and_keeps_it(grid: Grid) -> None:
    begin_blocks(grid, [0, 1, 2, 3, 4])
    kl = str(file_of(grid).relative_to(grid.root))
    for _ in range(2):
        assert merge(["--root", str(grid.root), "--expect", kl]) == 0
    assert file_of(grid).exists()


def test_what_is_submitted_again_waits_for_what_still_runs(grid: Grid) -> None:
    note(grid, 0, job="7_0")
    queue = Queue(["7_0 RUNNING (null)", f"9_1 PENDING {comment_of(grid, WORK)}"])
    assert [p.job for p in look(grid, queue)] == ["7_0", "9_1"]
