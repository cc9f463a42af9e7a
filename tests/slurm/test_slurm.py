"""The actual job files on a real SLURM: killed, requeued, doubled, incomplete; in the end the files of a plain run."""

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

from tests.slurm.conftest import ROOT, Cluster, until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
KL = {"FUNGI_FLAGS_EXTRACT_GRADIENTS": "--objective kl --block-size 64"}


def arrays_below(root: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in [*root.glob("embeddings/**/*.h5"), *root.glob("gradients/**/*.h5")]:
        with h5py.File(path) as file:
            found |= {f"{path.relative_to(root)}:{name}": array[:] for name, array in file.items()}
    return found


def assert_same_files(root: Path, reference: Path) -> None:
    ours, theirs = arrays_below(root), arrays_below(reference)
    assert sorted(ours) == sorted(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert not list((root / "blocks").rglob("*.safetensors")), "blocks are left over"


def records_of(root: Path, split: str) -> dict:
    (path,) = (root / "progress").glob(f"extract-gradients-*/digits-vit-digits-{split}-1-1.json")
    return json.loads(path.read_text())


def blocks_of(root: Path, split: str) -> int:
    return len(list((root / "blocks" / "gradients" / "digits" / "digits-vit" / f"kl-{split}").rglob("0*.safetensors")))


def log_of(folder: Path, job: str) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob(f"*{job}*.out")))


def test_the_whole_grid_from_one_submission(cluster: Cluster, plain_run: Path, tmp_path: Path) -> None:
    """Arrays, dependencies, two shards per split; and jobs run the code as it was when they were submitted."""
    project, root = tmp_path / "project", tmp_path / "features"
    for name in ("src", "jobs", "scripts"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    jobs = ("projection", "grads_all_multi", "merge", "concat", "report")
    said = cluster.call(
        *(sys.executable, "-m", "fungi", "submit", "--root", root, "--shards", 2, "--jobs", *jobs),
        cwd=project,
        PYTHONPATH=str(project / "src"),
        **KL,
    )
    for module in (project / "src" / "fungi" / "cli").glob("*.py"):
        module.write_text("raise SystemExit('edited after the submission')")
    ids = [line.split()[0] for line in said.splitlines()]
    states = cluster.wait(*ids)
    assert states == ["COMPLETED"] * 8, "\n".join(p.read_text() for p in (root / "logs").iterdir())
    assert_same_files(root, plain_run)
    result = json.loads((root / "results" / "knn" / "digits" / "digits-vit.json").read_text())
    assert sorted(result["results"]) == ["embeddings", "embeddings+kl", "kl"]
    assert (root / "report" / "report.md").exists()
    status = cluster.call(sys.executable, "-m", "fungi", "status", "--root", root)
    assert re.findall(r"done (\d+)/(\d+)", status) == [("1", "1"), ("4", "4"), ("1", "1"), ("1", "1"), ("1", "1")]
    assert "sbatch" not in status


def test_killed_and_doubled_elements_give_the_files_of_a_plain_run(
    cluster: Cluster, plain_run: Path, tmp_path: Path
) -> None:
    """One element is told that its time is over, and queues itself again. Another is killed without a word: the merge
    fails, `fungi status` says why and how to go on, and doing that twice at once does no harm."""
    root, logs = tmp_path / "features", tmp_path / "logs"
    logs.mkdir()
    variables, output = {**KL, "FUNGI_ROOT": str(root)}, f"--output={logs}/%x-%A_%a.out"
    job = cluster.sbatch(output, "jobs/grads_all_multi.job", **variables)
    until(lambda: blocks_of(root, "test") > 0, "first block of the test split")
    os.kill(records_of(root, "test")["pid"], signal.SIGKILL)
    until(lambda: blocks_of(root, "train") > 0, "first block of the train split")
    cluster.call("scancel", "--batch", "--signal=USR1", f"{job}_0")
    tasks = {task["ArrayTaskId"]: task for task in cluster.wait_for_tasks(job)}
    assert (tasks["0"]["JobState"], tasks["0"]["Restarts"]) == ("COMPLETED", "1"), log_of(logs, f"{job}_0")
    assert "back into the queue" in log_of(logs, f"{job}_0")
    assert "blocks are there already" in log_of(logs, f"{job}_0")
    assert tasks["1"]["JobState"] == "FAILED"

    merge = cluster.sbatch(output, "jobs/merge.job", **variables)
    assert cluster.wait(merge) == ["FAILED"]
    assert re.search(r"kl-test.h5 can't be assembled: \d of 9 blocks are missing: \d \(rows", log_of(logs, merge))

    status = cluster.call(sys.executable, "-m", "fungi", "status", "--jobs", "grads_all_multi", **variables)
    assert "done 1/2, failed 1" in status
    assert "killed by signal 9" in status
    (again,) = [line for line in status.splitlines() if " sbatch " in line]
    assert "--array=1 " in again
    twice = [cluster.call("sh", "-c", again, cwd=tmp_path).split()[-1] for _ in range(2)]
    assert cluster.wait(*twice) == ["COMPLETED"] * 2, log_of(root / "logs", "")
    assert_same_files(root, plain_run)


def test_an_array_that_is_not_the_grids_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(f"--output={tmp_path}/%A_%a.out", "--array=0", "jobs/extract.job", FUNGI_ROOT=str(tmp_path))
    dependent = cluster.sbatch(f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes", "--wrap", "true")
    assert cluster.wait(job, dependent) == ["FAILED", "CANCELLED"]
    assert "Use sbatch --array=0-1" in log_of(tmp_path, job)
    assert not (tmp_path / "embeddings").exists()


def test_slurm_takes_every_job_file_as_it_is(cluster: Cluster) -> None:
    for job in sorted((ROOT / "jobs").rglob("*.job")):
        cluster.call("sbatch", "--test-only", job)
