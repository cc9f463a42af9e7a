"""What can be chosen: architectures (spec udi 1.1), and where the reference differs from what its method says (8.2).

Needs no torch, so that `--help` is instant.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from fungi.backbones.families.udi import build
from fungi.errors import FungiError, unknown_name

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

Coordinates = Literal["corner", "center"]
"""Where tokens of a crop lie: the outer ones on its edge (the reference), or each in the middle of its cell."""
TargetMix = Literal["logits", "probs"]
"""What is averaged in the target of cls+: logits (the reference), or distributions (figure of the paper)."""
Optimizer = Literal["adamw", "sgd", "lars"]


@dataclass(frozen=True, kw_only=True)
class Deviations:
    """The switches; `clean` has none of them, `published` all.

    row_start_in_columns: the horizontal extent of two crops is measured from the *row* start of the new one, so that
        about one pair in 200 does not overlap enough (8.2-1).
    rounded_overlap: half of the smaller side is rounded, and taken of the reference's side less one pixel (7.6). Clean:
        half of the smaller side, rounded up.
    signed_reference: local crops are drawn towards the smallest start and the largest end of boxes that keep their
        flip, which is the union, the intersection or one of the two crops (8.2-2). Clean: the union of both.
    process_means: the patch loss is averaged in each process by its own count of valid samples, and centres are
        averaged over processes without weights (8.2-9). Clean: sums over the whole batch, whatever it is split into.
    """

    row_start_in_columns: bool = False
    rounded_overlap: bool = False
    signed_reference: bool = False
    process_means: bool = False


DEVIATIONS = {
    "clean": Deviations(),
    "published": Deviations(row_start_in_columns=True, rounded_overlap=True, signed_reference=True, process_means=True),
}


@dataclass(frozen=True)
class Architecture:
    """Width d, number of blocks, heads of attention, and the width of the MLP in units of d."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0

    def build(self, *, image_size: int, patch_size: int, class_tokens: int) -> "VisionTransformer":
        """Return the transformer; `cls+`, the second class token, is a register of timm."""
        model = build(self.width, self.depth, self.heads, self.mlp_ratio, image_size, patch_size, class_tokens)
        return cast("VisionTransformer", model)


ARCHITECTURES = {
    "vit_tiny": Architecture(192, 12, 3),
    "vit_small": Architecture(384, 12, 6),
    "vit_base": Architecture(768, 12, 12),
    "vit_micro": Architecture(64, 3, 4, 2.0),
}
"""`vit_micro` is for images of 32 pixels and one processor (spec udi 9.2)."""


def choose_architecture(name: str) -> Architecture:
    """Return the architecture with a name. Raises FungiError for an unknown name."""
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def check_sizes(patch_size: int, **sizes: int) -> None:
    """Raise FungiError if the size of a crop is not a multiple of the patch size."""
    for name, size in sizes.items():
        if size < patch_size or size % patch_size:
            flag = "--" + name.replace("_", "-")
            raise FungiError(f"{flag} {size} is not a multiple of --patch-size {patch_size}.")
