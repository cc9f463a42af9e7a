"""Values that a user gives for fields of a dataclass, typed or as text: converted where nothing is lost, else refused.

The one conversion: of flags, of variables and keys of a grid, of options of objectives and views.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fungi.errors import FungiError, did_you_mean

LARGEST = 10**6
"""No option (a temperature, a number of views, negatives or prototypes, a size in pixels) makes sense beyond it."""

_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}


def converted(
    kind: type,
    given: Mapping[str, Any],
    *,
    text: bool = False,
    called: Callable[[str], str] = "option {!r}".format,
) -> dict[str, Any]:
    """The values with the types of the fields of `kind`; FungiError that says how the field is `called`, its type or
    bounds, and the value.

    A whole number will do for a number, and a list for a tuple; types other than the plain ones are left alone.
    text: whether a number may be written out, and several values in one text, as on a command line.
    """
    hints, found = type_hints(kind), {}
    bounds = {field.name: field.metadata.get("within") for field in dataclasses.fields(kind)}
    for name, value in given.items():
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
        found[name] = fit
    return found


@cache
def type_hints(kind: type) -> dict[str, Any]:
    """Field -> type; kept, since a grid converts thousands of command lines."""
    return typing.get_type_hints(kind)


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of the one within a type; none where there is none."""
    inner = typing.get_args(hint)
    return inner if typing.get_origin(hint) is Literal else tuple(one for part in inner for one in choices_of(part))


def is_optional(hint: Any) -> bool:
    """Whether a type is `X | None`."""
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _fit(value: Any, hint: Any, text: bool) -> Any:
    """The value as the type; TypeError where it is none."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if is_optional(hint):
        return _fit(value, inner[0], text)
    if origin is tuple:
        values = value.split() if text and isinstance(value, str) else value
        if not isinstance(values, tuple | list) or (inner[-1] is not ... and len(inner) != len(values)):
            raise TypeError
        hints = inner[:1] * len(values) if inner[-1] is ... else inner
        return tuple(_fit(one, of_one, text) for one, of_one in zip(values, hints, strict=True))
    if text and hint in (int, float) and isinstance(value, str):
        with suppress(ValueError):
            value = hint(value)
    if origin is Literal:
        fits = value in inner
    elif origin is Mapping:
        fits = isinstance(value, Mapping) and all(isinstance(one, inner[1]) for one in value.values())
    elif hint is Path:
        fits = isinstance(value, str | Path)
    elif hint in (int, float):
        fits = isinstance(value, int | hint) and not isinstance(value, bool)
    else:
        fits = hint not in _NAMES or isinstance(value, hint)
    if not fits:
        raise TypeError
    return hint(value) if hint in (float, Path) else value


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
        return f"{count} of names" if inner[0] is str else f"{count} of {_in_words(inner[0], text)} each, as in (1, 2)"
    return "a table of texts" if origin is Mapping else _NAMES.get(hint, str(hint))
