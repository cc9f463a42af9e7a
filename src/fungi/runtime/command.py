"""Run a command: parse the arguments, set up logging, do the work. An error of the user ends with one line and exit
status 2."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fungi.errors import FungiError
from fungi.runtime import log
from fungi.runtime.files import DISK_FULL
from fungi.runtime.streams import DISK_FULL_ADVICE, flush_output, prepare_streams, write_error
from fungi.runtime.tracking import tracked
from fungi.runtime.user import ensure_user_name
from fungi.settings import parse

Settings = TypeVar("Settings")
_OUT_OF_MEMORY = ("failed to map segment", "cannot allocate memory", "can't allocate memory", "can't start new thread")
"""Parts of the messages, in lower case, of libraries that can't allocate memory."""
INTERRUPTED_STATUS = 130
"""Exit status of a command that the user interrupted."""


def run_command(
    settings_type: type[Settings],
    run: Callable[[Settings], Any],
    *,
    program: str,
    description: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse `arguments` into settings, call `run`, and return the exit status.

    program: name of the command in messages and help. description: text of the help. arguments: the arguments of the
    process by default.
    """
    _prepare_process()
    log.configure()
    try:
        settings = parse(settings_type, arguments, program=program, description=description)
        if about := _about(settings):  # logged before anything slow is imported
            log.logger.info(f"{program}: {about}")
        with tracked(settings, program):
            run(settings)
    except FungiError as error:
        return _end_with_error(program, str(error))
    except BrokenPipeError:  # the reader of our output has closed it, as `| head` does
        return flush_output(program, 0)
    except OSError as error:  # a full disk, a missing permission, a folder that can't be created
        location = f"{error.filename}: " if error.filename else ""
        advice = f" {DISK_FULL_ADVICE}" if error.errno in DISK_FULL else ""
        return _end_with_error(program, f"{location}{error.strerror or error}.{advice}")
    except (MemoryError, ImportError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), "MemoryError")
        return _end_with_error(
            program,
            f"there is not enough memory ({reason}). Raise the limit (ulimit -v, --mem of a job), or choose a smaller"
            " --batch-size or fewer --num-workers, if the command has these flags.",
        )
    except SystemExit:  # raised by --help
        if status := flush_output(program, 0):
            return status
        raise
    except KeyboardInterrupt:
        _end_with_error(program, "interrupted. Finished work is kept; run the same command again to continue.")
        return INTERRUPTED_STATUS
    return flush_output(program, 0)


def _prepare_process() -> None:
    """Prepare streams and environment variables before libraries that use them are imported."""
    prepare_streams()
    # Let threads sleep while they wait for each other. Active waiting takes several times as long as the work itself if
    # other processes use the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ensure_user_name()


def _end_with_error(program: str, text: str) -> int:
    """Close the progress bars, write the reason why the command ends, and return the exit status 2."""
    log.close_bars()
    flush_output(program, 2)
    write_error(f"{program}: {text}")
    return 2


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(part in str(error).lower() for part in _OUT_OF_MEMORY)


def _about(settings: Any) -> str:
    """Return a text with the main inputs of a command, e.g. `dataset digits, backbone digits-vit`; it may be empty.

    Settings with a property `about` define this text themselves.
    """
    if (about := getattr(settings, "about", None)) is not None:
        return str(about)
    inputs = {name: getattr(settings, name, None) for name in ("dataset", "backbone", "images", "results")}
    texts = {name: " ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in inputs.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items() if text)
