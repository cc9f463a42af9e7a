"""The real job files on a real SLURM: kills, restarts and repeated submissions do not change the feature files."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.slurm.conftest import ROOT, UNFINISHED, Cluster, until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
JOBS = ("projection", "grads_all_multi", "merge", "concat", "report")
KL = {"FUNGI_FLAGS_EXTRACT_GRADIENTS": "--objective kl --block-size 32"}


def arrays_below(root: Path) -> dict[str, np.ndarray]:
    """Return all arrays of the feature files below a root, with the keys `file:array`."""
    arrays = {}
    for path in [*root.glob("embeddings/**/*.h5"), *root.glob("gradients/**/*.h5")]:
        with h5py.File(path) as file:
            arrays |= {f"{path.relative_to(root)}:{name}": array[:] for name, array in file.items()}
    return arrays


def assert_same_files(root: Path, expected_root: Path) -> None:
    """Assert that the feature files below two roots are equal bit for bit, and that no blocks are left over."""
    arrays, expected = arrays_below(root), arrays_below(expected_root)
    assert sorted(arrays) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    assert not list((root / "blocks").rglob("*.safetensors")), "blocks are left over"


def copy_of_the_project(folder: Path) -> Path:
    """Copy the files of the project that jobs need, and return their folder."""
    for name in ("src", "jobs", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


def ids_of(output: str) -> list[str]:
    """Return the job ids in the output of `fungi submit`."""
    return [line.split()[0] for line in output.splitlines()]


def wait_until_in_the_middle(root: Path, shard: int) -> int:
    """Wait until a shard of the train split has written a block, and return the pid of its process."""
    folder = root / "blocks" / "gradients" / "digits" / "digits-vit" / "kl-train"
    until(lambda: any(int(path.stem) % 2 == shard - 1 for path in folder.rglob("0*.safetensors")), f"shard {shard}")
    (record,) = (root / "progress").glob(f"extract-gradients-*/digits-vit-digits-train-{shard}-2.json")
    return json.loads(record.read_text())["pid"]


def logs_of(root: Path, job: str = "") -> str:
    """Return the text of all logs, or of the logs of a job or task."""
    return "\n".join(path.read_text() for path in sorted((root / "logs").glob(f"*-{job}*.out" if job else "*.out")))


def test_a_grid_that_is_killed_in_the_middle_gives_the_files_of_an_uninterrupted_run(
    cluster: Cluster, plain_run: Path, tmp_path: Path
) -> None:
    """The grid is submitted once, in two shards per split. One element gets the signal that its time is over, and
    queues itself again. Another element is killed without a signal to the job. `fungi status` shows the consequences.
    Then the missing elements are submitted again, one of them twice. All jobs run the code of the first submission.
    """
    project, root = copy_of_the_project(tmp_path / "project"), tmp_path / "features"

    def fungi(*words: object) -> str:
        return cluster.call(sys.executable, "-m", "fungi", *words, "--root", root)

    submit = (sys.executable, "-m", "fungi", "submit", "--root", root, "--shards", 2, "--jobs", *JOBS)
    first_jobs = ids_of(cluster.call(*submit, cwd=project, PYTHONPATH=str(project / "src"), **KL))
    for module in (project / "src" / "fungi" / "cli").glob("*.py"):
        module.write_text("raise SystemExit('edited after the submission')")

    os.kill(wait_until_in_the_middle(root, 2), signal.SIGKILL)
    wait_until_in_the_middle(root, 1)
    cluster.call("scancel", "--batch", "--signal=USR1", f"{first_jobs[1]}_0")
    assert sorted(cluster.wait(*first_jobs)) == ["CANCELLED"] * 2 + ["COMPLETED"] * 4 + ["FAILED"] * 2, logs_of(root)
    assert "# Missing" in logs_of(root, first_jobs[-1])  # the report waits for all jobs, also for failed ones
    (restarted,) = [task for task in cluster.tasks(first_jobs[1]) if task.get("ArrayTaskId") == "0"]
    assert restarted["Restarts"] == "1"
    assert "back into the queue" in logs_of(root, f"{first_jobs[1]}_0")
    assert ": already computed: " in logs_of(root, f"{first_jobs[1]}_0")

    status = fungi("status")
    assert "done 3/4, failed 1" in status
    assert "digits-vit digits train 2/2: killed by signal 9" in status
    (sbatch_line,) = [line for line in status.splitlines() if " sbatch " in line]
    assert "--array=1 " in sbatch_line
    merge = ids_of(fungi("submit", "--missing", "--stages", "merge"))
    assert cluster.wait(*merge) == ["FAILED"]
    assert re.search(
        r"kl-train.h5 can't be assembled: \d+ of 40 blocks are missing: \d+ \(rows", logs_of(root, merge[0])
    )

    same_element = [cluster.call("sh", "-c", sbatch_line, cwd=tmp_path).split()[-1] for _ in range(2)]
    other_elements = ids_of(fungi("submit", "--missing"))
    assert cluster.wait(*same_element, *other_elements) == ["COMPLETED"] * 5, logs_of(root)
    assert_same_files(root, plain_run)
    result = json.loads((root / "results" / "knn" / "digits" / "digits-vit.json").read_text())
    assert sorted(result["results"]) == ["embeddings", "embeddings+kl", "kl"]
    assert (root / "report" / "report.md").exists()
    status = fungi("status")
    assert re.findall(r"done (\d+)/(\d+)", status) == [("1", "1"), ("4", "4"), ("1", "1"), ("1", "1"), ("1", "1")]
    assert "sbatch" not in status


def test_requeue_preemption_and_a_lost_node_do_not_change_the_files(cluster: Cluster, tmp_path: Path) -> None:
    """An element is stopped three times: by an administrator, by a more urgent job, and by the failure of its node."""
    root, expected_root = tmp_path / "features", tmp_path / "uninterrupted"
    (root / "logs").mkdir(parents=True)  # SLURM does not create the folder of its logs
    grid = {"FUNGI_ROOT": str(root), "FUNGI_SPLITS": "test", "FUNGI_SHARDS": "1"}
    flags = {"FUNGI_FLAGS_EXTRACT_GRADIENTS": "--block-size 16 --batch-size 16"}
    output = f"--output={root}/logs/%A_%a.out"
    job = cluster.sbatch(output, "--array=0", "jobs/grads_dino_multi.job", **grid, **flags)

    interruptions = (
        lambda node: cluster.call("scontrol", "requeue", f"{job}_0"),
        lambda node: cluster.sbatch(
            "--partition=urgent", "--exclusive", f"--nodelist={node}", "--output=/dev/null", "--wrap", "sleep 1"
        ),
        lambda node: cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test"),
    )
    for restarts, interrupt in enumerate(interruptions, start=1):
        wait_for_another_block(cluster, job, root)
        (task,) = cluster.tasks(job)
        interrupt(task["NodeList"])
        until(
            lambda count=restarts: cluster.tasks(job)[0]["Restarts"] == str(count), f"restart {restarts}", timeout=120
        )
    assert cluster.wait(job) == ["COMPLETED"], logs_of(root)

    assert [path.read_text().count(": already computed: ") for path in (root / "logs").iterdir()] == [3]
    words = ("extract-gradients", "--objective", "dino", "--split", "test", "--root", expected_root, "--batch-size", 16)
    cluster.call(sys.executable, "-m", "fungi", *words)
    assert_same_files(root, expected_root)


def wait_for_another_block(cluster: Cluster, job: str, root: Path) -> None:
    """Wait until a job has written another block. Raises AssertionError if the job ends before."""

    def blocks() -> int:
        assert cluster.tasks(job)[0]["JobState"] in UNFINISHED, logs_of(root)
        return len(list((root / "blocks").rglob("0*.safetensors")))

    before = blocks()
    until(lambda: blocks() > before, "a new block")


def test_an_array_that_does_not_fit_the_grid_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(f"--output={tmp_path}/%A_%a.out", "--array=0", "jobs/extract.job", FUNGI_ROOT=str(tmp_path))
    dependent = cluster.sbatch(f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes", "--wrap", "true")
    assert cluster.wait(job, dependent) == ["FAILED", "CANCELLED"]
    assert "Use sbatch --array=0-1" in next(tmp_path.glob("*.out")).read_text()
    assert not (tmp_path / "embeddings").exists()


def test_slurm_accepts_every_job_file_without_changes(cluster: Cluster) -> None:
    for job in sorted((ROOT / "jobs").rglob("*.job")):
        cluster.call("sbatch", "--test-only", job)
