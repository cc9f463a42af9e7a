"""If a worker dies or cannot hand over a batch, the command soon ends with one line that names the cause."""

import multiprocessing
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
from fungi.errors import FungiError, UnreadableItemError
from fungi.views.workers import LONGEST_FOLDER, worker_batches

ROWS = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
LONGEST_SECONDS = 25.0
"""torch checks its workers every five seconds, and waits five seconds for the end of each worker."""


@dataclass(frozen=True)
class Source:
    """Row -> a tensor of 256 KB with the number of the row. A worker calls `harm` before it reads row 5."""

    harm: Callable[[], object]
    main_pid: int

    def __getitem__(self, row: int) -> torch.Tensor:
        if row == 5 and os.getpid() != self.main_pid:
            self.harm()
        return torch.full((256, 256), float(row))

    def __len__(self) -> int:
        return 10


def read(harm: Callable[[], object], *, num_workers: int = 2, pin_memory: bool = False) -> list[list[float]]:
    """Return the numbers of the rows in each batch."""
    source = Source(harm, os.getpid())
    loaded = worker_batches(source, ROWS, torch.stack, num_workers=num_workers, pin_memory=pin_memory)
    return [batch[:, 0, 0].tolist() for batch in loaded]


def no_more_memory() -> None:
    """Allow no file above 64 KB, which has the same effect as a full /dev/shm."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def no_more_files() -> None:
    """Allow no further open file: the limit is the lowest free file number."""
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
    ids=["killed", "terminated", "exited"],
)
def test_a_dead_worker_ends_the_command_with_the_cause_of_its_death(harm, cause, workers) -> None:
    started = monotonic()
    with pytest.raises(FungiError, match=f"a worker process .*{cause}"):
        read(harm, num_workers=workers)
    assert monotonic() - started < LONGEST_SECONDS


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (no_more_memory, r"no room to hand over.*of [\d,]+ MB of /dev/shm are free.*--num-workers 0.*--shm-size"),
        (no_more_files, "too many files are open.*ulimit -n|a batch was lost.*--num-workers 0"),
    ],
    ids=["memory", "files"],
)
def test_a_worker_that_cannot_hand_over_a_batch_ends_the_command_at_once(harm, cause) -> None:
    started = monotonic()
    with pytest.raises(FungiError, match=cause):
        read(harm)
    assert monotonic() - started < LONGEST_SECONDS


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_order_of_batches_does_not_depend_on_the_number_of_workers(workers: int) -> None:
    assert read(lambda: None, num_workers=workers) == [[float(row) for row in rows] for rows in ROWS]


@pytest.fixture
def long_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a folder for temporary files whose name is too long for sockets.

    An earlier test may have started a fork server, which stores a folder of its own in the current process.
    """
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    assert len(str(folder)) > LONGEST_FOLDER
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)
    return folder


@pytest.mark.usefixtures("long_folder")
def test_workers_work_with_a_long_name_of_the_temporary_folder() -> None:
    assert read(lambda: None) == read(lambda: None, num_workers=0)


@pytest.mark.usefixtures("long_folder")
def test_without_a_folder_with_a_short_name_the_message_names_the_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(FungiError, match=r"too long for them\. Use --num-workers 0, or set TMPDIR"):
        read(lambda: None)


def test_an_error_in_a_worker_keeps_its_type_and_message() -> None:
    def harm() -> None:
        raise RuntimeError("an error of the program")

    with pytest.raises(RuntimeError, match="an error of the program"):
        read(harm)


class SourceWithADamagedItem:
    """Row -> a tensor with the number of the row. Row 5 can't be read."""

    def __getitem__(self, row: int) -> torch.Tensor:
        if row == 5:
            raise UnreadableItemError("can't read row 5")
        return torch.tensor(row)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_of_an_item_is_raised_after_the_earlier_batches(workers: int) -> None:
    batches = worker_batches(SourceWithADamagedItem(), ROWS, torch.stack, num_workers=workers)
    assert [next(batches).tolist() for _ in range(2)] == ROWS[:2]
    with pytest.raises(UnreadableItemError) as error:
        next(batches)
    assert str(error.value) == "can't read row 5"


def test_the_message_about_a_worker_without_memory_is_one_line() -> None:
    def harm() -> None:
        raise MemoryError

    with pytest.raises(FungiError, match=r"memory ran out\. What was computed is kept.*fewer --num-workers"):
        read(harm)


def test_the_handler_of_dead_children_is_that_of_before_the_loader() -> None:
    """torch's own handler of SIGCHLD would interrupt the command anywhere."""
    before = signal.getsignal(signal.SIGCHLD)
    loaded = worker_batches(Source(lambda: None, os.getpid()), ROWS, torch.stack, num_workers=1)
    next(loaded)
    assert signal.getsignal(signal.SIGCHLD) is before
    loaded.close()


def test_torchs_own_handler_of_dead_children_is_not_active_after_another_loader() -> None:
    """A plain loader of torch installs this handler, which raises errors anywhere in the command."""
    before = signal.getsignal(signal.SIGCHLD)
    try:
        list(DataLoader([1.0, 2.0], num_workers=1))
        read(lambda: None)
        assert not getattr(signal.getsignal(signal.SIGCHLD), "__module__", "").startswith("torch.")
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_only_one_module_starts_workers() -> None:
    """Pretraining, segmentation and the library use the loaders of this module, which handle dead workers."""
    source = Path(fungi.__file__).parent
    users = [path for path in source.rglob("*.py") if "DataLoader(" in path.read_text(encoding="utf-8")]
    assert [path.relative_to(source).as_posix() for path in users] == ["views/workers.py"]
