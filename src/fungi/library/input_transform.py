"""How somebody's model wants its images."""

from typing import Any

from torch import nn

from fungi.backbones.timm_models import timm_input
from fungi.views.image import ImageInput


def image_input_of(model: nn.Module, input_dim: int) -> ImageInput:
    """The model's own evaluation transform where timm knows it (statistics, crop, interpolation); else ImageNet's."""
    config: dict[str, Any] | None = getattr(model, "pretrained_cfg", None)
    if not config or "mean" not in config:
        return ImageInput.square(input_dim)
    return timm_input(config, input_dim)
