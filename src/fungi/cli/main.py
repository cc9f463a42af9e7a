"""`fungi COMMAND ...`: run a command of the table of commands."""

import sys
from collections.abc import Iterable, Iterator, Sequence

from fungi import __version__
from fungi.commands import COMMANDS, GROUPS, Command
from fungi.errors import unknown_name
from fungi.runtime.streams import discard_output, flush_output, prepare_streams, write_error

USAGE = """usage: fungi COMMAND [--flag ...]
       fungi COMMAND --help       flags of a command
       fungi --version"""
IGNORED_SECOND_WORDS = {"demo": ("vision",)}
"""First word -> second words without effect: `fungi demo vision` is the same as `fungi demo`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first word or the first two words name, and return its exit status."""
    prepare_streams()
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
    except OSError as error:
        return discard_output("fungi", 0, error)
    return flush_output("fungi", status)


def _run(words: list[str]) -> int:
    """Run a command, or print help or the version. Return the exit status: 2 for an unknown command."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE + "".join(_help_of_groups(COMMANDS.values())))
        return 0
    if words[0] in ("-V", "--version"):
        print(f"fungi {__version__}")
        return 0
    command, flags = _command_of(words)
    if command is not None:
        return command.main(flags, program=" ".join(("fungi", *command.words)))
    subcommands = [command for command in COMMANDS.values() if command.words[0] == words[0]]
    if subcommands and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(f"usage: fungi {words[0]} COMMAND [--flag ...]" + "".join(_help_of_groups(subcommands)))
        return 0
    names = [" ".join(command.words) for command in COMMANDS.values()]
    unknown = " ".join(words[:2]) if subcommands else words[0]
    write_error(f"fungi: {unknown_name('command', unknown, names)}")
    return 2


def _command_of(words: list[str]) -> tuple[Command | None, list[str]]:
    """Return the command and its flags; None for an unknown command. Commands of two words take precedence."""
    for command in COMMANDS.values():
        if len(command.words) == 2 and tuple(words[:2]) == command.words:
            return command, words[2:]
    is_ignored = len(words) > 1 and words[1] in IGNORED_SECOND_WORDS.get(words[0], ())
    return COMMANDS.get(words[0]), words[2 if is_ignored else 1 :]


def _help_of_groups(commands: Iterable[Command]) -> Iterator[str]:
    """Yield one paragraph per group that has commands: the heading of the group and a line for each command."""
    commands = list(commands)
    width = max(len(" ".join(command.words)) for command in commands)
    for group in GROUPS:
        commands_of_group = [command for command in commands if command.group == group]
        lines = [f"  {' '.join(command.words):<{width}}  {command.help}" for command in commands_of_group]
        if lines:
            yield "\n\n" + "\n".join([f"{group}:", *lines])
