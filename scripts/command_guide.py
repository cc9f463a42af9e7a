"""Write the page "Commands" of the documentation. MkDocs calls it as a hook (`make site`)."""

from dataclasses import fields
from importlib import import_module
from typing import Any

from mkdocs.structure.files import File, Files

from fungi.commands import COMMANDS, GROUPS, Command
from fungi.settings import flag_of, help_of

INTRODUCTION = """# Commands

`fungi COMMAND --help` prints the same text in a terminal. Every command has working defaults and prints which files it
wrote. After a user error, a command prints one line with the cause and the solution.
"""


def page() -> str:
    """Return the page as Markdown: the commands by group, each with its description, examples and flags."""
    parts = [INTRODUCTION]
    for group in GROUPS:
        parts.append(f"## {group}\n")
        parts += [_section(command) for command in COMMANDS.values() if command.group == group]
    return "\n".join(parts)


def _section(command: Command) -> str:
    """Return the section of a command as Markdown."""
    module = import_module(command.module)
    if not hasattr(module, "DESCRIPTION"):  # only job scripts call this command, and it has no flags
        return f"### fungi {' '.join(command.words)}\n\n{command.help}\n"
    flags = [(flag_of(field), help_of(field).replace("%%", "%")) for field in fields(command.settings_type)]
    escaped = {ord("|"): r"\|", ord("<"): "&lt;"}
    rows = [f"| `{flag}` | {text.translate(escaped)} |" for flag, text in flags]
    table = "\n".join(["| flag | meaning |", "|---|---|", *rows])
    return f"### fungi {' '.join(command.words)}\n\n```text\n{module.DESCRIPTION}\n```\n\n{table}\n"


def on_files(files: Files, *, config: Any) -> Files:
    """Add the page to the files of the site."""
    files.append(File.generated(config, "commands.md", content=page()))
    return files
