"""Workers that die or can't hand over their batches end the work with one line, and soon."""

import os
import resource
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest
import torch
from torch.utils.data import DataLoader

import fungi
from fungi.errors import FungiError
from fungi.views.workers import LONGEST_FOLDER, worker_batches

ROWS = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
SOON = 25.0
"""Seconds; torch looks after its workers every five, and waits as long for each to end."""


@dataclass(frozen=True)
class Source:
    """Row -> a tensor of 256 KB that holds the row's number; `harm` happens before row 5 is read, in a worker alone."""

    harm: Callable[[], object]
    command: int

    def __getitem__(self, row: int) -> torch.Tensor:
        if row == 5 and os.getpid() != self.command:
            self.harm()
        return torch.full((256, 256), float(row))

    def __len__(self) -> int:
        return 10


def read(harm: Callable[[], object], *, num_workers: int = 2, pin_memory: bool = False) -> list[list[float]]:
    source = Source(harm, os.getpid())
    loaded = worker_batches(source, ROWS, torch.stack, num_workers=num_workers, pin_memory=pin_memory)
    return [batch[:, 0, 0].tolist() for batch in loaded]


def no_more_memory() -> None:
    """As a full /dev/shm: files can't grow beyond 64 KB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def no_more_files() -> None:
    """Allow no further open file: the limit is the lowest free number of a file."""
    limit = os.dup(0)
    os.close(limit)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "killed from outside.*when memory runs out.*--num-workers 0"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), r"ended by signal 15 \(Terminated\).*--num-workers 0"),
        (lambda: os._exit(3), "ended with status 3.*--num-workers 0"),
    ],
    ids=["killed", "terminated", "left"],
)
def test_a_worker_that_dies_ends_the_work_with_its_cause(harm, cause, workers) -> None:
    started = monotonic()
    with pytest.raises(FungiError, match=f"a worker process .*{cause}"):
        read(harm, num_workers=workers)
    assert monotonic() - started < SOON


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (no_more_memory, r"no room to hand over.*of [\d,]+ MB of /dev/shm are free.*--num-workers 0.*--shm-size"),
        (no_more_files, "too many files are open.*ulimit -n|a batch was lost.*--num-workers 0"),
    ],
    ids=["memory", "files"],
)
def test_a_worker_that_cannot_hand_over_its_batch_says_so_at_once(harm, cause) -> None:
    started = monotonic()
    with pytest.raises(FungiError, match=cause):
        read(harm)
    assert monotonic() - started < SOON


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order_whoever_makes_them(workers: int) -> None:
    assert read(lambda: None, num_workers=workers) == [[float(row) for row in rows] for rows in ROWS]


def test_a_folder_of_temporary_files_with_a_long_name_is_no_obstacle(tmp_path, monkeypatch) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    assert len(str(long)) > LONGEST_FOLDER
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert read(lambda: None) == read(lambda: None, num_workers=0)


def test_where_no_folder_has_a_short_name_the_way_out_is_said(tmp_path, monkeypatch) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(FungiError, match=r"too long for them\. Use --num-workers 0, or set TMPDIR"):
        read(lambda: None)


def test_an_error_of_the_program_in_a_worker_stays_what_it_is() -> None:
    def harm() -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        read(harm)


def test_memory_that_runs_out_in_a_worker_is_one_line() -> None:
    def harm() -> None:
        raise MemoryError

    with pytest.raises(FungiError, match=r"memory ran out\. What was computed is kept.*fewer --num-workers"):
        read(harm)


def test_the_death_of_a_worker_is_raised_only_where_a_batch_is_waited_for() -> None:
    """torch's own handler of SIGCHLD would interrupt whatever the command does."""
    before = signal.getsignal(signal.SIGCHLD)
    loaded = worker_batches(Source(lambda: None, os.getpid()), ROWS, torch.stack, num_workers=1)
    next(loaded)
    assert signal.getsignal(signal.SIGCHLD) is before
    loaded.close()


def test_a_handler_that_another_loader_left_does_not_take_over() -> None:
    """torch's own handler of dead children raises wherever the command is; it comes with any plain loader."""
    before = signal.getsignal(signal.SIGCHLD)
    try:
        list(DataLoader([1.0, 2.0], num_workers=1))
        read(lambda: None)
        assert not getattr(signal.getsignal(signal.SIGCHLD), "__module__", "").startswith("torch.")
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_one_module_alone_starts_workers() -> None:
    """Pretraining, segmentation and the library use its loaders, so that dead workers end all of them with one line."""
    source = Path(fungi.__file__).parent
    users = [path for path in source.rglob("*.py") if "DataLoader(" in path.read_text(encoding="utf-8")]
    assert [path.relative_to(source).as_posix() for path in users] == ["views/workers.py"]
