"""Standard output and standard error. A stream may be closed, lead to a full disk, or refuse some characters."""

import io
import os
import sys
from typing import TextIO

from fungi.runtime.files import DISK_FULL

DISK_FULL_ADVICE = "Make room, or raise the quota, and run the same command again: finished work is kept."


def prepare_streams() -> None:
    """Connect closed standard streams to the null device, and print unsupported characters as codes.

    If a standard stream is closed, the next opened file gets its number. Libraries would then write their messages into
    this file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `descriptor`
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(descriptor, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_error(text: str) -> None:
    """Write a line to standard error; do nothing if standard error is closed."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def flush_output(program: str, status: int) -> int:
    """Flush standard output and return the exit status.

    If the reader has closed the output (`| head`), the status does not change. If the disk is full, write a message and
    return 2.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        return discard_output(program, status, error)
    return status


def discard_output(program: str, status: int, error: OSError) -> int:
    """Discard standard output after an error and return the exit status.

    Write the cause of the error, unless the reader has closed the output.
    """
    _discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return status
    advice = f" {DISK_FULL_ADVICE}" if error.errno in DISK_FULL else ""
    write_error(f"{program}: standard output: {error.strerror}.{advice}")
    return 2


def _discard(stream: TextIO) -> None:
    """Discard the buffer of a stream and everything that is written to it later."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, descriptor)
    os.close(null_device)
