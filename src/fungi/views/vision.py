"""The enumeration of vision views: which generator makes which kind."""

from typing import Any

from fungi.views.base import ViewGenerator
from fungi.views.image import ImageInput
from fungi.views.kinds import choose_views
from fungi.views.kinds import options_of as options_of

KINDS = {
    "plain": ("fungi.views.plain", "PlainView"),
    "crops": ("fungi.views.crops", "Crops"),
    "patches": ("fungi.views.patches", "PatchGrid"),
    "random-crops": ("fungi.views.random_views", "RandomCrops"),
    "masked-crops": ("fungi.views.masked_crops", "MaskedCrops"),
    "default": ("fungi.views.random_views", "ContrastiveViews"),
}


def make_views(image_input: ImageInput, kind: str, **options: Any) -> ViewGenerator:
    """The generator of a kind, with its options; FungiError for an unknown kind or option."""
    return choose_views(KINDS, image_input, kind, **options)
