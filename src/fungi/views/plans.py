"""Plans for the size and number of image views: `published`, `native` and `budget`.

The published method enlarges every crop to the input size of the backbone. An enlarged crop does not contain more
information than before, but costs a complete forward. All features together take 62 forwards per image. `native` has
the same crops, but encodes them at their own size. `budget` also has fewer patches. docs/views.md reports measurements
of all plans.
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
"""Side of the small crops in the training of DINO and of SimCLR, as a share of the input size."""
PATCH, BUDGET_PATCH = 1 / 2, 5 / 8
"""Side of the published patches of SimCLR, and of the patches of `budget`, as a share of the input size."""
Side = Callable[[float], int]
"""Function: share of the input size -> side in pixels, rounded up to a multiple of the patch size of the backbone."""

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
    """A plan for a backbone. name: name of the plan.

    patch_size: side of the backbone's patches in pixels; the side of a view is a multiple of this number.
    """

    name: PlanName = PUBLISHED
    patch_size: int = 1

    def options(self, kind: str, input_spec: "InputSpec") -> dict[str, Any]:
        """Return the options for a kind of views; no options for texts and sounds, which have no input size."""
        options_of_plan = OPTIONS.get(self.name, {}).get(kind)
        if options_of_plan is None or not isinstance(input_spec, ImageInput):
            return {}
        size = input_spec.size

        def side(share: float) -> int:
            # Without rounding, a product that should be a whole number may be a little larger, and ceil would add 1.
            patches = ceil(round(share * size / self.patch_size, 6))
            return min(size, patches * self.patch_size)

        return options_of_plan(side)


AS_PUBLISHED = ViewPlan()
