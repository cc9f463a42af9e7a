"""Choosing a view generator by its kind, the same way for every modality."""

import dataclasses
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from fungi.errors import FungiError, did_you_mean, unknown_name
from fungi.values import converted
from fungi.views.base import ViewGenerator

Kinds = Mapping[str, tuple[str, str]]
"""Kind of views -> module and class of the generator; modules are imported when they are asked for."""


class NoViewsError(FungiError):
    """A modality has no views of the kind that is asked for."""


class UnknownOptionError(FungiError):
    """Views have no option of the name that is asked for; `known` are those that they have."""

    def __init__(self, kind: str, option: str, known: Iterable[str]) -> None:
        near, listed = did_you_mean(option, known), ", ".join(sorted(known)) or "none"
        super().__init__(f"views {kind!r} have no option {option!r}.{near} They have: {listed}.")
        self.option, self.known = option, known


def options_of(kinds: Kinds, kind: str) -> dict[str, dataclasses.Field[Any]]:
    """The options that a user may set of a kind of views, by name."""
    module, name = kinds[kind]
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    return {field.name: field for field in fields if field.name not in ("input", "stream", "skipped")}


def choose_views(kinds: Kinds, given: Any, kind: str, **options: Any) -> ViewGenerator:
    """The generator of a kind for an input description; NoViewsError, and FungiError for an unknown option."""
    if kind not in kinds:
        raise NoViewsError(str(unknown_name(f"kind of {given.modality} views", kind, kinds)))
    known = options_of(kinds, kind)
    for option in options:
        if option not in known:
            raise UnknownOptionError(kind, option, known)
    module, name = kinds[kind]
    generator = getattr(importlib.import_module(module), name)
    return generator(input=given, **converted(generator, options))
