"""Errors that a user can cause. Their message is one line with cause, place and solution."""

from collections.abc import Iterable
from difflib import get_close_matches


class FungiError(ValueError):
    """An error that the user can correct. The command line prints only its message and returns exit status 2."""


class MissingFilesError(FungiError):
    """A required file or folder does not exist."""


class UnreadableItemError(FungiError):
    """An item of a dataset can't be read."""


class RefusedJoinError(FungiError):
    """Features of different provenance (projection, weights, layer, rows) would be joined."""


LISTED_CHARACTERS = 160
"""Largest length of a list of names in a message. For more names, the message gives only their number."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> FungiError:
    """Return the error for an unknown name. The message has the most similar names, or all known names."""
    names = sorted(known)
    return FungiError(f"unknown {kind} {name!r}.{did_you_mean(name, names) or f' Known: {listed(names)}.'}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean ...?` with the most similar names; empty if no name is similar."""
    similar = get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, similar))}?" if similar else ""


def counted(number: int | float, noun: str) -> str:
    """Return a number and its noun: `1 row`, `1,437 rows`, `3 classes`."""
    if number == 1:
        return f"1 {noun}"
    amount = f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"
    if noun.endswith("ry"):
        return f"{amount} {noun.removesuffix('y')}ies"
    return f"{amount} {noun}{'es' if noun.endswith(('s', 'x', 'ch')) else 's'}"


def listed(names: Iterable[str]) -> str:
    """Return a text of names: as many names as fit into a message, and the number of the remaining names."""
    names = list(names)
    listed_names: list[str] = []
    for name in names:
        if listed_names and len(", ".join([*listed_names, name])) > LISTED_CHARACTERS:
            return f"{', '.join(listed_names)} and {len(names) - len(listed_names)} more"
        listed_names.append(name)
    return ", ".join(listed_names) or "none"
