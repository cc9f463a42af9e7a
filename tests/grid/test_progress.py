"""`fungi status` shows which elements are done, running, failed or missing, from the files below the root."""

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fungi.commands import COMMANDS
from fungi.grid.declaration import LAST_GRID, Grid, declared_grid, store_grid
from fungi.grid.elements import Element, GridCall, elements_of
from fungi.grid.freezing import freeze
from fungi.grid.progress import ExpectedFiles, progress_of
from fungi.grid.progress_text import counts
from fungi.grid.queue import Queue, comment_of
from fungi.grid.records import Attempt, Records
from fungi.scoring.knn_concat import KnnSettings
from fungi.settings import as_json
from tests.evaluation.feature_folder import write_array
from tests.grid.blocks_of_grid import CALL, PROVENANCE, begin_blocks, file_of, progress_in, record, status

ROOT = Path(__file__).resolve().parents[2]
LARGER_THAN_ANY_PID = 2**22 + 1
"""Process ids of Linux are at most 2^22."""

merge = COMMANDS["merge"].main


def test_an_element_without_files_is_missing(grid: Grid) -> None:
    assert [item.state for item in progress_in(grid)] == ["missing", "missing"]


def test_a_shard_is_done_if_all_its_blocks_exist(grid: Grid) -> None:
    begin_blocks(grid, [0, 2, 4, 1])  # the first shard has blocks 0, 2 and 4; the second has 1 and 3
    assert [(item.state, item.detail) for item in progress_in(grid)] == [
        ("done", "not merged yet"),
        ("missing", "1 block done"),
    ]


def test_all_shards_are_done_if_the_feature_file_exists(grid: Grid) -> None:
    write_array(file_of(grid), "attn_proj", np.zeros((10, 3)))
    assert counts(progress_in(grid)) == "done 2/2"


def test_without_slurm_an_element_is_running_while_its_process_exists(grid: Grid) -> None:
    attempt = Attempt.begin({}, grid.root)
    Records(grid.root, CALL).write(elements_of(grid, CALL)[0], attempt)
    Records(grid.root, CALL).write(elements_of(grid, CALL)[1], replace(attempt, pid=LARGER_THAN_ANY_PID))
    assert [item.state for item in progress_in(grid)] == ["running", "failed"]
    assert attempt.pid == os.getpid()


def test_a_failure_is_shown_with_the_last_line_of_its_log(grid: Grid, tmp_path: Path) -> None:
    log = tmp_path / "x.out"
    log.write_text("element 1\nextract.py: dataset 'pets' is not there.\n\n")
    record(grid, 1, job="7_1", state="ended", status=2, log=str(log))
    assert progress_in(grid, Queue([]))[1].detail == f"extract.py: dataset 'pets' is not there.; status 2 ({log})"


def test_a_restarted_element_with_status_0_but_without_its_blocks_is_missing(grid: Grid) -> None:
    record(grid, 0, state="ended", status=0)
    assert progress_in(grid)[0].state == "missing"


def test_an_evaluation_is_done_if_its_result_is_complete_and_its_last_attempt_did_not_fail(grid: Grid) -> None:
    call, element, result = GridCall("knn"), Element("digits-vit", "digits"), grid.root / "result.json"
    grid = replace(grid, splits=())

    def state() -> str:
        return progress_of(grid, call, {element: ExpectedFiles([result])}, Queue([]))[0].state

    assert state() == "missing"
    result.write_text('{"complete": false}')
    assert state() == "missing"  # like an evaluation without a record that was killed
    result.write_text('{"complete": true}')
    assert state() == "done"
    Records(grid.root, call).write(element, Attempt(state="ended", status=2, job="1_0"))
    assert state() == "failed"


