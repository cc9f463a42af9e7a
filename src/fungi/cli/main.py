"""`fungi COMMAND ...`: the same commands as the files at the top level, and a few more."""

import sys
from collections.abc import Sequence

from fungi import __version__
from fungi.commands import COMMANDS
from fungi.errors import unknown_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Dispatch to the command named first."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
        print("usage: fungi COMMAND [--help] ... | fungi --version\n\n" + "\n".join(lines))
        return 0
    if given[0] in ("-V", "--version"):
        print(f"fungi {__version__}")
        return 0
    if given[0] not in COMMANDS:
        print(f"fungi: {unknown_name('command', given[0], COMMANDS)}", file=sys.stderr)
        return 2
    return COMMANDS[given[0]].main(given[1:], program=f"fungi {given[0]}")
