"""`fungi status` shows which elements are done, running, failed or missing, by the files below the root."""

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
from fungi.grid.calls import call_of_job, progress_of_jobs
from fungi.grid.declaration import LAST_GRID, Grid, declared_grid, store_grid
from fungi.grid.elements import Element, GridCall, elements
from fungi.grid.freezing import freeze
from fungi.grid.job_files import read_job_file
from fungi.grid.progress import Expected, Progress, progress_of, shape_of
from fungi.grid.progress_text import counts
from fungi.grid.queue import Queue, comment_of
from fungi.grid.records import INTERRUPTED, Attempt, Records
from fungi.scoring.knn_concat import KnnSettings
from fungi.settings import as_json
from fungi.store.blocks import BlockFolder, Manifest
from fungi.store.layout import Layout
from fungi.store.provenance import Provenance
from tests.evaluation.feature_folder import PROVENANCE as ANY_BIRTH
from tests.evaluation.feature_folder import write_array

merge = COMMANDS["merge"].main

ROOT = Path(__file__).resolve().parents[2]
PROVENANCE = replace(ANY_BIRTH, feature="kl")
CALL = GridCall("extract-gradients", ("--objective", "kl"), features=("kl",))


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue
    return Grid(root=tmp_path, splits=("test",), shards=2, datasets=("digits",))


def file_of(grid: Grid) -> Path:
    return Layout(grid.root).gradients("digits", "digits-vit", "kl", "test")


def begin_blocks(grid: Grid, done: list[int], settings: dict | None = None) -> None:
    """Create the folder of five blocks of two rows, and write the blocks `done`."""
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


def progress_in(grid: Grid, queue: Queue | None = None) -> list[Progress]:
    expected = {element: Expected([file_of(grid)]) for element in elements(grid, CALL)}
    return progress_of(grid, CALL, expected, queue or Queue())


def record(grid: Grid, index: int, **fields) -> None:
    attempt = replace(Attempt(host="elsewhere", pid=1), **fields)
    Records(grid.root, CALL).write(elements(grid, CALL)[index], attempt)


def test_an_element_without_files_is_missing(grid: Grid) -> None:
    assert [p.state for p in progress_in(grid)] == ["missing", "missing"]


def test_a_shard_is_done_if_its_own_blocks_exist(grid: Grid) -> None:
    begin_blocks(grid, [0, 2, 4, 1])
    assert [(p.state, p.detail) for p in progress_in(grid)] == [("done", "merge is left"), ("missing", "1 block done")]


def test_all_shards_are_done_if_the_feature_file_exists(grid: Grid) -> None:
    write_array(file_of(grid), "attn_proj", np.zeros((10, 3)))
    assert counts(progress_in(grid)) == "done 2/2"


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


def test_outside_of_slurm_an_element_is_running_while_its_process_exists(grid: Grid) -> None:
    ours = Attempt.begin({}, grid.root)
    Records(grid.root, CALL).write(elements(grid, CALL)[0], ours)
    Records(grid.root, CALL).write(elements(grid, CALL)[1], replace(ours, pid=2**22 + 1))
    assert [p.state for p in progress_in(grid)] == ["running", "failed"]
    assert ours.pid == os.getpid()


def test_a_failure_is_shown_with_the_last_line_of_its_log(grid: Grid, tmp_path: Path) -> None:
    log = tmp_path / "x.out"
    log.write_text("element 1\nextract.py: dataset 'pets' is not there.\n\n")
    record(grid, 1, job="7_1", state="ended", status=2, log=str(log))
    assert progress_in(grid, Queue([]))[1].detail == f"extract.py: dataset 'pets' is not there.; status 2 ({log})"


def test_an_interrupted_element_that_waits_in_the_queue_is_not_submitted_again(grid: Grid) -> None:
    record(grid, 1, job="7_1", state=INTERRUPTED, status=130)
    assert progress_in(grid, Queue(["7_1 PENDING (null)"]))[1].state == "queued"
    assert progress_in(grid, Queue([]))[1].state == "failed"


def test_queued_elements_are_recognised_by_the_comment_of_their_array(grid: Grid) -> None:
    queue = Queue([f"9_1 PENDING {comment_of(grid, CALL)}", "10_0 PENDING fungi:another:root:0"])
    assert [p.state for p in progress_in(grid, queue)] == ["missing", "queued"]


def test_a_restarted_element_that_ended_well_without_its_blocks_is_missing(grid: Grid) -> None:
    record(grid, 0, state="ended", status=0)
    assert progress_in(grid)[0].state == "missing"


