"""The enumeration of vision views: which generator makes which kind."""

import dataclasses
import importlib
from typing import Any

from fungi.errors import FungiError, unknown_name
from fungi.views.base import ViewGenerator
from fungi.views.image import ImageInput

KINDS = {
    "plain": ("fungi.views.plain", "PlainView"),
    "crops": ("fungi.views.crops", "Crops"),
    "patches": ("fungi.views.patches", "PatchGrid"),
}


def make_views(image_input: ImageInput, kind: str, **options: Any) -> ViewGenerator:
    """The generator of a kind, with its options; FungiError for an unknown kind or option."""
    if kind not in KINDS:
        raise unknown_name("kind of views", kind, KINDS)
    module, name = KINDS[kind]
    generator = getattr(importlib.import_module(module), name)
    known = {field.name for field in dataclasses.fields(generator)} - {"input"}
    for option in options:
        if option not in known:
            raise FungiError(
                f"views {kind!r} have no option {option!r}. They have: {', '.join(sorted(known)) or 'none'}."
            )
    return generator(input=image_input, **options)
