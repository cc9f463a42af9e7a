"""Write the log of a training run, and check that a checkpoint belongs to the run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fungi.errors import FungiError
from fungi.runtime.files import write_text_atomically


def write_log(folder: Path, history: Sequence[Mapping[str, int | float]]) -> None:
    """Write `log.txt`: one JSON line per epoch."""
    write_text_atomically(folder / "log.txt", "".join(json.dumps(line) + "\n" for line in history))


def refuse_other_run(checkpoint: Mapping[str, Any], identity: Mapping[str, Any], path: Path) -> None:
    """Raise FungiError if the checkpoint at `path` belongs to a run with other settings.

    identity: all settings that determine the numbers of this run.
    """
    for name, value in identity.items():
        saved_value = checkpoint["identity"].get(name, value)
        if saved_value != value:
            raise FungiError(
                f"{path} is of a run with {name} = {saved_value}, but this run has {value}. Use the same value, or"
                " another --output-dir."
            )
