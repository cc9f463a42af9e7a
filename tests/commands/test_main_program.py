"""The program `fungi`: the choice of the command, and the help."""

import subprocess
import sys
from pathlib import Path

import pytest

from fungi.cli.main import main as fungi
from fungi.commands import COMMANDS, GROUPS, Command


@pytest.fixture
def command_calls(monkeypatch) -> list[tuple[str, list[str], str]]:
    """Return a list that records calls of commands instead of running them: name, flags, and name in messages."""
    calls: list[tuple[str, list[str], str]] = []

    def record(self: Command, arguments, *, program) -> int:
        calls.append((self.name, list(arguments), program))
        return 0

    monkeypatch.setattr(Command, "main", record)
    return calls


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_runs_by_its_words_and_by_its_name(name, command_calls):
    assert fungi([*COMMANDS[name].words, "--flag", "value"]) == fungi([name, "--flag", "value"]) == 0
    assert [call[:2] for call in command_calls] == [(name, ["--flag", "value"])] * 2
    assert len({call[2] for call in command_calls}) == 1


def test_the_word_vision_after_demo_can_be_omitted(command_calls):
    fungi(["demo", "vision", "--root", "x"])
    fungi(["demo", "--root", "vision"])
    assert [call[:2] for call in command_calls] == [("demo", ["--root", "x"]), ("demo", ["--root", "vision"])]


def test_help_shows_every_command_once_below_the_heading_of_its_group(capsys):
    assert fungi([]) == 0
    lines = capsys.readouterr().out.splitlines()
    heading, headings = "", {}
    for line in lines:
        heading = line.rstrip(":") if line.rstrip(":") in GROUPS else heading
        for command in COMMANDS.values():
            if line.startswith("  ") and line.endswith(command.help):
                assert command.name not in headings
                headings[command.name] = heading
    assert headings == {command.name: command.group for command in COMMANDS.values()}
    assert max(map(len, lines)) <= 120


def test_the_help_of_a_first_word_shows_only_its_commands(capsys):
    assert fungi(["udi"]) == fungi(["udi", "--help"]) == 0
    output = capsys.readouterr().out
    assert "udi pretrain" in output
    assert "knn" not in output.replace("kNN", "")


def test_an_unknown_second_word_is_refused_with_the_most_similar_command(capsys):
    assert fungi(["udi", "pretain"]) == 2
    assert "Did you mean 'udi pretrain'" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    "words", [["--help"], ["extract", "--help"], pytest.param(["list", "objectives"], marks=pytest.mark.slow)]
)
def test_output_that_cannot_be_written_gives_a_message_and_status_2(words):
    command = [sys.executable, "-m", "fungi", *words]
    with Path("/dev/full").open("w") as full_device:
        process = subprocess.run(command, stdout=full_device, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 2
    assert "No space left" in process.stderr
