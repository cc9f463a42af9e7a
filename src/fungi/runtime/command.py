"""Run a command: parse, log, do the work. A mistake of the user is one line and exit status 2."""

import getpass
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fungi.errors import FungiError
from fungi.runtime import log
from fungi.runtime.files import DISK_FULL
from fungi.runtime.streams import DISK_FULL_ADVICE, flush_output, prepare_streams, write_error
from fungi.runtime.tracking import tracked
from fungi.settings import parse

Settings = TypeVar("Settings")
_OUT_OF_MEMORY = ("failed to map segment", "cannot allocate memory", "can't allocate memory", "can't start new thread")
"""Parts of the messages, in small letters, of libraries that get no memory from the system."""


def run_command(
    settings_type: type[Settings],
    run: Callable[[Settings], Any],
    *,
    program: str,
    description: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse `arguments` (by default those of the process) into settings, run, and return the exit status."""
    _prepare_process()
    log.configure()
    try:
        settings = parse(settings_type, arguments, program=program, description=description)
        if about := _about(settings):  # before anything slow is imported
            log.logger.info(f"{program}: {about}")
        with tracked(settings, program):
            run(settings)
    except FungiError as error:
        return _failed(program, str(error))
    except BrokenPipeError:  # the reader of our output (`| head`) has seen enough
        return flush_output(program, 0)
    except OSError as error:  # a full disk, a missing permission, a folder that can't be created
        place = f"{error.filename}: " if error.filename else ""
        way_out = f" {DISK_FULL_ADVICE}" if error.errno in DISK_FULL else ""
        return _failed(program, f"{place}{error.strerror or error}.{way_out}")
    except (MemoryError, ImportError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), "MemoryError")
        return _failed(
            program,
            f"there is not enough memory ({reason}). Raise the limit (ulimit -v, --mem of a job), or choose a smaller"
            " --batch-size or fewer --num-workers, where the command has them.",
        )
    except SystemExit:  # of --help
        if status := flush_output(program, 0):
            return status
        raise
    except KeyboardInterrupt:
        _failed(program, "interrupted; what was finished is kept, the same command goes on from there.")
        return 130
    return flush_output(program, 0)


def _prepare_process() -> None:
    """Set what libraries expect of a process, before they are imported."""
    prepare_streams()
    # Threads that wait for each other asleep, not spinning: on a processor that others use too, spinning costs several
    # times the work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name, which torch and wandb ask for
        os.environ["USER"] = f"user{os.getuid()}"


def _failed(program: str, text: str) -> int:
    """Write the line that says why a command ends, below the bars of what it was doing; return the exit status."""
    log.close_bars()
    flush_output(program, 2)
    write_error(f"{program}: {text}")
    return 2


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(part in str(error).lower() for part in _OUT_OF_MEMORY)


def _about(settings: Any) -> str:
    """Return what the work is about, `dataset digits, backbone digits-vit`; empty where the settings do not say it.

    Settings may say it themselves, as a property `about`.
    """
    if (stated := getattr(settings, "about", None)) is not None:
        return str(stated)
    named = {name: getattr(settings, name, None) for name in ("dataset", "backbone", "images", "results")}
    shown = {name: " ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in named.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value)