def test_status_prints_the_command_that_submits_the_missing_elements(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_blocks(grid, [0, 2, 4])
    words = ["--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi", "concat"]
    output = status(capsys, *words)
    assert "grads_kl_multi               done 1/2, missing 1" in output
    (line,) = [line for line in output.splitlines() if " sbatch " in line]
    assert "--array=1 " in line
    assert "FUNGI_PARTIAL=1" in line
    assert line.endswith("jobs/grads_kl_multi.job")


def test_status_shows_only_jobs_that_have_run(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    record(grid, 0, state="ended", status=0)
    table = status(capsys, "--root", str(grid.root)).split("\n\n")[0]
    assert [line.split()[0] for line in table.splitlines()] == ["grads_kl_multi"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [("--k 0", "--k"), ("--vote plurality", "--vote"), ("--layer-key", "--layer-key")],
)
def test_the_message_about_invalid_flags_names_the_job_and_an_element(
    flags: str, message: str, grid: Grid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUNGI_FLAGS_KNN", flags)
    assert COMMANDS["status"].main(["--root", str(grid.root), "--jobs", "concat"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "concat.job, for digits-vit digits." in error


def test_status_builds_the_settings_of_each_pair_once(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A large grid has thousands of settings, and each takes time to check."""
    settings_per_dataset: Counter[str] = Counter()
    post_init = KnnSettings.__post_init__

    def count_and_check(self: KnnSettings) -> None:
        settings_per_dataset[self.dataset] += 1
        post_init(self)

    monkeypatch.setattr(KnnSettings, "__post_init__", count_and_check)
    first, *others = ["pets", "cars", "digits", "flowers102"]
    status(capsys, "--root", str(grid.root), "--jobs", "concat", "--datasets", first, *others)
    # The command line is parsed for the first pair, and parsing may build its settings more than once.
    assert {name: settings_per_dataset[name] for name in others} == dict.fromkeys(others, 1)


def test_an_attempt_records_the_job_the_host_and_the_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "SLURM_ARRAY_JOB_ID": "5",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURMD_NODENAME": "n1",
        "SLURM_RESTART_COUNT": "2",
    }
    attempt = Attempt.begin(variables, Path("features"))
    assert (attempt.job, attempt.host, attempt.restarts) == ("5_3", "n1", 2)
    assert attempt.finished(0).status == 0


def test_a_merge_fails_if_an_expected_file_has_no_block(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    begin_blocks(grid, [0, 1, 2, 3])
    kl = str(file_of(grid).relative_to(grid.root))
    assert merge(["--root", str(grid.root), "--expect", kl, "embeddings/digits/digits-vit/test.h5"]) == 2
    output = capsys.readouterr().err
    assert "1 of 5 blocks are missing: 4 (rows 8-9)" in output
    assert "there are no blocks of: embeddings/digits/digits-vit/test.h5. Run the stages" in output


def test_a_merge_of_all_blocks_writes_the_file_and_a_second_merge_keeps_it(grid: Grid) -> None:
    begin_blocks(grid, [0, 1, 2, 3, 4])
    kl = str(file_of(grid).relative_to(grid.root))
    for _ in range(2):
        assert merge(["--root", str(grid.root), "--expect", kl]) == 0
    assert file_of(grid).exists()


def test_shards_that_run_or_wait_have_a_job_for_which_a_new_merge_can_wait(grid: Grid) -> None:
    record(grid, 0, job="7_0")
    queue = Queue(["7_0 RUNNING (null)", f"9_1 PENDING {comment_of(grid, CALL)}"])
    assert [item.job for item in progress_in(grid, queue)] == ["7_0", "9_1"]


def test_a_feature_file_of_another_seed_counts_as_missing(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    """The file has features of --seed 43, and the grid declares seed 42."""
    settings = COMMANDS["extract-gradients"].parse(["--seed", "43", "--objective", "kl"])
    write_array(
        file_of(grid), "attn_proj", np.zeros((10, 3)), provenance=replace(PROVENANCE, settings=as_json(settings))
    )
    words = ["--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi"]
    output = status(capsys, *words)
    assert "missing 2" in output
    assert "kl was computed with --seed 43, not 42" in output
    write_array(
        file_of(grid),
        "attn_proj",
        np.zeros((10, 3)),
        provenance=replace(PROVENANCE, settings=as_json(replace(settings, seed=42))),
    )
    assert "done 2/2" in status(capsys, *words)


def test_blocks_of_another_seed_are_not_counted(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    settings = as_json(COMMANDS["extract-gradients"].parse(["--seed", "43", "--objective", "kl"]))
    begin_blocks(grid, [0, 1, 2, 3, 4], settings=settings)
    output = status(capsys, "--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi")
    assert "missing 2" in output


@pytest.mark.parametrize(("option", "differs"), [("simclr.temperature=5.0", False), ("kl.temperature=5.0", True)])
def test_a_file_differs_only_if_an_option_of_its_own_objective_differs(option: str, differs: bool) -> None:
    settings = COMMANDS["extract-gradients"].parse(["--objective", "kl", "simclr", "--set", option])
    without_option = as_json(COMMANDS["extract-gradients"].parse(["--objective", "kl"]))
    assert bool(settings.difference_from(replace(PROVENANCE, feature="kl", settings=without_option))) == differs


def test_a_result_of_another_k_counts_as_missing(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    settings = COMMANDS["knn"].parse(["--root", str(grid.root)])
    (path,) = settings.outputs()
    path.parent.mkdir(parents=True)
    words = ["--root", str(grid.root), "--splits", "test", "--jobs", "concat"]
    for k, expected in ((20, "done 1/1"), (5, "missing 1")):
        content = {"settings": {**settings.identity(), "k": k}, "provenance": {}, "results": {}, "complete": True}
        path.write_text(json.dumps(content))
        assert expected in status(capsys, *words)


def test_a_copied_root_is_independent_of_the_original(
    grid: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs of the original do not count in the copy, and the copy has no path of the original."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    code = freeze(ROOT, original)
    stored = replace(grid, root=original, data_dir=tmp_path, jobs=("grads_kl_multi",), code=str(code))
    shutil.copyfile(store_grid(stored), original / LAST_GRID)
    Records(original, CALL).write(
        elements_of(grid, CALL)[0], Attempt(state="running", job="7_0", host="elsewhere", root=str(original))
    )
    shutil.copytree(original, copy)
    assert "running 1" in status(capsys, "--root", str(original))
    output = status(capsys, "--root", str(copy))
    assert "missing 2" in output
    assert f"{original}/" not in output
    assert f"{copy}/code/{code.name}/jobs/grads_kl_multi.job" in output
    grid_file = re.search(r"FUNGI_GRID=(\S+)", output)
    assert grid_file is not None
    assert declared_grid({"FUNGI_GRID": grid_file[1]}).root == copy


def test_status_writes_no_file_and_prints_a_command_with_the_complete_grid(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_blocks(grid, [0, 2, 4])
    before = sorted(grid.root.rglob("*"))
    output = status(capsys, "--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi")
    assert sorted(grid.root.rglob("*")) == before
    (line,) = [line for line in output.splitlines() if " sbatch " in line]
    variables = dict(word.split("=", 1) for word in line.split(" sbatch ")[0].split())
    declared = declared_grid({name: text for name, text in variables.items() if name != "FUNGI_PYTHON"})
    assert (declared.root, declared.shards, declared.splits) == (grid.root, 2, ("test",))
    assert f"mkdir -p {grid.root}/logs" in output


def test_elements_with_the_same_problem_share_a_line(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    large = replace(grid, shards=40)
    for index, element in enumerate(elements_of(large, CALL)):
        text = "no GPU" if index % 2 else f"{index} images are damaged"
        (grid.root / f"{index}.out").write_text(text)
        attempt = Attempt(state="ended", status=2, job=f"7_{index}", log=str(grid.root / f"{index}.out"))
        Records(large.root, CALL).write(element, attempt)
    words = ["--root", str(grid.root), "--splits", "test", "--shards", "40", "--jobs", "grads_kl_multi"]
    lines = [line for line in status(capsys, *words).splitlines() if "  failed" in line]
    assert len(lines) == 2
    assert "test 1/40 and 19 more: 0 images are damaged; status 2" in lines[0]
    assert "test 2/40 and 19 more: no GPU" in lines[1]
    assert len([line for line in status(capsys, *words, "--verbose").splitlines() if "  failed" in line]) == 40
