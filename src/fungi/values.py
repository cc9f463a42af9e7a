"""Convert values of users to the types of the fields of a dataclass, and refuse values that do not fit.

Flags, variables and keys of a grid, and options of objectives and views use these functions.
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
"""Upper bound of options that have no bounds (temperatures, numbers of views or negatives, sizes in pixels)."""

_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}


def converted(
    dataclass: type,
    values: Mapping[str, Any],
    *,
    accepts_texts: bool = False,
    label: Callable[[str], str] = "option {!r}".format,
) -> dict[str, Any]:
    """Return the values with the types of the fields of a dataclass.

    A whole number is accepted for a number, and a list for a tuple. A field whose type is not one of the types in
    `fungi.settings` accepts every value.

    accepts_texts: whether numbers and lists may be texts, as on a command line. label: function that returns the name
    of a field in messages. Raises FungiError with the field, its type or bounds, and the value.
    """
    hints, converted_values = type_hints(dataclass), {}
    bounds = {field.name: field.metadata.get("within") for field in dataclasses.fields(dataclass)}
    for name, value in values.items():
        try:
            new_value = _converted_value(value, hints[name], accepts_texts)
        except TypeError:
            original = " ".join(value) if accepts_texts and isinstance(value, list) else value
            suggestion = did_you_mean(str(original), map(str, choices_of(hints[name])))
            raise FungiError(
                f"{label(name)} takes {_in_words(hints[name], accepts_texts)}, not {original!r}.{suggestion}"
            ) from None
        smallest, largest = bounds[name] or (-LARGEST, LARGEST)
        has_several_numbers = bounds[name] and isinstance(new_value, tuple)
        for number in new_value if has_several_numbers else (new_value,):
            if isinstance(number, int | float) and not smallest <= number <= largest:  # also refuses nan
                raise FungiError(f"{label(name)} has to be at least {smallest} and at most {largest}, not {number}.")
        converted_values[name] = new_value
    return converted_values


@cache
def type_hints(dataclass: type) -> dict[str, Any]:
    """Return field -> type. The result is cached, because a grid converts thousands of command lines."""
    return typing.get_type_hints(dataclass)


def choices_of(hint: Any) -> tuple[Any, ...]:
    """Return the values of a Literal, which may be inside another type; empty for types without a Literal."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return inner
    return tuple(choice for part in inner for choice in choices_of(part))


def is_optional(hint: Any) -> bool:
    """Return whether a type is `X | None`."""
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _converted_value(value: Any, hint: Any, accepts_texts: bool) -> Any:
    """Return a value with the type of a hint. Raises TypeError if the value does not fit."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if is_optional(hint):
        return _converted_value(value, inner[0], accepts_texts)
    if origin is tuple:
        values = value.split() if accepts_texts and isinstance(value, str) else value
        has_any_length = inner[-1] is ...  # the type is `tuple[X, ...]`
        if not isinstance(values, tuple | list) or not (has_any_length or len(inner) == len(values)):
            raise TypeError
        hints = inner[:1] * len(values) if has_any_length else inner
        return tuple(_converted_value(part, kind, accepts_texts) for part, kind in zip(values, hints, strict=True))
    if accepts_texts and hint in (int, float) and isinstance(value, str):
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
    """Return the path with `~` replaced by the home folder, if the home folder is known."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)


def _in_words(hint: Any, accepts_texts: bool) -> str:
    """Return a type in words, e.g. `a whole number`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if is_optional(hint):
        return _in_words(inner[0], accepts_texts)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple and accepts_texts:
        return f"{_in_words(inner[0], accepts_texts)} each"
    if origin is tuple:
        count = "a list" if inner[-1] is ... else f"{len(inner)} values"
        if inner[0] is Any:
            return count
        return (
            f"{count} of names"
            if inner[0] is str
            else f"{count} of {_in_words(inner[0], accepts_texts)} each, e.g. (1, 2)"
        )
    return "a table of texts" if origin is Mapping else _NAMES.get(hint, str(hint))
