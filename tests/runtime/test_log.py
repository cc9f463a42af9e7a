"""What a terminal shows while something runs: bars that count and end, messages above them, each said once."""

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
    """A terminal that keeps what it is given."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """The lines that somebody sees in the end: what a carriage return goes over is gone."""
        lines = []
        for line in self.getvalue().replace("\x1b[A", "").split("\n"):
            seen = ""
            for part in line.split("\r"):
                seen = part + seen[len(part) :]
            lines.append(seen.rstrip())
        return lines


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Terminal]]:
    """Makes a terminal of standard error, with the program's logging to it; pytest's own is in place until called."""

    def made() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        log.configure()
        return terminal

    monkeypatch.setattr(log.logger, "handlers", [])
    for name in ("level", "propagate"):
        monkeypatch.setattr(log.logger, name, getattr(log.logger, name))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    yield made
    log.close_bars()


def test_a_bar_counts_what_is_in_the_items_and_ends_at_all_of_it(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    assert list(log.progress(["a", "b", "c"], [16, 16, 8], label="train")) == ["a", "b", "c"]
    (last,) = filter(None, terminal.shown())
    assert last.startswith("train: 100%|")
    assert "40/40" in last
    assert re.search(r"images/s\]$", last)


def test_who_takes_the_items_one_by_one_can_end_the_bar(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    bar = log.progress(iter("ab"), [1, 1])
    assert [next(bar), next(bar)] == ["a", "b"]
    assert next(bar, None) is None
    assert "100%" in terminal.shown()[0]
    assert not log._open_bars


def test_messages_go_above_the_bar_and_are_said_once(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    for number in log.progress(range(3), label="train"):
        log.logger.info("no PCA for embeddings")
        log.logger.info(f"seen {number}")
    *messages, bar, end = terminal.shown()
    assert messages == ["no PCA for embeddings", "seen 0", "seen 1", "seen 2"]
    assert bar.startswith("train: 100%|")
    assert end == ""


def test_a_warning_of_a_library_goes_above_the_bar_too(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    assert warnings.formatwarning is log.format_warning  # pytest records warnings, so that none is printed here
    for _ in log.progress(range(1), label="train"):
        sys.stderr.write(log.format_warning("old function"))
    assert terminal.shown()[0] == "warning: old function"


def test_who_records_warnings_gets_them_inside_a_command(open_terminal: Callable[[], Terminal]) -> None:
    def command() -> None:
        open_terminal()
        warnings.warn("old function", stacklevel=1)

    with pytest.warns(UserWarning, match="old function"):
        command()


def test_a_new_command_says_things_anew(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    log.logger.info("no PCA")
    log.configure()
    log.logger.info("no PCA")
    assert terminal.shown() == ["no PCA", "no PCA", ""]


def test_an_error_begins_a_line_below_the_bar(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        backbone: str = setting("digits-vit", "a backbone")

    def fail(_: Settings) -> None:
        bar = log.progress(range(4), label="train")  # the traceback keeps it alive
        for number in bar:
            if number == 2:
                raise FungiError("the third is broken.")

    assert run_command(Settings, fail, program="fungi x", description="", arguments=[]) == 2
    opening, bar, cause, end = terminal.shown()
    assert opening == "fungi x: backbone digits-vit"
    assert bar.startswith("train:  50%|")
    assert (cause, end) == ("fungi x: the third is broken.", "")


def test_log_files_get_lines_and_no_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 400, 10))
    monkeypatch.setattr(log, "monotonic", lambda: float(next(now)))
    log.configure()
    list(log.progress(range(4), [100] * 4, label="train"))
    log.configure()
    lines = ["train: 100 of 400 images, 10 images/s, 30 s to go", "train: 400 of 400 images, 10 images/s, 0 s to go"]
    assert capsys.readouterr().err.splitlines() == lines


def test_progress_moves_within_an_item(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """48 images in one batch take minutes on a processor: each group of views that is encoded counts."""
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
    ("seconds", "words"), [(0.4, "0 s"), (99.0, "99 s"), (100.0, "2 min"), (5400.0, "90 min"), (12e3, "3 h 20 min")]
)
def test_times_are_said_in_words(seconds: float, words: str) -> None:
    assert log.time_in_words(seconds) == words


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1]])
def test_sizes_belong_to_the_items(sizes: list[int]) -> None:
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
def test_sizes_are_never_said_to_be_nothing(number, text):
    assert log.size_in_words(number) == text
