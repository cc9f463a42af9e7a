"""Architectures (spec udi 1.1), and deviations of the published code from the method (spec udi 8.2).

This module does not import torch, because `--help` has to be fast.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from fungi.backbones.families.udi import build
from fungi.errors import FungiError, unknown_name

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

Coordinates = Literal["corner", "center"]
"""Positions of the tokens of a crop. corner: the outer tokens are on the edge of the crop, as in the published code.
center: each token is in the centre of its cell."""
TargetMix = Literal["logits", "probs"]
"""The values whose average is the target of cls+: logits (the published code) or probabilities (the paper's figure)."""
Optimizer = Literal["adamw", "sgd", "lars"]


@dataclass(frozen=True, kw_only=True)
class Deviations:
    """Switches of the deviations. The profile `clean` has no deviation, `published` has all deviations.

    row_start_in_columns: the horizontal extent of two crops is measured from the *row* start of the second crop. The
        overlap of about one pair in 200 is then too small (8.2-1).
    rounded_overlap: the overlap is half of the smaller side, rounded, after one pixel is subtracted from the side of
        the reference crop (7.6). Clean: half of the smaller side, rounded up.
    signed_reference: local crops are shifted towards the smallest start and the largest end of both boxes. Flipped
        boxes swap start and end, so the target is the union, the intersection or one of the crops (8.2-2). Clean: the
        union.
    process_means: each process divides the patch loss by its own count of valid samples, and centres are averaged over
        processes without weights (8.2-9). Clean: sums over the full batch, which do not depend on the split of the
        batch over processes.
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
    """The sizes of a transformer: width d, blocks, attention heads, and width of the MLP in units of d."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0

    def build(self, *, image_size: int, patch_size: int, class_tokens: int) -> "VisionTransformer":
        """Return the transformer. The second class token, `cls+`, is a register token of timm."""
        model = build(self.width, self.depth, self.heads, self.mlp_ratio, image_size, patch_size, class_tokens)
        return cast("VisionTransformer", model)


ARCHITECTURES = {
    "vit_tiny": Architecture(192, 12, 3),
    "vit_small": Architecture(384, 12, 6),
    "vit_base": Architecture(768, 12, 12),
    "vit_micro": Architecture(64, 3, 4, 2.0),
}
"""`vit_micro` is for images of 32 pixels and training on a CPU (spec udi 9.2)."""


def choose_architecture(name: str) -> Architecture:
    """Return an architecture by its name. Raises FungiError for an unknown name."""
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def check_sizes(patch_size: int, **sizes: int) -> None:
    """Raise FungiError if the size of a crop is not a multiple of the patch size."""
    for name, size in sizes.items():
        if size < patch_size or size % patch_size:
            flag = "--" + name.replace("_", "-")
            raise FungiError(f"{flag} {size} is not a multiple of --patch-size {patch_size}.")
