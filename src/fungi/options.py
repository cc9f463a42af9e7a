"""Values that a user gives for fields of a dataclass, typed or as text: converted where nothing is lost, else refused.

Settings of commands come from argparse (`fungi.settings`); options of objectives and views, and the keys of a grid
file, come through here.
"""

import ast
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from fungi.errors import FungiError

LARGEST = 10**6
"""No option (a temperature, a number of views, negatives or prototypes, a size in pixels) makes sense beyond it."""

_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}


def fitting(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the types of the fields of `kind`; FungiError that names the option, its type and the value.

    A whole number will do for a number, and a list for a tuple; types other than the plain ones are left alone.
    """
    hints = typing.get_type_hints(kind)
    found = {}
    for name, value in values.items():
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            raise FungiError(f"option {name!r} has to be between {-LARGEST} and {LARGEST}, not {value}.")
        try:
            found[name] = _fit(value, hints[name])
        except TypeError:
            raise FungiError(f"option {name!r} takes {_in_words(hints[name])}, not {value!r}.") from None
    return found


def from_text(kind: type, name: str, text: str) -> Any:
    """A text as the value of a field of `kind`: words for a tuple, a number where one is wanted, else the text."""
    hint = typing.get_type_hints(kind)[name]
    value: Any = text.split() if typing.get_origin(hint) is tuple else text
    if hint in (int, float):
        with suppress(ValueError):  # refused below, with the name of the field
            value = hint(text)
    return fitting(kind, {name: value})[name]


def _fit(value: Any, hint: Any) -> Any:
    """The value as the type; TypeError where it is none."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        fits = value in inner
    elif origin is tuple:
        return _fit_all(value, inner)
    elif origin is Mapping:
        fits = isinstance(value, Mapping) and all(isinstance(text, inner[1]) for text in value.values())
    elif hint is Path:
        fits = isinstance(value, str | Path)
    elif hint is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif hint is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    else:
        fits = hint not in _NAMES or isinstance(value, hint)
    if not fits:
        raise TypeError
    return hint(value) if hint in (float, Path) else value


def _fit_all(value: Any, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise TypeError
    hints = [inner[0]] * len(value) if inner[-1] is ... else list(inner)
    if len(hints) != len(value):
        raise TypeError
    return tuple(_fit(one, hint) for one, hint in zip(value, hints, strict=True))


def _in_words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple:
        count = "a list" if inner[-1] is ... else f"{len(inner)} values"
        return f"{count} of names" if inner[0] is str else f"{count} of {_in_words(inner[0])} each, as in (1, 2)"
    if origin is Mapping:
        return "a table of texts"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(one) for one in inner)
    return _NAMES.get(hint, str(hint))


def parse_options(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """`("simclr.temperature=0.1", ...)` -> `{"simclr": {"temperature": 0.1}}`; values as Python literals or text."""
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        objective, dot, option = key.partition(".")
        if not equals or not dot:
            raise FungiError(f"--set {text!r} is not OBJECTIVE.OPTION=VALUE, as in simclr.temperature=0.1.")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        options.setdefault(objective, {})[option] = parsed
    return options
