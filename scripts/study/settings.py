"""The settings of views that the study compares."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

SEEDS = (42, 43, 44)
PIXELS = ("patch_side", "view_size", "local_size")
"""Names of options for sides. Flags give sides in pixels; a `Setting` gives them as shares of the input size."""


@dataclass(frozen=True)
class Setting:
    """Options for the views of an objective, under a name.

    options: options of the objective's views. Sides are shares of the input size; `as_flags` converts them to pixels
    and rounds them up to a multiple of the side of the backbone's patches.
    windows: number of windows of tokens along a side of the image. If it is not 0, the views are these windows
    (`study.token_windows`), not patches of the image.
    """

    name: str
    objective: str
    options: Mapping[str, float]
    windows: int = 0

    def as_flags(self, size: int, patch: int) -> tuple[str, ...]:
        """Return flags such as `simclr.view_size=112`. size, patch: sides of input and patches in pixels."""
        flags = []
        for option, value in self.options.items():
            side = min(size, ceil(round(value * size / patch, 6)) * patch) if option in PIXELS else value
            flags.append(f"{self.objective}.{option}={side:g}")
        return tuple(flags)


def patches(per_side: int, side: float, encoded: float = 0.0) -> dict[str, float]:
    """Return the options of a grid of SimCLR views.

    per_side: number of views along a side of the image. side: the side of a view. encoded: the side to which a view is
    resized before it is encoded; 0 is the input size. Both sides are shares of the input size.
    """
    options: dict[str, float] = {"per_side": per_side, "patch_side": side}
    return options | ({"view_size": encoded} if encoded else {})


LOCAL = 96 / 224
"""Side of DINO's local crops, as a share of the input size."""
KL = Setting("KL", "kl", {})
IMAGE_SETTINGS = (
    KL,
    Setting("25 windows of tokens, last quarter of the network", "simclr", {}, windows=5),
    Setting("9 patches of 1/2, own size", "simclr", patches(3, 1 / 2, 1 / 2)),
    Setting("9 patches of 5/8, own size", "simclr", patches(3, 5 / 8, 5 / 8)),
    Setting("9 patches of 3/4, own size", "simclr", patches(3, 3 / 4, 3 / 4)),
    Setting("2 + 2 crops, local ones own size", "dino", {"local_crops": 2, "local_size": LOCAL}),
    Setting("2 + 4 crops, local ones own size", "dino", {"local_crops": 4, "local_size": LOCAL}),
    Setting("2 + 10 crops, local ones own size", "dino", {"local_size": LOCAL}),
    Setting("16 patches of 5/8, own size", "simclr", patches(4, 5 / 8, 5 / 8)),
    Setting("25 patches of 1/2, own size", "simclr", patches(5, 1 / 2, 1 / 2)),
    Setting("49 patches of 1/2, own size", "simclr", patches(7, 1 / 2, 1 / 2)),
    Setting("2 + 10 crops, full size", "dino", {}),
    Setting("9 patches of 5/8, full size", "simclr", patches(3, 5 / 8)),
    Setting("49 patches of 1/2, full size", "simclr", patches(7, 1 / 2)),
)
"""Settings from cheap to expensive, so that a study that is stopped early has measured as many as possible.

"own size" means that views are encoded at their size in the image. "full size" means that they are enlarged to the
input size first. A fraction is the side of a view as a share of the input size. "last quarter of the network" means
that the first three quarters of the blocks run once per image, and the last quarter runs for each window.
"""


def _numbers_of_views(*numbers: int) -> tuple[Setting, ...]:
    """Return a setting of KL, and a setting of SimCLR for each number of views. The last number is published."""
    named = [(f"{number} views", number) for number in numbers[:-1]]
    named.append((f"{numbers[-1]} views, published", numbers[-1]))
    return KL, *(Setting(name, "simclr", {"n_views": number}) for name, number in named)


SETTINGS = {
    "vision": IMAGE_SETTINGS,
    "text": _numbers_of_views(2, 4, 6, 12),
    "audio": _numbers_of_views(2, 4, 8, 16),
}
"""The settings of each modality. Texts and sounds keep their own length, so only the number of views varies."""
COMBINED = {
    "published": ("KL", "2 + 10 crops, full size", "49 patches of 1/2, full size"),
    "native": ("KL", "2 + 10 crops, local ones own size", "49 patches of 1/2, own size"),
    "25 of 1/2": ("KL", "2 + 10 crops, local ones own size", "25 patches of 1/2, own size"),
    "16 of 5/8": ("KL", "2 + 10 crops, local ones own size", "16 patches of 5/8, own size"),
    "9 of 3/4": ("KL", "2 + 10 crops, local ones own size", "9 patches of 3/4, own size"),
    "9 of 5/8": ("KL", "2 + 10 crops, local ones own size", "9 patches of 5/8, own size"),
    "9 of 5/8, 2 + 4 crops": ("KL", "2 + 4 crops, local ones own size", "9 patches of 5/8, own size"),
    "windows of tokens, 2 + 4 crops": (
        "KL",
        "2 + 4 crops, local ones own size",
        "25 windows of tokens, last quarter of the network",
    ),
    "9 of 1/2, 2 + 4 crops": ("KL", "2 + 4 crops, local ones own size", "9 patches of 1/2, own size"),
    **{
        f"KL and {setting.name}": ("KL", setting.name)
        for modality in ("text", "audio")
        for setting in SETTINGS[modality]
        if setting is not KL
    },
}
"""Names of combinations, and the settings (KL, DINO, SimCLR) whose gradients are combined with the embeddings."""


def is_published(name: str) -> bool:
    """Return whether the views have the published size and number."""
    return "full size" in name or "published" in name
