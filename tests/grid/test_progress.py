"""`fungi status` tells done from running, failed and missing by the files below the root."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fungi.commands import COMMANDS
from fungi.grid.declaration import LAST_GRID, Grid, declared_grid, store_grid
from fungi.grid.elements import Element, GridCall, elements
from fungi.grid.progress import Expected, Progress, Queue, comment_of, counts, progress_of
from fungi.grid.records import INTERRUPTED, Attempt, Records
from fungi.grid.submit import freeze
from fungi.settings import as_json
from fungi.store.blocks import BlockFolder, Manifest
from fungi.store.layout import Layout
from fungi.store.provenance import Provenance
from tests.evaluation.feature_folder import BIRTH as ANY_BIRTH
from tests.evaluation.feature_folder import write_array

merge = COMMANDS["merge"].main

ROOT = Path(__file__).resolve().parents[2]
BIRTH = replace(ANY_BIRTH, feature="kl")
CALL = GridCall("extract-gradients", ("--objective", "kl"), features=("kl",))


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue
    return Grid(root=tmp_path, splits=("test",), shards=2, datasets=("digits",))


def file_of(grid: Grid) -> Path:
    return Layout(grid.root).gradients("digits", "digits-vit", "kl", "test")


def begin_blocks(grid: Grid, done: list[int], settings: dict | None = None) -> None:
    """Five blocks of two rows, some of them there."""
    facts = dict.fromkeys(("dataset_fingerprint", "weights_hash", "weights_source", "input", "profile", "dtype"), "x")
    provenance = Provenance(
        **facts, feature="kl", dataset="digits", split="test", rows=10, backbone="digits-vit", seed=42, device="cpu"
    )
    provenance = replace(provenance, settings=settings or {})
    manifest = Manifest(str(file_of(grid).relative_to(grid.root)), provenance, {}, 2)
    blocks = BlockFolder.create(Layout(grid.root).blocks(file_of(grid), manifest.key), manifest)
    for span in manifest.spans():
        if span.index in done:
            blocks.write(span, {"kl": np.zeros((len(span), 3), dtype=np.float32)})


def look(grid: Grid, queue: Queue | None = None) -> list[Progress]:
    expected = {element: Expected([file_of(grid)]) for element in elements(grid, CALL)}
    return progress_of(grid, CALL, expected, queue or Queue())


def note(grid: Grid, index: int, **fields) -> None:
    attempt = replace(Attempt(host="elsewhere", pid=1), **fields)
    Records(grid.root, CALL).write(elements(grid, CALL)[index], attempt)


def test_nothing_done_is_missing(grid: Grid) -> None:
    assert [p.state for p in look(grid)] == ["missing", "missing"]


def test_a_shard_is_done_when_its_own_blocks_are_there(grid: Grid) -> None:
    begin_blocks(grid, [0, 2, 4, 1])
    assert [(p.state, p.detail) for p in look(grid)] == [("done", "merge is left"), ("missing", "1 blocks done")]


def test_the_feature_file_shows_all_shards_to_be_done(grid: Grid) -> None:
    write_array(file_of(grid), "attn_proj", np.zeros((10, 3)))
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
    ours = Attempt.begin({}, grid.root)
    Records(grid.root, CALL).write(elements(grid, CALL)[0], ours)
    Records(grid.root, CALL).write(elements(grid, CALL)[1], replace(ours, pid=2**22 + 1))
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
    queue = Queue([f"9_1 PENDING {comment_of(grid, CALL)}", "10_0 PENDING fungi:another:root:0"])
    assert [p.state for p in look(grid, queue)] == ["missing", "queued"]


def test_a_restarted_element_that_ended_well_without_its_blocks_is_missing(grid: Grid) -> None:
    note(grid, 0, state="ended", status=0)
    assert look(grid)[0].state == "missing"


def test_an_evaluation_is_done_when_its_result_is_complete_and_no_attempt_says_otherwise(grid: Grid) -> None:
    call, element, result = GridCall("knn"), Element("digits-vit", "digits"), grid.root / "result.json"
    grid = replace(grid, splits=())

    def state() -> str:
        return progress_of(grid, call, {element: Expected([result])}, Queue([]))[0].state

    assert state() == "missing"
    result.write_text('{"complete": false}')
    assert state() == "missing"  # started by hand, and killed
    result.write_text('{"complete": true}')
    assert state() == "done"
    Records(grid.root, call).write(element, Attempt(state="ended", status=2, job="1_0"))
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
    attempt = Attempt.begin(variables, Path("features"))
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
    queue = Queue(["7_0 RUNNING (null)", f"9_1 PENDING {comment_of(grid, CALL)}"])
    assert [p.job for p in look(grid, queue)] == ["7_0", "9_1"]


def test_a_file_that_was_made_with_another_seed_is_not_the_one_that_is_missing(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features of --seed 43 lie there; the grid asks for those of 42, which nothing has made."""
    settings = COMMANDS["extract-gradients"].parse(["--seed", "43", "--objective", "kl"])
    write_array(file_of(grid), "attn_proj", np.zeros((10, 3)), provenance=replace(BIRTH, settings=as_json(settings)))
    words = ["--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi"]
    said = status(capsys, *words)
    assert "missing 2" in said
    assert "kl was made with --seed 43, not 42" in said
    write_array(
        file_of(grid),
        "attn_proj",
        np.zeros((10, 3)),
        provenance=replace(BIRTH, settings=as_json(replace(settings, seed=42))),
    )
    assert "done 2/2" in status(capsys, *words)


