"""Batches from worker processes. If a worker dies or can't hand over its batch, the command ends with one line.

Workers hand tensors over in shared memory (`/dev/shm`) and pass its file descriptors through sockets in the folder of
temporary files. If one of them fails, the queue of `multiprocessing` drops the batch, and torch's loader waits for it
without end. Here a worker packs its batch itself, and sends the error in place of a batch that can't be sent.
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
from torch.utils.data import DataLoader

from fungi.errors import FungiError

LONGEST_FOLDER = 75
"""Characters of the folder of temporary files: names of sockets in it have 32 more, and the system allows 107."""
SHARED_MEMORY = "/dev/shm"
_END = object()
KEPT = "What was computed is kept: run the same command again"


def worker_batches(
    source: Any,
    row_batches: Iterable[list[Any]],
    collate: Callable[[list[Any]], Any],
    *,
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Yield `collate([source[row] for row in rows])` for each entry of `row_batches`, in that order.

    Workers compute ahead of need; with `num_workers` 0 everything happens in this process.
    Raises FungiError if `collate` returns one, and where a worker dies or can't hand over its batch: within seconds,
    with the cause and the way out.
    """
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_sampler=row_batches,
        collate_fn=_Packing(collate) if num_workers else collate,
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
        getattr(iterator, "_shutdown_workers", lambda: None)()  # now, not when an error's traceback lets go of them


def _next(iterator: Iterator[Any]) -> Any:
    """Return the next batch, `_END`, or the error in place of a batch."""
    try:
        batch = next(iterator, _END)
    except (RuntimeError, OSError, EOFError):
        if death := _death(iterator):
            return death
        raise
    except MemoryError:
        return FungiError(f"memory ran out. {KEPT}, with fewer --num-workers, a smaller --batch-size, or more memory.")
    if isinstance(batch, _Packed):
        batch = batch.unpack()
    return (_death(iterator) or batch) if isinstance(batch, _HandOverError) else batch


class _HandOverError(FungiError):
    """A batch that did not get from a worker to the command."""


@dataclass(frozen=True)
class _Packing:
    """Collates a batch, and packs it as the queue would."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, rows: list[Any]) -> Any:
        try:
            batch = self.collate(rows)
            return batch if isinstance(batch, FungiError) else _Packed(bytes(ForkingPickler.dumps(batch)))
        except (OSError, RuntimeError) as error:
            if (refusal := _hand_over_error(error)) is not None:
                return refusal
            raise


@dataclass(frozen=True)
class _Packed:
    """A batch as a worker sends it: a pickle that names the shared memory of its tensors."""

    content: bytes

    def unpack(self) -> Any:
        """Return the batch, or the error that says why it can't be received."""
        try:
            return ForkingPickler.loads(self.content)
        except (OSError, EOFError, RuntimeError) as error:
            return _hand_over_error(error) or _HandOverError(
                f"a batch was lost between a worker process and the command ({_first_line(error)}). {KEPT}, or with "
                "--num-workers 0."
            )

    def pin_memory(self) -> Any:
        """Return the batch in page-locked memory; the loader's own thread calls this."""
        from torch.utils.data._utils.pin_memory import pin_memory

        batch = self.unpack()
        return batch if isinstance(batch, FungiError) else pin_memory(batch)


def _start(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Start the workers. Their death is noticed where the next batch is waited for, and nowhere else.

    torch's handler of SIGCHLD would raise its error wherever the command is, in the middle of writing a file, say.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "").startswith("torch."):  # left by a loader that was started elsewhere
        handler = signal.SIG_DFL
    try:
        return iter(loader)
    except OSError as error:
        raise FungiError(
            f"can't start {loader.num_workers} worker processes ({_first_line(error)}). Use --num-workers 0, or fewer."
        ) from error
    finally:
        if handler is not None:
            with suppress(ValueError):  # only the main thread may set handlers
                signal.signal(signal.SIGCHLD, handler)


def _start_worker(worker: int) -> None:
    """Prepare a worker: one thread, since the other cores belong to other workers; room for the names of sockets."""
    torch.set_num_threads(1)
    if len(tempfile.gettempdir()) > LONGEST_FOLDER:
        shorter = (folder for folder in ("/tmp", "/var/tmp", SHARED_MEMORY) if os.access(folder, os.W_OK | os.X_OK))
        tempfile.tempdir = next(shorter, tempfile.tempdir)


def _death(iterator: Any) -> FungiError | None:
    """Return the error for the workers of a loader that died; None if none died."""
    workers = getattr(iterator, "_workers", ())
    ending = wait([worker.sentinel for worker in workers], timeout=1)  # sockets of a process close before it has ended
    for worker in workers:
        if worker.sentinel in ending:
            worker.join(1)
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    if not codes:
        return None
    code = -codes[0]
    if code == signal.SIGBUS:
        return _full_memory()
    if code < 0:
        cause, way_out = f"ended with status {codes[0]}", ", with --num-workers 0 to see why"
    elif code == signal.SIGKILL:
        cause = "was killed from outside, as the system does where memory runs out"
        way_out = ", with --num-workers 0 or fewer workers, a smaller --batch-size, or more memory"
    else:
        cause, way_out = f"was ended by signal {code} ({signal.strsignal(code)})", ", or with --num-workers 0"
    return FungiError(f"a worker process {cause}. {KEPT}{way_out}.")


def _hand_over_error(error: Exception) -> FungiError | None:
    """Return the message for an error of shared memory, sockets or file descriptors; None for any other error."""
    text, number = str(error), getattr(error, "errno", None)
    if "AF_UNIX" in text:
        return _HandOverError(
            f"worker processes need sockets in {tempfile.gettempdir()}, whose name is too long for them. Use "
            f"--num-workers 0, or set TMPDIR to a folder of at most {LONGEST_FOLDER} characters."
        )
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text or "ancdata" in text:
        return _HandOverError(
            "worker processes can't hand over their batches: too many files are open. Raise the limit (ulimit -n 4096) "
            "or use --num-workers 0."
        )
    if "torch_" in text or "shared memory" in text or "shm" in text:
        return _full_memory(_first_line(error))
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | ConnectionError):
        return _HandOverError(
            f"worker processes can't hand over their batches ({_first_line(error)}). Use --num-workers 0."
        )
    return None


def _full_memory(detail: str = "") -> FungiError:
    """Return the error for shared memory that has no more room."""
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
        room = f"{usage.free >> 20:,} of {usage.total >> 20:,} MB of {SHARED_MEMORY} are free"
    except OSError:
        room = f"there is no {SHARED_MEMORY}"
    return _HandOverError(
        f"worker processes have no room to hand over their batches: {room}{f' ({detail})' if detail else ''}. Use "
        f"--num-workers 0, fewer workers or a smaller --batch-size, or docker run --shm-size=8g."
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
