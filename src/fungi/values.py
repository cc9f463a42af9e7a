"""Convert values from users to the types of a dataclass's fields, and refuse those that do not fit.

Flags, variables and keys of a grid, and options of objectives and views are all converted here.
"""

import dataclasses
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fungi.errors import FungiError, did_you_mean

LARGEST = 10**6
"""Upper bound of options without bounds of their own (temperatures, numbers of views or negatives, sizes in pixels)."""

_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}


def converted(
    kind: type,
    values: Mapping[str, Any],
    *,
    text: bool = False,
    called: Callable[[str], str] = "option {!r}".format,
) -> dict[str, Any]:
    """Return the values with the types of the fields of `kind`.

    A whole number is accepted for a number, and a list for a tuple. Types other than the plain ones are left alone.
    text: whether numbers, and several values, may come as text, as on a command line.
    called: how messages call a field. Raises FungiError with the name of the field, its type or bounds, and the value.
    """
    hints, fitting = type_hints(kind), {}
    bounds = {field.name: field.metadata.get("within") for field in dataclasses.fields(kind)}
    for name, value in values.items():
        try:
            fit = _fit(value, hints[name], text)
        except TypeError:
            shown = " ".join(value) if text and isinstance(value, list) else value
            near = did_you_mean(str(shown), map(str, choices_of(hints[name])))
            raise FungiError(f"{called(name)} takes {_in_words(hints[name], text)}, not {shown!r}.{near}") from None
        least, most = bounds[name] or (-LARGEST, LARGEST)
        for number in fit if bounds[name] and isinstance(fit, tuple) else (fit,):
            if isinstance(number, int | float) and not least <= number <= most:  # so that nan is refused too
                raise FungiError(f"{called(name)} has to be at least {least} and at most {most}, not {number}.")
        fitting[name] = fit
    return fitting


@cache
def type_hints(kind: type) -> dict[str, Any]:
    """Return field -> type. Cached, since a grid converts thousands of command lines."""
    return typing.get_type_hints(kind)


def choices_of(hint: Any) -> tuple[Any, ...]:
    """Return the values of a Literal, also of one inside another type; empty where there is none."""
    inner = typing.get_args(hint)
    return (
        inner if typing.get_origin(hint) is Literal else tuple(choice for part in inner for choice in choices_of(part))
    )


def is_optional(hint: Any) -> bool:
    """Return whether a type is `X | None`."""
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _fit(value: Any, hint: Any, text: bool) -> Any:
    """Return the value as the type. Raises TypeError if it does not fit."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if is_optional(hint):
        return _fit(value, inner[0], text)
    if origin is tuple:
        values = value.split() if text and isinstance(value, str) else value
        if not isinstance(values, tuple | list) or (inner[-1] is not ... and len(inner) != len(values)):
            raise TypeError
        hints = inner[:1] * len(values) if inner[-1] is ... else inner
        return tuple(_fit(part, kind, text) for part, kind in zip(values, hints, strict=True))
    if text and hint in (int, float) and isinstance(value, str):
        with suppress(ValueError):
            value = hint(value)
    if origin is Literal:
        fits = value in inner
    elif origin is Mapping:
        fits = isinstance(value, Mapping) and all(isinstance(entry, inner[1]) for entry in value.values())
    elif hint is Path:
        fits = isinstance(value, str | Path)
    elif hint in (int, float):
        fits = isinstance(value, numbers.Integral if hint is int else numbers.Real) and not isinstance(value, bool)
    else:
        fits = hint not in _NAMES or isinstance(value, hint)
    if not fits:
        raise TypeError
    converters: dict[Any, Callable[[Any], Any]] = {int: int, float: float, Path: _expanded}
    return converters[hint](value) if hint in converters else value


def _expanded(value: str | Path) -> Path:
    """Return the path with `~` replaced by the home folder, where that is known."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)


def _in_words(hint: Any, text: bool) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if is_optional(hint):
        return _in_words(inner[0], text)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple and text:
        return f"{_in_words(inner[0], text)} each"
    if origin is tuple:
        count = "a list" if inner[-1] is ... else f"{len(inner)} values"
        if inner[0] is Any:
            return count
        return f"{count} of names" if inner[0] is str else f"{count} of {_in_words(inner[0], text)} each, as in (1, 2)"
    return "a table of texts" if origin is Mapping else _NAMES.get(hint, str(hint))
