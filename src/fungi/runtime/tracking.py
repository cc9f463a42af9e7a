"""`--wandb`: log progress, throughput and results of a command to Weights & Biases.

Runs are offline unless WANDB_MODE is set: a run is a folder below `<root>/wandb`, no account is needed, and `wandb
sync` can upload it later. Commands call `track` for every number that they log; `track` does nothing without --wandb.

Logging never stops the work: if wandb fails (no key, no network, a full disk), the command logs one warning and goes on
without wandb.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from fungi.errors import FungiError
from fungi.runtime.log import logger
from fungi.settings import as_json

_runs: list[Any] = []


def track(values: Mapping[str, Any]) -> None:
    """Log the numbers in `values` to the run, if there is a run; ignore texts and lists."""
    for run in list(_runs):
        try:
            run.log({name: value for name, value in values.items() if isinstance(value, int | float)})
        except Exception as error:  # wandb raises many kinds of errors
            _runs.remove(run)
            _warn(error)


@contextmanager
def tracked(settings: Any, program: str) -> Iterator[None]:
    """Open a wandb run for the `with` statement, if the settings ask for it.

    If several processes train together, only the first process opens a run.

    Raises FungiError if wandb is not installed.
    """
    if not getattr(settings, "wandb", False) or int(os.environ.get("RANK", "0")):
        yield
        return
    run = _start(settings, program)
    if run is not None:
        _runs.append(run)
    try:
        yield
    finally:
        if run in _runs:
            _runs.remove(run)
            try:
                run.finish()
            except Exception as error:  # wandb raises many kinds of errors
                _warn(error)


class RowRate:
    """Counts finished rows and tracks their number and the rows per second since the start."""

    def __init__(self, label: str) -> None:
        self._label, self._rows, self._start = label, 0, perf_counter()

    def add(self, rows: int) -> None:
        """Count `rows` more rows."""
        self._rows += rows
        rate = self._rows / (perf_counter() - self._start)
        track({f"{self._label}/rows": self._rows, f"{self._label}/rows_per_second": rate})


def _start(settings: Any, program: str) -> Any:
    """Return a new wandb run; None if wandb fails. Raises FungiError if wandb is not installed."""
    try:
        import wandb
    except ImportError:
        raise FungiError("--wandb needs the package wandb: pip install wandb, or leave the flag out.") from None
    root = settings.root[0] if isinstance(settings.root, tuple) else settings.root
    Path(root).mkdir(parents=True, exist_ok=True)
    try:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fungi"),
            name=f"{Path(program).stem} {settings.backbone} {settings.dataset}",
            config=as_json(settings),
            dir=str(root),
            mode=None if "WANDB_MODE" in os.environ else "offline",
        )
    except Exception as error:  # no key, no network, no account: wandb raises many kinds of errors
        _warn(error)
        return None


def _warn(error: Exception) -> None:
    """Log the first line of an error of wandb."""
    cause = str(error).partition("\n")[0] or type(error).__name__
    logger.warning(
        f"Weights & Biases failed ({cause}): the command goes on without it. WANDB_MODE=offline needs no account."
    )