def test_blocks_of_another_seed_are_not_this_elements_blocks(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    settings = as_json(COMMANDS["extract-gradients"].parse(["--seed", "43", "--objective", "kl"]))
    begin_blocks(grid, [0, 1, 2, 3, 4], settings=settings)
    said = status(capsys, "--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi")
    assert "missing 2" in said


@pytest.mark.parametrize(("option", "other"), [("simclr.temperature=5.0", False), ("kl.temperature=5.0", True)])
def test_options_of_other_objectives_make_no_other_file(option: str, other: bool) -> None:
    wanted = COMMANDS["extract-gradients"].parse(["--objective", "kl", "simclr", "--set", option])
    plain = as_json(COMMANDS["extract-gradients"].parse(["--objective", "kl"]))
    assert bool(wanted.differs_from(replace(BIRTH, feature="kl", settings=plain))) == other


def test_a_result_of_another_k_is_not_the_one_that_is_missing(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    settings = COMMANDS["knn"].parse(["--root", str(grid.root)])
    (path,) = settings.outputs()
    path.parent.mkdir(parents=True)
    words = ["--root", str(grid.root), "--splits", "test", "--jobs", "concat"]
    for k, shown in ((20, "done 1/1"), (5, "missing 1")):
        content = {"settings": {**settings.deciding(), "k": k}, "provenance": {}, "results": {}, "complete": True}
        path.write_text(json.dumps(content))
        assert shown in status(capsys, *words)


def test_a_copied_root_is_its_own(grid: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was submitted below the original does not run in the copy, and nothing of the copy leads to the original."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    code = freeze(ROOT, original)
    stored = replace(grid, root=original, data_dir=tmp_path, jobs=("grads_kl_multi",), code=str(code))
    shutil.copyfile(store_grid(stored), original / LAST_GRID)
    Records(original, CALL).write(
        elements(grid, CALL)[0], Attempt(state="running", job="7_0", host="elsewhere", root=str(original))
    )
    shutil.copytree(original, copy)
    assert "running 1" in status(capsys, "--root", str(original))
    said = status(capsys, "--root", str(copy))
    assert "missing 2" in said
    assert f"{original}/" not in said
    assert f"{copy}/code/{code.name}/jobs/grads_kl_multi.job" in said
    grid_file = re.search(r"FUNGI_GRID=(\S+)", said)
    assert grid_file is not None
    assert declared_grid({"FUNGI_GRID": grid_file[1]}).root == copy


def test_a_queue_that_can_not_be_asked_is_no_empty_queue(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    words = ["--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi"]
    status(capsys, *words)
    queue = Queue.ask()
    assert not queue.known
    assert "Unable to contact slurm controller" in queue.failure
    assert COMMANDS["submit"].main([*words, "--missing"]) == 2
    assert "squeue failed (slurm_load_jobs error: Unable to contact" in capsys.readouterr().err


def test_a_pack_in_the_queue_holds_all_of_its_elements(grid: Grid) -> None:
    packed = replace(grid, shards=5, pack=2)
    queue = Queue([f"9_1 PENDING {comment_of(packed, CALL)}", f"10_0 PENDING {comment_of(packed, CALL, 2)}"])
    expected = {element: Expected([file_of(packed)]) for element in elements(packed, CALL)}
    found = progress_of(packed, CALL, expected, queue)
    assert [(p.state, p.job) for p in found] == [
        *(("missing", ""),) * 2,
        *(("queued", "9_1"),) * 2,
        ("queued", "10_0"),
    ]
