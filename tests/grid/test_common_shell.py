"""Shell code that all job files share: it passes signals to the command and reports restarts."""

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.slurm.conftest import until

ROOT = Path(__file__).resolve().parents[2]


def write_executable(path: Path, text: str) -> Path:
    """Write a shell script that can be executed, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@dataclass
class Job:
    """A job file that runs without SLURM. A shell script replaces Python."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def wait(self) -> int:
        return self.process.wait(timeout=20)

    def output(self) -> str:
        self.wait()
        return self.log.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Return a function that starts a job file with a shell script instead of Python."""
    jobs: list[Job] = []

    def start(name: str, python: str, **variables: str) -> Job:
        environment = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM", "FUNGI"))}
        environment |= {"FUNGI_PYTHON": str(write_executable(tmp_path / "python", python)), "FUNGI_PROJECT": str(ROOT)}
        environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
        # Tests may run in the background with SIGINT ignored. A shell cannot trap a signal that it inherits as ignored.
        command = ["env", "--default-signal=INT", "sh", str(ROOT / "jobs" / f"{name}.job")]
        log = tmp_path / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment | variables, start_new_session=True, stdout=output, stderr=subprocess.STDOUT
            )
        jobs.append(Job(process, log))
        return jobs[-1]

    yield start
    for job in jobs:
        with suppress(ProcessLookupError):
            os.killpg(job.process.pid, signal.SIGKILL)
        job.wait()


def test_ctrl_c_ends_the_python_of_a_job_that_runs_without_slurm(start, tmp_path: Path) -> None:
    """Ctrl-C sends SIGINT to all processes of the group, but commands in the background ignore it."""
    started, ended = tmp_path / "started", tmp_path / "ended"
    python = f"trap 'echo > {ended}; exit 130' TERM\necho > {started}\nwhile :; do sleep 0.02; done"
    job = start("extract", python)
    until(started.exists, "the start of the command", timeout=20)
    os.killpg(job.process.pid, signal.SIGINT)
    assert job.wait() == 130
    assert ended.exists()


@pytest.mark.parametrize("job", ["reproduce/extraction", "reproduce/evaluation"])
def test_jobs_of_the_paper_call_the_interpreter(job: str, start) -> None:
    running = start(job, 'echo "called with $*"', FUNGI_STEPS="steps.json")
    assert "called with -m fungi reproduce --steps steps.json" in running.output()
    assert running.wait() == 0


def test_a_job_that_may_not_restart_prints_the_number_of_its_restarts(start, tmp_path: Path) -> None:
    started = tmp_path / "started"
    python = f"trap 'exit 130' TERM\necho > {started}\nwhile :; do sleep 0.02; done"
    job = start("extract", python, SLURM_JOB_ID="7", FUNGI_MAX_RESTARTS="0")
    until(started.exists, "the start of the command", timeout=20)
    job.process.send_signal(signal.SIGUSR1)
    assert "not queued again: 0 restarts, of at most 0 (FUNGI_MAX_RESTARTS)" in job.output()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_only_signal_9_may_mean_that_the_memory_was_too_small(number: signal.Signals, start) -> None:
    job = start("extract", f"kill -{number.value} $$")
    assert f"killed by signal {number.value}" in job.output()
    assert ("out of memory" in job.output()) == (number == signal.SIGKILL)
    assert job.wait() == 128 + number


def test_processes_of_a_job_get_the_cores_of_the_request(start, tmp_path: Path) -> None:
    """Since SLURM 22.05, srun does not inherit --cpus-per-task."""
    write_executable(tmp_path / "bin" / "scontrol", "echo n1")
    write_executable(tmp_path / "bin" / "srun", 'echo "cores $SRUN_CPUS_PER_TASK"')
    job = start("pretrain_udi", "true", SLURM_CPUS_PER_TASK="8", SLURM_JOB_ID="7", SLURM_JOB_NODELIST="n1")
    assert "cores 8" in job.output()


def test_the_container_can_compile_c() -> None:
    """Triton compiles C code when an encoder is compiled on a GPU."""
    text = (ROOT / "jobs" / "container" / "fungi.def").read_text()
    lines = [line for line in text.splitlines() if "apt-get install" in line]
    assert {"gcc", "libc6-dev"} <= set(lines[0].split())
