"""The cluster of these tests, and the files that a plain run gives."""

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
    """What the tests do with a cluster: submit, look, wait. `variables` join the environment of a call."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def environment(self, **variables: str) -> dict[str, str]:
        inherited = {k: v for k, v in self._sandbox.environment.items() if not k.startswith(("FUNGI_", "WANDB_"))}
        return {**inherited, **SETTINGS, **variables}

    def sbatch(self, *words: object, **variables: str) -> str:
        """Submit from the project's folder; the job id."""
        return self.call("sbatch", "--parsable", *words, **variables).strip()

    def call(self, *words: object, cwd: Path = ROOT, **variables: str) -> str:
        command = list(map(str, words))
        done = subprocess.run(
            command, env=self.environment(**variables), cwd=cwd, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def tasks(self, *jobs: str) -> list[dict[str, str]]:
        """What scontrol says of every job or array task, by field."""
        lines = [line for job in jobs for line in self.call("scontrol", "-o", "show", "job", job).splitlines()]
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines if line]

    def wait(self, *jobs: str, timeout: float = 900.0) -> list[str]:
        """States of all tasks once nothing of these jobs is left to run."""
        return [task["JobState"] for task in self.wait_for_tasks(*jobs, timeout=timeout)]

    def wait_for_tasks(self, *jobs: str, timeout: float = 900.0) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []

        def over() -> bool:
            found[:] = self.tasks(*jobs)
            return not any(task["JobState"] in UNFINISHED for task in found)

        until(over, f"end of {jobs}", timeout, interval=0.2)
        return found


def until(true: Callable[[], bool], what: str, timeout: float = 900.0, interval: float = 0.02) -> None:
    """Poll; `sbatch --wait` would look after 2 s, 10 s, 42 s."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"timed out: {what}"
        time.sleep(interval)


@pytest.fixture(scope="session")
def _sandbox() -> Iterator[Sandbox]:
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
    """The cluster, without jobs that outlive the test."""
    cluster = Cluster(_sandbox)
    yield cluster
    cluster.call("scancel", "--quiet", "--me")


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root with embeddings and KL gradients of digits, from this process, without SLURM; on one thread, as jobs."""
    import torch

    root, threads = tmp_path_factory.mktemp("plain"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        words = ("--with-embeddings", "--objective", "kl", "--batch-size", "32", "--root", str(root))
        assert COMMANDS["extract-gradients"].main(words) == 0
    finally:
        torch.set_num_threads(threads)
    return root
