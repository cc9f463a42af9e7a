"""One logger for the program, to standard error, so that standard output holds results alone."""

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
logger = logging.getLogger("fungi")


def configure(verbose: bool = False) -> None:
    """Set up logging for a command; called by the command line alone, never at import."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"warning: {message}\n"


def progress(items: Iterable[T], *, total: int | None = None, label: str = "", unit: str = "it") -> Iterator[T]:
    """A progress bar on a terminal; a line every half minute in a log file."""
    from tqdm import tqdm

    interactive = sys.stderr.isatty()
    yield from tqdm(
        items,
        total=total,
        desc=label,
        unit=unit,
        mininterval=0.2 if interactive else 30.0,
        ascii=not interactive,
        dynamic_ncols=interactive,
        disable=logger.level > logging.INFO,
    )
