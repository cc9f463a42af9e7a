"""Errors that a user can cause: one line with the cause, the place and the way out."""

from collections.abc import Iterable
from difflib import get_close_matches


class FungiError(ValueError):
    """An error that the user can mend. The command line prints its text without a stack trace and exits with 2."""


class MissingFilesError(FungiError):
    """A file or folder that has to exist does not."""


class UnreadableItemError(FungiError):
    """An item of a dataset can't be read."""


class RefusedJoinError(FungiError):
    """Features of different provenance (projection, weights, layer, rows) would be joined."""


LISTED_CHARACTERS = 160
"""Length of a list of names in a message; the rest of the names is counted."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> FungiError:
    """Return the error for a name that is not in an enumeration: with the nearest names, or else the known ones."""
    names = sorted(known)
    return FungiError(f"unknown {kind} {name!r}.{did_you_mean(name, names) or f' Known: {listed(names)}.'}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the nearest names as a question, with a blank before it; empty if no name is near."""
    near = get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def counted(number: int | float, noun: str) -> str:
    """Return a number and its noun: `1 row`, `1,437 rows`, `3 classes`."""
    if number == 1:
        return f"1 {noun}"
    amount = f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"
    if noun.endswith("ry"):
        return f"{amount} {noun.removesuffix('y')}ies"
    return f"{amount} {noun}{'es' if noun.endswith(('s', 'x', 'ch')) else 's'}"


def listed(names: Iterable[str]) -> str:
    """Return names joined by commas: as many as fit into a message, and the number of the others."""
    shown: list[str] = []
    every = list(names)
    for name in every:
        if shown and len(", ".join([*shown, name])) > LISTED_CHARACTERS:
            return f"{', '.join(shown)} and {len(every) - len(shown)} more"
        shown.append(name)
    return ", ".join(shown) or "none"
