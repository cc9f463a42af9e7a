"""Masked image modelling: only the patch loss of iBOT (spec vision 4.5)."""

from dataclasses import dataclass

from fungi.errors import FungiError
from fungi.objectives.base import register
from fungi.objectives.ibot import IBOT
from fungi.views.base import ViewGenerator
from fungi.views.masked_crops import MaskedCrops


@register
@dataclass(frozen=True, kw_only=True)
class MIM(IBOT):
    """iBOT without the loss between class tokens."""

    name = "mim"

    class_loss: bool = False

    def check_views(self, views: ViewGenerator) -> None:
        """Raise FungiError if no patch is masked and the loss has no other term."""
        if isinstance(views, MaskedCrops) and not self.class_loss and not (views.mask_ratio or views.random_ratio):
            raise FungiError("mask_ratio has to be larger than 0: only masked patches are in the loss.")
