"""How somebody's model wants its images."""

from math import floor
from typing import Any

from torch import nn

from fungi.views.image import ImageInput


def image_input_of(model: nn.Module, input_dim: int) -> ImageInput:
    """The model's own evaluation transform where timm knows it (statistics, crop, interpolation); else ImageNet's."""
    config: dict[str, Any] | None = getattr(model, "pretrained_cfg", None)
    if not config or "mean" not in config:
        return ImageInput.square(input_dim)
    from timm.data import resolve_data_config

    resolved = resolve_data_config({}, pretrained_cfg=config)
    return ImageInput(
        size=input_dim,
        resize=floor(input_dim / resolved["crop_pct"]),
        interpolation="bilinear" if resolved["interpolation"] == "bilinear" else "bicubic",
        statistics=(tuple(resolved["mean"]), tuple(resolved["std"])),
    )
