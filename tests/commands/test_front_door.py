"""What `fungi WORD WORD ...` runs, and what its help shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from fungi.cli.main import main as fungi
from fungi.commands import COMMANDS, GROUPS, Command


@pytest.fixture
def started(monkeypatch) -> list[tuple[str, list[str], str]]:
    """What would have been started: (name, flags, name in messages)."""
    calls: list[tuple[str, list[str], str]] = []

    def record(self: Command, arguments, *, program) -> int:
        calls.append((self.name, list(arguments), program))
        return 0

    monkeypatch.setattr(Command, "main", record)
    return calls


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_started_by_its_words_and_by_its_name(name, started):
    assert fungi([*COMMANDS[name].words, "--flag", "value"]) == fungi([name, "--flag", "value"]) == 0
    assert [call[:2] for call in started] == [(name, ["--flag", "value"])] * 2
    assert len({call[2] for call in started}) == 1


def test_the_first_demo_may_be_named(started):
    fungi(["demo", "vision", "--root", "x"])
    fungi(["demo", "--root", "vision"])
    assert [call[:2] for call in started] == [("demo", ["--root", "x"]), ("demo", ["--root", "vision"])]


def test_help_shows_every_command_once_below_the_heading_of_its_group(capsys):
    assert fungi([]) == 0
    lines = capsys.readouterr().out.splitlines()
    heading, places = "", {}
    for line in lines:
        heading = line.rstrip(":") if line.rstrip(":") in GROUPS else heading
        for command in COMMANDS.values():
            if line.startswith("  ") and line.endswith(command.help):
                assert command.name not in places
                places[command.name] = heading
    assert places == {command.name: command.group for command in COMMANDS.values()}
    assert max(map(len, lines)) <= 120


def test_help_of_subcommands_shows_these_alone(capsys):
    assert fungi(["udi"]) == fungi(["udi", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "udi pretrain" in shown
    assert "knn" not in shown.replace("kNN", "")


def test_an_unknown_subcommand_is_refused_with_the_nearest_name(capsys):
    assert fungi(["udi", "pretain"]) == 2
    assert "Did you mean 'udi pretrain'" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["extract", "--help"], ["list", "objectives"]])
def test_output_that_cannot_be_written_ends_in_a_message_and_status_2(words):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "fungi", *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "No space left" in done.stderr
