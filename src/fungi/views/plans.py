"""Plans for the size and number of image views: as published, at the size of the crops, or at the lowest cost.

The published method enlarges every crop to the backbone's input size. An enlarged crop carries no more information than
before, but costs as much as an image: 62 forwards per image. `native` keeps the crops and encodes them at their own
size; `budget` takes fewer of them. docs/views.md reports the measurements for both.
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
"""Side of the small crops of DINO and of SimCLR in their own training, as a share of the input size."""
PATCH, BUDGET_PATCH = 1 / 2, 5 / 8
"""Side of SimCLR's patches as a share of the input size: of the published patches, and of those of `budget`."""
Side = Callable[[float], int]
"""Share of the input size -> side in pixels: the next multiple of the backbone's patch size."""

OPTIONS: dict[PlanName, dict[str, Callable[[Side], dict[str, Any]]]] = {
    "native": {
        "patches": lambda side: {"view_size": side(PATCH)},
        "crops": lambda side: {"local_size": side(LOCAL_CROP)},
        "masked-crops": lambda side: {"local_size": side(LOCAL_CROP)},
        "default": lambda side: {"view_size": side(CONTRASTIVE_CROP)},
    },
    "budget": {
        "patches": lambda side: {
            "patch_side": side(BUDGET_PATCH),
            "view_size": side(BUDGET_PATCH),
            "per_side": 3,
        },
        "crops": lambda side: {"local_size": side(LOCAL_CROP)},
        "masked-crops": lambda side: {"local_size": side(LOCAL_CROP)},
        "default": lambda side: {"view_size": side(CONTRASTIVE_CROP)},
    },
}
"""Plan -> kind of views -> options of the generator. Kinds that are not listed are encoded at the full input size."""


@dataclass(frozen=True)
class ViewPlan:
    """A plan for a backbone. patch_size: side of its patches in pixels; the side of a view is a multiple of it."""

    name: PlanName = PUBLISHED
    patch_size: int = 1

    def options(self, kind: str, input_spec: "InputSpec") -> dict[str, Any]:
        """Return the options for a kind of views; none for texts and sounds, which keep their own length."""
        make_options = OPTIONS.get(self.name, {}).get(kind)
        if make_options is None or not isinstance(input_spec, ImageInput):
            return {}
        size = input_spec.size
        return make_options(lambda share: min(size, ceil(round(share * size / self.patch_size, 6)) * self.patch_size))


AS_PUBLISHED = ViewPlan()
