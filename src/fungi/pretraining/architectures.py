"""The vision transformers that can be pretrained, as timm's own `VisionTransformer` (spec udi 1.1)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fungi.backbones.families.udi import build
from fungi.errors import FungiError, unknown_name

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class Architecture:
    """Width d, number of blocks, heads of attention, and the width of the MLP in units of d."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0

    def build(self, *, image_size: int, patch_size: int, class_tokens: int) -> "VisionTransformer":
        """The transformer; class tokens beyond the first are timm's registers, `cls+` being the only one there is."""
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
    """The architecture of that name; FungiError for an unknown one."""
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def check_sizes(patch_size: int, **sizes: int) -> None:
    """FungiError for a crop that patches do not tile."""
    for name, size in sizes.items():
        if size < patch_size or size % patch_size:
            flag = "--" + name.replace("_", "-")
            raise FungiError(f"{flag} {size} is no multiple of --patch-size {patch_size}.")
