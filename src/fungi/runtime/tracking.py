"""`--wandb`: progress, throughput and results of a command to Weights & Biases.

Offline unless WANDB_MODE says otherwise: a run is a folder below `<root>/wandb`, no account is needed, and `wandb sync`
uploads it later if that is wanted. Commands call `track` wherever there is a number; without --wandb it does nothing.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from fungi.errors import FungiError
from fungi.settings import as_json

_runs: list[Any] = []


def track(values: Mapping[str, Any]) -> None:
    """Log numbers of this moment to the run, if there is one. Texts and lists are left out."""
    for run in _runs:
        run.log({name: value for name, value in values.items() if isinstance(value, int | float)})


@contextmanager
def tracked(settings: Any, program: str) -> Iterator[None]:
    """Open a run around a command whose settings ask for one; of processes that train together the first has it.

    Raises FungiError where wandb is not installed.
    """
    if not getattr(settings, "wandb", False) or int(os.environ.get("RANK", "0")):
        yield
        return
    run = _start(settings, program)
    _runs.append(run)
    try:
        yield
    finally:
        _runs.remove(run)
        run.finish()


class RowRate:
    """Rows done and rows per second since it was made, for `track`."""

    def __init__(self, label: str) -> None:
        self._label, self._rows, self._start = label, 0, perf_counter()

    def add(self, rows: int) -> None:
        """Count some more rows."""
        self._rows += rows
        rate = self._rows / (perf_counter() - self._start)
        track({f"{self._label}/rows": self._rows, f"{self._label}/rows_per_second": rate})


def _start(settings: Any, program: str) -> Any:
    try:
        import wandb
    except ImportError:
        raise FungiError("--wandb needs the package wandb: pip install wandb, or leave the flag out.") from None
    root = settings.root[0] if isinstance(settings.root, tuple) else settings.root
    Path(root).mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "fungi"),
        name=f"{Path(program).stem} {settings.backbone} {settings.dataset}",
        config=as_json(settings),
        dir=str(root),
        mode=None if "WANDB_MODE" in os.environ else "offline",
    )
