"""The logger of the program and its progress bars. Both write to standard error; standard output is for results.

Messages appear above open bars. A command writes each message only once.
"""

import logging
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")
logger = logging.getLogger("fungi")
SECONDS_TO_FIRST_LINE = 5.0
"""Time until the first line of progress, if the output is not a terminal."""
SECONDS_BETWEEN_LINES = 30.0
"""Time between later lines of progress."""


@runtime_checkable
class _Bar(Protocol):
    """A progress bar."""

    def update(self, count: int) -> object: ...

    def close(self) -> None: ...

    def clear(self) -> object: ...


_open_bars: list[_Bar] = []


class _HandlerAboveBars(logging.StreamHandler[Any]):
    """A log handler that writes each text only once, above open bars."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._written: set[str] = set()
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message, unless the same text was written before."""
        text = self.format(record)
        if text in self._written:
            return
        self._written.add(text)
        if _open_bars and sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(text, file=self.stream)
        else:
            super().emit(record)


def configure() -> None:
    """Set up logging for a command. Only the command line calls this; importing the library changes no logging."""
    logger.handlers[:] = [_HandlerAboveBars()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    warnings.formatwarning = format_warning


def format_warning(message: Warning | str, *_where: Any, **_options: Any) -> str:
    """Return a warning of a library as a line, and clear the open bars, so that they are drawn again below the line.

    Passing warnings to the logger instead would hide them from code that records warnings.
    """
    for bar in _open_bars:
        bar.clear()
    return f"warning: {message}\n"


def progress(
    items: Iterable[T], sizes: Sequence[int] | None = None, *, label: str = "", unit: str = "image"
) -> Iterator[T]:
    """Yield the items and show progress: a bar on a terminal, a line every half minute elsewhere.

    sizes: number of units in each item, in order, e.g. images per batch. If it is absent, each item counts as one unit,
    and `items` must have a length.

    An item is done when the caller asks for the next item. The bar ends with the items, or with `close_bars`.
    """
    if sizes is None:
        assert isinstance(items, Collection), "without sizes, the items must have a length"
        sizes = [1] * len(items)
    bar = _new_bar(sum(sizes), label, unit)
    _open_bars.append(bar)
    try:
        for item, size in zip(items, sizes, strict=True):
            _item.begin(bar, size)
            yield item
            _item.finish()
    finally:
        bar.close()
        if bar in _open_bars:
            _open_bars.remove(bar)


class _Item:
    """Progress within the current item of the latest bar.

    An item has a size in the units of the bar, such as images. The work on the item may be counted in smaller parts,
    such as views, so that the bar moves before the item is done.
    """

    def __init__(self) -> None:
        self._bar: _Bar | None = None
        self._size = self._shown_units = self._parts = self._parts_done = 0

    def begin(self, bar: _Bar, size: int) -> None:
        """Begin an item of `size` units."""
        self._bar, self._size = bar, size
        self._shown_units = self._parts = self._parts_done = 0

    def expect(self, parts: int) -> None:
        """Set the number of parts of the work on the item."""
        self._parts, self._parts_done = parts, 0

    def advance(self, parts: int) -> None:
        """Count `parts` more parts as done, and show the corresponding units."""
        self._parts_done += parts
        if self._parts:
            self._show(min(self._size, self._size * self._parts_done // self._parts))

    def finish(self) -> None:
        """Show all units of the item."""
        self._show(self._size)
        self._bar = None

    def _show(self, units: int) -> None:
        """Show the first `units` units of the item as done, if its bar is open."""
        if self._bar is not None and self._bar in _open_bars and units > self._shown_units:
            self._bar.update(units - self._shown_units)
            self._shown_units = units


_item = _Item()


def expect_parts(count: int) -> None:
    """Set the number of parts of the current item (views to encode), so that the bar also moves within the item."""
    _item.expect(count)


def parts_done(count: int) -> None:
    """Count `count` more parts of the current item as done; do nothing if no bar is open."""
    _item.advance(count)


def close_bars() -> None:
    """Close the bars of interrupted work, so that the next text begins on a new line."""
    while _open_bars:
        _open_bars.pop().close()


def _new_bar(total: int, label: str, unit: str) -> _Bar:
    """Return a bar on a terminal, or lines of progress elsewhere. total: number of units of the complete work."""
    if not sys.stderr.isatty() or logger.level > logging.INFO:
        return _Lines(total, label, unit)
    from tqdm import tqdm

    try:
        has_size = os.get_terminal_size(sys.stderr.fileno()).lines > 0
    except OSError:
        has_size = False  # as in many containers
    size: dict[str, Any] = {"dynamic_ncols": True} if has_size else {"ncols": 80, "nrows": 24}
    return tqdm(total=total, desc=label, unit=f" {unit}s", mininterval=0.2, file=sys.stderr, **size)


def size_in_words(number: int) -> str:
    """Return a number of bytes as `931 bytes`, `9.7 kB`, `57 MB` or `3.1 GB`; 1 kB is 1000 bytes."""
    # The factors 0.9995 and 99.95 choose the unit and the format of the rounded number: 999.9 kB are `1 MB`.
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:,.0f} {unit}" if number >= 99.95 * size else f"{number / size:.3g} {unit}"
    return f"{number:.0f} bytes"


def time_in_words(seconds: float) -> str:
    """Return a time as `40 s`, `12 min` or `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class _Lines:
    """Lines of progress that replace a bar if the output is not a terminal, e.g. in log files."""

    def __init__(self, total: int, label: str, unit: str) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._start = self._last_line = monotonic()
        self._done, self._has_written = 0, False

    def update(self, count: int) -> None:
        """Count `count` more units; write a line of progress after a few seconds, and then every half minute."""
        self._done += count
        now = monotonic()
        interval = SECONDS_BETWEEN_LINES if self._has_written else SECONDS_TO_FIRST_LINE
        if now - self._last_line >= interval:
            self._last_line, self._has_written = now, True
            rate = self._done / (now - self._start)
            remaining = time_in_words((self._total - self._done) / rate)
            speed = f"{rate:.3g} {self._unit}s/s, {remaining} to go"
            logger.info(f"{self._label}: {self._done:,} of {self._total:,} {self._unit}s, {speed}")

    def close(self) -> None:
        """Do nothing: every line is complete."""

    def clear(self) -> None:
        """Do nothing: lines stay where they are."""