def test_an_evaluation_is_done_if_its_result_is_complete_and_its_last_attempt_did_not_fail(grid: Grid) -> None:
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
    record(grid, 0, state="ended", status=0)
    shown = status(capsys, "--root", str(grid.root)).split("\n\n")[0]
    assert [line.split()[0] for line in shown.splitlines()] == ["grads_kl_multi"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [("--k 0", "--k"), ("--vote plurality", "--vote"), ("--layer-key", "--layer-key")],
)
def test_status_names_the_job_and_the_element_of_flags_that_are_refused(
    flags: str, message: str, grid: Grid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUNGI_FLAGS_KNN", flags)
    assert COMMANDS["status"].main(["--root", str(grid.root), "--jobs", "concat"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "concat.job, for digits-vit digits." in error


def test_status_builds_the_settings_of_a_pair_once(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A grid of 800 pairs has thousands of them."""
    built: Counter[str] = Counter()
    checked = KnnSettings.__post_init__
    monkeypatch.setattr(KnnSettings, "__post_init__", lambda self: built.update([self.dataset]) or checked(self))
    datasets = ["pets", "cars", "digits", "flowers102"]
    status(capsys, "--root", str(grid.root), "--jobs", "concat", "--datasets", *datasets)
    template = "pets"  # a command line is parsed for the first pair; a parse may build the settings more than once
    assert {name: built[name] for name in datasets if name != template} == dict.fromkeys(datasets[1:], 1)


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


def test_a_merge_fails_if_an_expected_file_has_no_block(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_merge_that_is_submitted_again_waits_for_shards_that_still_run(grid: Grid) -> None:
    record(grid, 0, job="7_0")
    queue = Queue(["7_0 RUNNING (null)", f"9_1 PENDING {comment_of(grid, CALL)}"])
    assert [p.job for p in progress_in(grid, queue)] == ["7_0", "9_1"]


def test_a_feature_file_of_another_seed_counts_as_missing(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    """The file has features of --seed 43, and the grid declares seed 42."""
    settings = COMMANDS["extract-gradients"].parse(["--seed", "43", "--objective", "kl"])
    write_array(
        file_of(grid), "attn_proj", np.zeros((10, 3)), provenance=replace(PROVENANCE, settings=as_json(settings))
    )
    words = ["--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi"]
    said = status(capsys, *words)
    assert "missing 2" in said
    assert "kl was made with --seed 43, not 42" in said
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
    said = status(capsys, "--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi")
    assert "missing 2" in said


@pytest.mark.parametrize(("option", "other"), [("simclr.temperature=5.0", False), ("kl.temperature=5.0", True)])
def test_options_of_other_objectives_do_not_make_a_file_differ(option: str, other: bool) -> None:
    wanted = COMMANDS["extract-gradients"].parse(["--objective", "kl", "simclr", "--set", option])
    plain = as_json(COMMANDS["extract-gradients"].parse(["--objective", "kl"]))
    assert bool(wanted.differs_from(replace(PROVENANCE, feature="kl", settings=plain))) == other


def test_a_result_of_another_k_counts_as_missing(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    settings = COMMANDS["knn"].parse(["--root", str(grid.root)])
    (path,) = settings.outputs()
    path.parent.mkdir(parents=True)
    words = ["--root", str(grid.root), "--splits", "test", "--jobs", "concat"]
    for k, shown in ((20, "done 1/1"), (5, "missing 1")):
        content = {"settings": {**settings.deciding(), "k": k}, "provenance": {}, "results": {}, "complete": True}
        path.write_text(json.dumps(content))
        assert shown in status(capsys, *words)


def test_a_copied_root_is_independent_of_the_original(
    grid: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs of the original do not count in the copy, and no path of the copy leads to the original."""
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
    assert not queue.known
    assert "Unable to contact slurm controller" in queue.failure
    assert COMMANDS["submit"].main([*words, "--missing"]) == 2
    assert "squeue failed (slurm_load_jobs error: Unable to contact" in capsys.readouterr().err


def test_a_pack_in_the_queue_holds_all_of_its_elements(grid: Grid) -> None:
    packed = replace(grid, shards=5, pack=2)
    queue = Queue(
        [
            f"9_1 PENDING {comment_of(packed, CALL, shape_of(packed, CALL))}",
            f"10_0 PENDING {comment_of(packed, CALL, shape_of(packed, CALL, first=2))}",
        ]
    )
    expected = {element: Expected([file_of(packed)]) for element in elements(packed, CALL)}
    shown = progress_of(packed, CALL, expected, queue)
    assert [(p.state, p.job) for p in shown] == [
        *(("missing", ""),) * 2,
        *(("queued", "9_1"),) * 2,
        ("queued", "10_0"),
    ]


def test_an_array_over_pairs_holds_the_elements_of_its_slot(grid: Grid) -> None:
    """Two backbones, two shards: task 1 of the array of slot 1 is the second shard of the second backbone."""
    two = replace(grid, backbones=("digits-vit", "vit-b16"))
    queue = Queue([f"9_1 PENDING {comment_of(two, CALL, shape_of(two, CALL, slot=1))}"])
    expected = {element: Expected([file_of(two)]) for element in elements(two, CALL)}
    assert [p.job for p in progress_of(two, CALL, expected, queue)] == ["", "", "", "9_1"]


@pytest.mark.parametrize(("message", "said"), [("echo ' ' >&2", "exit status 1"), ("printf '\\377\\n' >&2", "\ufffd")])
def test_a_failure_of_squeue_without_a_message_or_in_another_encoding_is_shown(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, said: str
) -> None:
    program = tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\n{message}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert said in Queue.ask().failure


def test_read_access_is_enough_for_status(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    begin_blocks(grid, [0, 2, 4])
    before = sorted(grid.root.rglob("*"))
    said = status(capsys, "--root", str(grid.root), "--splits", "test", "--shards", "2", "--jobs", "grads_kl_multi")
    assert sorted(grid.root.rglob("*")) == before
    (line,) = [line for line in said.splitlines() if " sbatch " in line]
    variables = dict(word.split("=", 1) for word in line.split(" sbatch ")[0].split())
    declared = declared_grid({name: text for name, text in variables.items() if name != "FUNGI_PYTHON"})
    assert (declared.root, declared.shards, declared.splits) == (grid.root, 2, ("test",))
    assert f"mkdir -p {grid.root}/logs" in said


def test_elements_with_the_same_problem_share_a_line(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    many = replace(grid, shards=40)
    for index, element in enumerate(elements(many, CALL)):
        words = "no GPU" if index % 2 else f"{index} images are damaged"
        (grid.root / f"{index}.out").write_text(words)
        attempt = Attempt(state="ended", status=2, job=f"7_{index}", log=str(grid.root / f"{index}.out"))
        Records(many.root, CALL).write(element, attempt)
    words = ["--root", str(grid.root), "--splits", "test", "--shards", "40", "--jobs", "grads_kl_multi"]
    shown = [line for line in status(capsys, *words).splitlines() if "  failed" in line]
    assert len(shown) == 2
    assert "test 1/40 and 19 more: 0 images are damaged; status 2" in shown[0]
    assert "test 2/40 and 19 more: no GPU" in shown[1]
    assert len([line for line in status(capsys, *words, "--verbose").splitlines() if "  failed" in line]) == 40


@pytest.fixture
def reported(grid: Grid, tmp_path: Path) -> tuple[Grid, Path]:
    """Return a grid with a result and a report that was written after it, and the path of the result."""
    settings = COMMANDS["knn"].parse(["--root", str(tmp_path)])
    (result,) = settings.outputs()
    result.parent.mkdir(parents=True)
    content = {"settings": settings.deciding(), "provenance": {}, "results": {}, "complete": True}
    result.write_text(json.dumps(content, default=str))
    os.utime(result, (1000, 1000))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.md").write_text("# Results\n")
    Records(grid.root, GridCall("report")).write(Element(), Attempt(state="ended", status=0, started=2000.0))
    return replace(grid, splits=()), result


def report_state(grid: Grid, capsys: pytest.CaptureFixture[str]) -> str:
    said = status(capsys, "--root", str(grid.root), "--jobs", "concat", "report")
    return said[said.index("report ") :]


def test_a_report_that_is_newer_than_all_results_is_done(reported, capsys: pytest.CaptureFixture[str]) -> None:
    assert "done 1/1" in report_state(reported[0], capsys)


def test_a_report_that_is_older_than_a_result_is_not_done(reported, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(reported[1], (3000, 3000))
    assert "1 result newer than the report" in report_state(reported[0], capsys)


def test_a_report_that_lists_an_existing_result_as_missing_is_not_done(
    reported, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copied result keeps its old modification time."""
    grid, result = reported
    (grid.root / "report" / "report.md").write_text(f"# Missing\n\n- {result}\n")
    assert "does not hold 1 result, written since" in report_state(grid, capsys)


def test_a_report_without_files_is_not_done(reported, capsys: pytest.CaptureFixture[str]) -> None:
    (reported[0].root / "report" / "report.md").unlink()
    assert "missing 1" in report_state(reported[0], capsys)


def test_a_merge_that_waits_for_a_failed_shard_does_not_count_as_queued(grid: Grid) -> None:
    """One shard failed, its sibling runs: SLURM keeps the merge in the queue until the sibling has ended."""
    record(grid, 0, state="ended", status=1, job="7_0")
    record(grid, 1, job="7_1")
    files = [read_job_file(ROOT, name) for name in ("grads_kl_multi", "merge")]
    jobs = [(job, call_of_job(job, grid)) for job in files]
    lines = ["7_1 RUNNING x", f"8_0 PENDING {comment_of(grid, jobs[1][1])}"]
    shown = {submitted.job.name: progress for submitted, progress in progress_of_jobs(grid, jobs, Queue(lines))}
    assert [p.state for p in shown["grads_kl_multi"]] == ["failed", "running"]
    (merge,) = shown["merge"]
    assert (merge.state, merge.job, merge.doomed) == ("missing", "", "8_0")
