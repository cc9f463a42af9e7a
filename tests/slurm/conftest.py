"""The cluster for these tests, and the files of a run without SLURM."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from tests.slurm.sandbox import NotInstallableError, Sandbox, install

ROOT = Path(__file__).resolve().parents[2]
UNFINISHED = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "SIGNALING"}
SETTINGS = {"OMP_NUM_THREADS": "1", "FUNGI_PYTHON": sys.executable}


class Cluster:
    """A cluster on which tests submit jobs and wait for them. `variables` are added to the environment of a call."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a call, without variables of FUNGI and wandb from outside."""
        environment = self._sandbox.environment
        inherited = {name: text for name, text in environment.items() if not name.startswith(("FUNGI_", "WANDB_"))}
        return {**inherited, **SETTINGS, **variables}

    def sbatch(self, *words: object, **variables: str) -> str:
        """Submit from the folder of the project, and return the job id."""
        return self.call("sbatch", "--parsable", *words, **variables).strip()

    def call(self, *words: object, cwd: Path = ROOT, **variables: str) -> str:
        """Run a command that has to succeed, and return its output."""
        command = list(map(str, words))
        process = subprocess.run(
            command, env=self.environment(**variables), cwd=cwd, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, f"{command}: {process.stderr}"
        return process.stdout

    def tasks(self, *jobs: str) -> list[dict[str, str]]:
        """Return the fields that scontrol prints for every job or array task."""
        lines = [line for job in jobs for line in self.call("scontrol", "-o", "show", "job", job).splitlines()]
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines if line]

    def wait(self, *jobs: str, timeout: float = 900.0) -> list[str]:
        """Wait until all tasks of these jobs have ended, and return their states."""
        return [task["JobState"] for task in self.wait_for_tasks(*jobs, timeout=timeout)]

    def wait_for_tasks(self, *jobs: str, timeout: float = 900.0) -> list[dict[str, str]]:
        """Wait until all tasks of these jobs have ended, and return the fields of the tasks. timeout: in seconds."""
        tasks: list[dict[str, str]] = []

        def all_ended() -> bool:
            tasks[:] = self.tasks(*jobs)
            return not any(task["JobState"] in UNFINISHED for task in tasks)

        until(all_ended, f"end of {jobs}", timeout, interval=0.2)
        return tasks


def until(condition: Callable[[], bool], event: str, timeout: float = 900.0, interval: float = 0.02) -> None:
    """Wait until a condition is true. Raises AssertionError after `timeout` seconds.

    The condition is checked every `interval` seconds; `sbatch --wait` would check only after 2 s, 10 s and 42 s.
    """
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"timed out: {event}"
        time.sleep(interval)


@pytest.fixture(scope="session")
def _sandbox() -> Iterator[Sandbox]:
    """Return a running SLURM. Without SLURM, skip the tests, or fail if REQUIRE_SLURM is 1."""
    try:
        install()
    except NotInstallableError as error:
        if os.environ.get("REQUIRE_SLURM") == "1":
            raise
        pytest.skip(f"SLURM can't be installed here: {error}")
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def cluster(_sandbox: Sandbox) -> Iterator[Cluster]:
    """Return the cluster, and cancel the remaining jobs after the test."""
    cluster = Cluster(_sandbox)
    yield cluster
    cluster.call("scancel", "--quiet", "--me")


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extract embeddings and KL gradients of digits in this process, on one thread like jobs, and return the root."""
    import torch

    root, threads = tmp_path_factory.mktemp("plain"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        words = ("--with-embeddings", "--objective", "kl", "--batch-size", "32", "--root", str(root))
        assert COMMANDS["extract-gradients"].main(words) == 0
    finally:
        torch.set_num_threads(threads)
    return root
