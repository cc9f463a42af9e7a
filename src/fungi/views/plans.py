"""At what size views of images are encoded, and how many there are: as published, at their own size, or at least cost.

The published method enlarges every crop to the backbone's input size. It carries no more information there, and costs
as much as the whole image: 62 forwards for an image. `native` keeps the crops and encodes them at their own size;
`budget` takes fewer of them. docs/views.md has the study behind both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

from fungi.views.image import ImageInput

if TYPE_CHECKING:
    from fungi.views.base import InputSpec

PlanName = Literal["published", "native", "budget"]
PUBLISHED: PlanName = "published"
PLANS: tuple[PlanName, ...] = (PUBLISHED, "native", "budget")
LOCAL_CROP, CONTRASTIVE_CROP = 96 / 224, 96 / 224
"""Sides of small crops as DINO and SimCLR train with them, as a share of the input size."""
HALF, FIVE_EIGHTHS = 1 / 2, 5 / 8
"""Sides of SimCLR's patches as a share of the input size: as published, and of the fewer patches of `budget`."""
Side = Callable[[float], int]
"""Share of the input size -> side in pixels: the next multiple of the backbone's patch size."""

OPTIONS: dict[PlanName, dict[str, Callable[[Side], dict[str, Any]]]] = {
    "native": {
        "patches": lambda side: {"view_size": side(HALF)},
        "crops": lambda side: {"local_size": side(LOCAL_CROP)},
        "masked-crops": lambda side: {"local_size": side(LOCAL_CROP)},
        "default": lambda side: {"view_size": side(CONTRASTIVE_CROP)},
    },
    "budget": {
        "patches": lambda side: {
            "patch_side": side(FIVE_EIGHTHS),
            "view_size": side(FIVE_EIGHTHS),
            "per_side": 3,
        },
        "crops": lambda side: {"local_size": side(LOCAL_CROP)},
        "masked-crops": lambda side: {"local_size": side(LOCAL_CROP)},
        "default": lambda side: {"view_size": side(CONTRASTIVE_CROP)},
    },
}
"""Plan -> kind of views -> options of the generator. Kinds that are not here have views of the full size alone."""


@dataclass(frozen=True)
class ViewPlan:
    """A plan for a backbone. patch_size: side of its patches in pixels, which views are multiples of; 1 for any."""

    name: PlanName = PUBLISHED
    patch_size: int = 1

    def options(self, kind: str, input_spec: "InputSpec") -> dict[str, Any]:
        """Options of the views of a kind; none for texts and sounds, which are encoded at their own length anyway."""
        of_kind = OPTIONS.get(self.name, {}).get(kind)
        if of_kind is None or not isinstance(input_spec, ImageInput):
            return {}
        size = input_spec.size
        return of_kind(lambda share: min(size, ceil(round(share * size / self.patch_size, 6)) * self.patch_size))


AS_PUBLISHED = ViewPlan()
