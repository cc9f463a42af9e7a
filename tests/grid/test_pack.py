"""The elements of a pack run in parallel in one task of an array. Each has its own GPU, cores and log."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fungi.grid.run_elements import cores_of_element, run_pack, visible_gpus
from fungi.runtime.cores import usable_cores

# Environment variables of task 1 of array 7.
TASK = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_NAME": "kl", "PATH": "/bin:/usr/bin"}


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that runs elements 4 and 5 with a script instead of Python, and returns their logs."""
    python = tmp_path / "python"
    values = "$FUNGI_ELEMENT $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $SLURM_CPUS_PER_TASK $*"
    # Element 5 fails.
    python.write_text(f'#!/bin/sh\necho "{values}"\n[ "$FUNGI_ELEMENT" != 5 ] || exit 3\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    def run(**variables: str) -> list[str]:
        allowed = os.sched_getaffinity(0)
        assert run_pack(["extract", "--seed", "7"], [4, 5], tmp_path, TASK | variables) == 3
        assert os.sched_getaffinity(0) == allowed
        return [(tmp_path / "logs" / f"kl-7_1-element{element}.out").read_text() for element in (4, 5)]

    return run


def test_each_element_of_a_pack_has_its_own_gpu_cores_and_log(pack) -> None:
    assert pack(CUDA_VISIBLE_DEVICES="2,6", SLURM_CPUS_PER_TASK="32") == [
        f"{element} {gpu} 16 16 -m fungi run-elements extract --seed 7\n" for element, gpu in ((4, 2), (5, 6))
    ]


def test_a_pack_ends_with_the_status_of_a_shell_if_a_signal_ends_an_element(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`jobs/common.sh` calls status 137 signal 9. Python would turn the status -9 into 247, which is no signal."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert run_pack(["extract"], [4, 5], tmp_path, TASK) == 137


def test_without_visible_devices_each_element_of_a_pack_still_has_its_own_gpu(pack) -> None:
    logs = pack(SLURM_GPUS_ON_NODE="2", SLURM_CPUS_PER_TASK="32")
    assert [log.split()[:2] for log in logs] == [["4", "0"], ["5", "1"]]


def test_without_variables_the_device_files_of_gpus_are_counted(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "1", "2"]
    assert visible_gpus({"SLURM_GPUS_ON_NODE": "4"}, tmp_path) == ["0", "1", "2", "3"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, tmp_path) == ["MIG-a", "MIG-b"]


@pytest.mark.parametrize(("cores", "count"), [(64, 4), (10, 3), (2, 2)])
def test_elements_of_a_pack_are_pinned_to_separate_cores(cores: int, count: int) -> None:
    allowed = set(range(100, 100 + cores))
    environ = {"SLURM_CPUS_PER_TASK": str(cores)}
    cores_of_elements = [cores_of_element(allowed, position, count, environ) for position in range(count)]
    assert {len(element_cores) for element_cores in cores_of_elements} == {cores // count}
    assert sum(map(len, cores_of_elements)) == len(set().union(*cores_of_elements))
    assert set().union(*cores_of_elements) <= allowed


def test_elements_start_on_their_cores_and_the_pack_keeps_its_own(pack, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {4, 5, 6, 7})
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: pinned.append(cores))
    pack(SLURM_CPUS_PER_TASK="4")
    assert pinned == [{4, 5}, {4, 5, 6, 7}, {6, 7}, {4, 5, 6, 7}]


def test_elements_are_not_pinned_if_the_cluster_does_not_bind_cores() -> None:
    """Otherwise all jobs of a node would use the first cores, and the other cores would be idle."""
    whole_node = set(range(128))
    assert cores_of_element(whole_node, 1, 4, {"SLURM_CPUS_PER_TASK": "64"}) == whole_node
    assert cores_of_element({3}, 1, 4, {"SLURM_CPUS_PER_TASK": "1"}) == {3}


@pytest.mark.parametrize(
    ("affinity", "requested", "usable"), [(128, "16", 16), (64, "64", 64), (4, "16", 4), (8, "", 8), (2, "0", 1)]
)
def test_the_number_of_workers_follows_the_cores_of_the_job(
    affinity: int, requested: str, usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)))
    assert usable_cores({"SLURM_CPUS_PER_TASK": requested} if requested else {}) == usable
