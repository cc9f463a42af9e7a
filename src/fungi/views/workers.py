"""Batches from worker processes. If a worker dies or can't send its batch, the command ends with a message of one line.

Workers send tensors in shared memory (`/dev/shm`). They send file descriptors of this memory through sockets in the
folder of temporary files. If sending fails, the queue of `multiprocessing` drops the batch, and torch's loader waits
for the batch forever. Therefore, a worker of this module pickles its batch itself. If pickling fails, the worker sends
the error instead of the batch.
"""

import errno
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from fungi.errors import FungiError

LONGEST_FOLDER = 75
"""Largest number of characters of the folder of temporary files. Names of sockets are 32 characters longer, and the
system allows 107 characters."""
SHARED_MEMORY = "/dev/shm"
"""Folder of shared memory on Linux."""
_END = object()  # marks the end of an iterator
RERUN = "What was computed is kept: run the same command again"


def worker_batches(
    source: Any,
    row_batches: Iterable[list[Any]],
    collate: Callable[[list[Any]], Any],
    *,
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Yield `collate([source[row] for row in rows])` for each entry `rows` of `row_batches`, in this order.

    Workers compute batches in advance. With `num_workers` 0, this process computes them.
    Raises FungiError if `source` raises a FungiError, if a worker dies, or if a worker can't send its batch. Earlier
    batches are yielded before the error is raised.
    """
    collate_or_error = _CollateOrError(collate)
    loader: DataLoader[Any] = DataLoader(
        _ItemsOrErrors(source),
        batch_sampler=row_batches,
        collate_fn=_PickledCollate(collate_or_error) if num_workers else collate_or_error,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        prefetch_factor=2 if num_workers else None,
    )
    iterator = _start(loader)
    try:
        while (batch := _next(iterator)) is not _END:
            if isinstance(batch, FungiError):
                raise batch
            yield batch
    finally:
        # End the workers now. Without this line, they end only when the traceback of an error is deleted.
        getattr(iterator, "_shutdown_workers", lambda: None)()


def _next(iterator: Iterator[Any]) -> Any:
    """Return the next batch, `_END` after the last batch, or an error."""
    try:
        batch = next(iterator, _END)
    except (RuntimeError, OSError, EOFError):
        if error_of_worker := _error_of_dead_worker(iterator):
            return error_of_worker
        raise
    except MemoryError:
        return FungiError(f"memory ran out. {RERUN}, with fewer --num-workers, a smaller --batch-size, or more memory.")
    if isinstance(batch, _PickledBatch):
        batch = batch.load()
    if isinstance(batch, _TransferError):  # the death of a worker is the more exact cause
        return _error_of_dead_worker(iterator) or batch
    return batch


@dataclass(frozen=True)
class _ItemsOrErrors(Dataset):
    """The items of a source. If the source raises a FungiError for an item, the error is returned instead of the item.

    An error that a worker raises would reach the command with the traceback of the worker in its message.
    """

    source: Any

    def __getitem__(self, row: Any) -> Any:
        try:
            return self.source[row]
        except FungiError as error:
            return error


@dataclass(frozen=True)
class _CollateOrError:
    """Function that collates items, or returns the first error among them."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, items: list[Any]) -> Any:
        errors = [item for item in items if isinstance(item, FungiError)]
        return errors[0] if errors else self.collate(items)


class _TransferError(FungiError):
    """Raised if a batch can't be sent from a worker to the command."""


@dataclass(frozen=True)
class _PickledCollate:
    """Function that collates a batch and pickles it as the queue does."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, rows: list[Any]) -> Any:
        try:
            batch = self.collate(rows)
            return batch if isinstance(batch, FungiError) else _PickledBatch(bytes(ForkingPickler.dumps(batch)))
        except (OSError, RuntimeError) as error:
            if (transfer_error := _transfer_error(error)) is not None:
                return transfer_error
            raise


@dataclass(frozen=True)
class _PickledBatch:
    """A batch as a worker sends it: a pickle that names the shared memory of its tensors."""

    content: bytes

    def load(self) -> Any:
        """Return the batch, or an error if it can't be received."""
        try:
            return ForkingPickler.loads(self.content)
        except (OSError, EOFError, RuntimeError) as error:
            return _transfer_error(error) or _TransferError(
                f"a batch was lost between a worker process and the command ({_first_line(error)}). {RERUN}, or with "
                "--num-workers 0."
            )

    def pin_memory(self) -> Any:
        """Return the batch in page-locked memory. A thread of the loader calls this method."""
        from torch.utils.data._utils.pin_memory import pin_memory

        batch = self.load()
        return batch if isinstance(batch, FungiError) else pin_memory(batch)


def _start(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Start the workers, and restore the handler of SIGCHLD, which torch replaces.

    The handler of torch would raise an error at any point of the command, for example in the middle of writing a file.
    The death of a worker is instead detected while the command waits for the next batch.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "").startswith("torch."):  # another loader has set the handler of torch
        handler = signal.SIG_DFL
    try:
        return iter(loader)
    except OSError as error:
        raise FungiError(
            f"can't start {loader.num_workers} worker processes ({_first_line(error)}). Use --num-workers 0, or fewer."
        ) from error
    finally:
        if handler is not None:
            with suppress(ValueError):  # threads other than the main thread can't set handlers
                signal.signal(signal.SIGCHLD, handler)


def _start_worker(worker: int) -> None:
    """Use one thread, because other workers use the other cores. Choose a temporary folder that sockets can use."""
    torch.set_num_threads(1)
    if len(tempfile.gettempdir()) > LONGEST_FOLDER:
        folders = (folder for folder in ("/tmp", "/var/tmp", SHARED_MEMORY) if os.access(folder, os.W_OK | os.X_OK))
        tempfile.tempdir = next(folders, tempfile.tempdir)


def _error_of_dead_worker(iterator: Any) -> FungiError | None:
    """Return the error for a worker of a loader that died; None if no worker died."""
    workers = getattr(iterator, "_workers", ())
    # The sockets of a process close before it has ended, so its exit code may not exist yet.
    ready_sentinels = wait([worker.sentinel for worker in workers], timeout=1)
    for worker in workers:
        if worker.sentinel in ready_sentinels:
            worker.join(1)
    exit_codes = [worker.exitcode for worker in workers if worker.exitcode]
    if not exit_codes:
        return None
    signal_number = -exit_codes[0]  # a negative exit code is the number of a signal
    if signal_number == signal.SIGBUS:
        return _shared_memory_error()
    if signal_number < 0:
        cause, advice = f"ended with status {exit_codes[0]}", ", with --num-workers 0 to see why"
    elif signal_number == signal.SIGKILL:
        cause = "was killed from outside, as the system does when memory runs out"
        advice = ", with --num-workers 0 or fewer workers, a smaller --batch-size, or more memory"
    else:
        cause = f"was ended by signal {signal_number} ({signal.strsignal(signal_number)})"
        advice = ", or with --num-workers 0"
    return FungiError(f"a worker process {cause}. {RERUN}{advice}.")


def _transfer_error(error: Exception) -> FungiError | None:
    """Return the message for an error of shared memory, sockets or file descriptors; None for other errors."""
    text, error_number = str(error), getattr(error, "errno", None)
    if "AF_UNIX" in text:
        return _TransferError(
            f"worker processes need sockets in {tempfile.gettempdir()}, whose name is too long for them. Use "
            f"--num-workers 0, or set TMPDIR to a folder of at most {LONGEST_FOLDER} characters."
        )
    if error_number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text or "ancdata" in text:
        return _TransferError(
            "worker processes can't hand over their batches: too many files are open. Raise the limit (ulimit -n 4096) "
            "or use --num-workers 0."
        )
    if "torch_" in text or "shared memory" in text or "shm" in text:
        return _shared_memory_error(_first_line(error))
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | ConnectionError):
        return _TransferError(
            f"worker processes can't hand over their batches ({_first_line(error)}). Use --num-workers 0."
        )
    return None


def _shared_memory_error(detail: str = "") -> FungiError:
    """Return the error for full shared memory. detail: message of the original error."""
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
        free_mb, total_mb = usage.free >> 20, usage.total >> 20  # from bytes
        cause = f"{free_mb:,} of {total_mb:,} MB of {SHARED_MEMORY} are free"
    except OSError:
        cause = f"there is no {SHARED_MEMORY}"
    if detail:
        cause += f" ({detail})"
    return _TransferError(
        f"worker processes have no room to hand over their batches: {cause}. Use --num-workers 0, fewer workers or a "
        "smaller --batch-size, or docker run --shm-size=8g."
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
