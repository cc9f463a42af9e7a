"""What a user can cause, said in one line: what was expected, what was found, where, and the way out."""

from collections.abc import Iterable
from difflib import get_close_matches


class FungiError(ValueError):
    """A cause that the user can mend. The command line prints its text and exits with status 2, no trace."""


class MissingFilesError(FungiError):
    """Something that has to be on disk is not there."""


class RefusedJoinError(FungiError):
    """Features of different provenance (projection, weights, layer, rows) were about to be joined."""


def unknown_name(kind: str, asked: str, known: Iterable[str]) -> FungiError:
    """The error for a name that is not in an enumeration: nearest names first, then all."""
    names = sorted(known)
    return FungiError(f"unknown {kind} {asked!r}.{did_you_mean(asked, names)} Known: {', '.join(names)}.")


def did_you_mean(asked: str, known: Iterable[str]) -> str:
    """The nearest names as a question, with a blank before it; empty where none is near."""
    near = get_close_matches(asked, sorted(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
