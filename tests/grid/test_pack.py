"""Elements that share a task of an array run side by side, each with a GPU and a log of its own."""

import sys
from pathlib import Path

import pytest

from fungi.grid.run_elements import side_by_side


def test_each_element_of_a_pack_has_its_gpu_its_cores_and_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an interpreter that notes its environment in place of Python; the second element fails."""
    python = tmp_path / "python"
    shown = "$FUNGI_ELEMENT $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $*"
    python.write_text(f'#!/bin/sh\necho "{shown}"\n[ "$FUNGI_ELEMENT" != 5 ] || exit 3\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    environ = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_NAME": "kl", "PATH": "/bin:/usr/bin"}
    environ |= {"CUDA_VISIBLE_DEVICES": "2,6", "SLURM_CPUS_PER_TASK": "32"}
    assert side_by_side(["extract", "--seed", "7"], [4, 5], tmp_path, environ) == 3
    for element, gpu in ((4, 2), (5, 6)):
        log = tmp_path / "logs" / f"kl-7_1-element{element}.out"
        assert log.read_text() == f"{element} {gpu} 16 -m fungi run-elements extract --seed 7\n"
