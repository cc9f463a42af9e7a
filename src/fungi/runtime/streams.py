"""Standard output and error that may be closed, full, read by nobody, or unable to show every letter."""

import io
import os
import sys
from typing import TextIO

from fungi.runtime.files import DISK_FULL

DISK_FULL_ADVICE = "Make room, or raise the quota, and run the same command again: what was finished is kept."


def prepare_streams() -> None:
    """Give a process its three standard streams, and let them show any text.

    A stream that is closed would give its number to the next file that is opened, which libraries then write messages
    into. Letters that the encoding of the terminal does not have are shown as codes.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
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

    A reader that has seen enough (`| head`) changes nothing; a full disk ends in a message and status 2.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        return output_failed(program, status, error)
    return status


def output_failed(program: str, status: int, error: OSError) -> int:
    """Give up standard output, say why unless its reader has just seen enough, and return the exit status."""
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
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
