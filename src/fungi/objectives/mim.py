"""Masked image modelling: only the patch loss of iBOT (spec vision 4.5)."""

from dataclasses import dataclass

from fungi.objectives.base import register
from fungi.objectives.ibot import IBOT


@register
@dataclass(frozen=True, kw_only=True)
class MIM(IBOT):
    """iBOT without the loss between class tokens."""

    name = "mim"

    class_loss: bool = False
