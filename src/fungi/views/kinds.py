"""Choosing a view generator by its kind, the same way for every modality."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from fungi.errors import FungiError, unknown_name
from fungi.options import fitting
from fungi.views.base import ViewGenerator

Kinds = Mapping[str, tuple[str, str]]
"""Kind of views -> module and class of the generator; modules are imported when they are asked for."""


class NoViewsError(FungiError):
    """A modality has no views of the kind that is asked for."""


def options_of(kinds: Kinds, kind: str) -> dict[str, dataclasses.Field[Any]]:
    """The options that a user may set of a kind of views, by name."""
    module, name = kinds[kind]
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    return {field.name: field for field in fields if field.name not in ("input", "stream", "skipped")}


def choose_views(kinds: Kinds, given: Any, kind: str, **options: Any) -> ViewGenerator:
    """The generator of a kind for an input description; NoViewsError, and FungiError for an unknown option."""
    if kind not in kinds:
        raise NoViewsError(str(unknown_name(f"kind of {given.modality} views", kind, kinds)))
    module, name = kinds[kind]
    generator = getattr(importlib.import_module(module), name)
    known = options_of(kinds, kind)
    for option in options:
        if option not in known:
            raise FungiError(
                f"views {kind!r} have no option {option!r}. They have: {', '.join(sorted(known)) or 'none'}."
            )
    return generator(input=given, **fitting(generator, options))
