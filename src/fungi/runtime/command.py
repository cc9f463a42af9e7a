"""How every command runs: parse, log, do the work; a user's mistake is one line and exit status 2."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fungi.errors import FungiError
from fungi.runtime import log
from fungi.runtime.files import FULL
from fungi.runtime.tracking import tracked
from fungi.settings import parse

ROOM = "Make room, or raise the quota, and run the same command again: what was finished is kept."

Settings = TypeVar("Settings")


def run_command(
    settings_type: type[Settings],
    run: Callable[[Settings], Any],
    *,
    program: str,
    description: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse `arguments` (the process's own by default) into settings and run; the exit status."""
    # Threads that wait for each other asleep, not spinning: on a processor that others use too, spinning costs several
    # times the work. Has to be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    log.configure()
    try:
        settings = parse(settings_type, arguments, program=program, description=description)
        if about := _about(settings):  # before anything slow is imported
            log.logger.info(f"{program}: {about}")
        with tracked(settings, program):
            run(settings)
    except FungiError as error:
        log.close_bars()
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a missing permission, a folder that can't be made
        log.close_bars()
        place = f"{error.filename}: " if error.filename else ""
        way_out = f" {ROOM}" if error.errno in FULL else ""
        print(f"{program}: {place}{error.strerror or error}.{way_out}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        log.close_bars()
        print(
            f"{program}: interrupted; what was finished is kept, the same command goes on from there.", file=sys.stderr
        )
        return 130
    return 0


def _about(settings: Any) -> str:
    """Return what the work is about, `dataset digits, backbone digits-vit`; empty where the settings do not say it.

    Settings may say it themselves, as a property `about`.
    """
    if (stated := getattr(settings, "about", None)) is not None:
        return str(stated)
    named = {name: getattr(settings, name, None) for name in ("dataset", "backbone", "images", "results")}
    shown = {name: " ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in named.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value)
