"""Output in a terminal during a run: progress bars, and messages above them that are not repeated."""

import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fungi.errors import FungiError
from fungi.runtime import log
from fungi.runtime.command import run_command
from fungi.settings import setting


class Terminal(io.StringIO):
    """A terminal that stores its output."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """Return the lines that are visible at the end. A carriage return overwrites the earlier part of a line."""
        lines = []
        for line in self.getvalue().replace("\x1b[A", "").split("\n"):
            visible = ""
            for part in line.split("\r"):
                visible = part + visible[len(part) :]
            lines.append(visible.rstrip())
        return lines


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Terminal]]:
    """Return a function that replaces standard error by a terminal and configures the log for it.

    pytest's own standard error stays until the function is called.
    """

    def open_one() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        log.configure()
        return terminal

    monkeypatch.setattr(log.logger, "handlers", [])
    for name in ("level", "propagate"):
        monkeypatch.setattr(log.logger, name, getattr(log.logger, name))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    yield open_one
    log.close_bars()


def test_a_bar_counts_the_images_of_all_items_and_ends_at_100_percent(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    assert list(log.progress(["a", "b", "c"], [16, 16, 8], label="train")) == ["a", "b", "c"]
    (last,) = filter(None, terminal.shown())
    assert last.startswith("train: 100%|")
    assert "40/40" in last
    assert re.search(r"images/s\]$", last)


def test_a_bar_also_ends_if_items_are_taken_with_next(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    bar = log.progress(iter("ab"), [1, 1])
    assert [next(bar), next(bar)] == ["a", "b"]
    assert next(bar, None) is None
    assert "100%" in terminal.shown()[0]
    assert not log._open_bars


def test_messages_are_printed_once_above_the_bar(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    for number in log.progress(range(3), label="train"):
        log.logger.info("no PCA for embeddings")
        log.logger.info(f"item {number}")
    *messages, bar, end = terminal.shown()
    assert messages == ["no PCA for embeddings", "item 0", "item 1", "item 2"]
    assert bar.startswith("train: 100%|")
    assert end == ""


def test_warnings_of_libraries_are_printed_above_the_bar(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    assert warnings.formatwarning is log.format_warning  # pytest records warnings, so none is printed here
    for _ in log.progress(range(1), label="train"):
        sys.stderr.write(log.format_warning("old function"))
    assert terminal.shown()[0] == "warning: old function"


def test_warnings_inside_a_command_can_be_recorded(open_terminal: Callable[[], Terminal]) -> None:
    def command() -> None:
        open_terminal()
        warnings.warn("old function", stacklevel=1)

    with pytest.warns(UserWarning, match="old function"):
        command()


def test_another_command_prints_the_same_message_again(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    log.logger.info("no PCA")
    log.configure()
    log.logger.info("no PCA")
    assert terminal.shown() == ["no PCA", "no PCA", ""]


def test_an_error_is_printed_on_a_line_below_the_bar(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        backbone: str = setting("digits-vit", "a backbone")

    def fail(_: Settings) -> None:
        bar = log.progress(range(4), label="train")  # the traceback keeps a reference to it
        for number in bar:
            if number == 2:
                raise FungiError("the third is broken.")

    assert run_command(Settings, fail, program="fungi x", description="", arguments=[]) == 2
    first, bar, cause, end = terminal.shown()
    assert first == "fungi x: backbone digits-vit"
    assert bar.startswith("train:  50%|")
    assert (cause, end) == ("fungi x: the third is broken.", "")


def test_log_files_get_lines_instead_of_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 400, 10))
    monkeypatch.setattr(log, "monotonic", lambda: float(next(now)))
    log.configure()
    list(log.progress(range(4), [100] * 4, label="train"))
    log.configure()
    lines = ["train: 100 of 400 images, 10 images/s, 30 s to go", "train: 400 of 400 images, 10 images/s, 0 s to go"]
    assert capsys.readouterr().err.splitlines() == lines


def test_progress_counts_parts_of_an_item(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 48 images takes minutes on a CPU, so progress counts each group of views that is encoded."""
    now = iter(range(0, 4000, 10))
    monkeypatch.setattr(log, "monotonic", lambda: float(next(now)))
    log.configure()
    for _ in log.progress([1], [48], label="train"):
        log.expect_parts(96)
        for _ in range(96):
            log.parts_done(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("train: 1 of 48 images")
    assert lines[0].endswith("to go")
    assert len(lines) > 10
    assert lines[-1].startswith("train: 4")
    log.parts_done(5)  # no bar is open


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99.0, "99 s"), (100.0, "2 min"), (5400.0, "90 min"), (12e3, "3 h 20 min")]
)
def test_times_are_printed_in_seconds_minutes_or_hours(seconds: float, text: str) -> None:
    assert log.time_in_words(seconds) == text


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1]])
def test_progress_needs_a_size_for_each_item(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="zip"):
        list(log.progress([1, 2], sizes))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (931, "931 bytes"),
        (2688, "2.69 kB"),
        (9_700, "9.7 kB"),
        (400_000, "400 kB"),
        (999_999, "1 MB"),
        (56_700_000, "56.7 MB"),
        (3_145_728_000, "3.15 GB"),
        (5 * 10**12, "5,000 GB"),
    ],
)
def test_sizes_are_printed_with_three_digits_and_a_unit(number, text):
    assert log.size_in_words(number) == text
