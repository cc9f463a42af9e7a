"""The network of Semantic FPN (Kirillov et al. 2019): a pyramid, and a head that computes logits from its maps."""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fungi.backbones.loading import Backbone
from fungi.pretraining.dense.pyramid import TransformerPyramid
from fungi.pretraining.dense.settings import SegmentFpnSettings
from fungi.runtime.seeds import seeded

HEAD_CHANNELS, DROPOUT = 128, 0.1
"""Number of channels of the head, and share of its channels that are dropped in training."""


class SemanticFpn(nn.Module):
    """Pyramid and head. The inputs are normalised images `[n 3 h w]` whose sides are multiples of two patches."""

    def __init__(self, backbone: Backbone, classes: int, settings: SegmentFpnSettings) -> None:
        super().__init__()
        with seeded(settings.seed, "semantic head"):
            self.pyramid = TransformerPyramid(backbone, settings, extra=False)
            self.branches = nn.ModuleList([_branch(settings.channels, level) for level in range(4)])
            self.classify = nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(HEAD_CHANNELS, classes, 1))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c y x"]:
        """Return logits. A cell is a quarter of a patch wide."""
        maps: OrderedDict[str, Tensor] = self.pyramid(images)
        levels = [branch(level) for level, branch in zip(maps.values(), self.branches, strict=True)]
        finest = levels[0].shape[-2:]
        return self.classify(torch.stack([interpolate(level, finest, mode="bilinear") for level in levels]).sum(0))


def _branch(channels: int, level: int) -> nn.Sequential:
    """Return the layers for a level of the pyramid: convolutions and, except for level 0 (the finest), upsampling."""
    from torchvision.ops import Conv2dNormActivation

    layers: list[nn.Module] = []
    for index in range(max(1, level)):
        layers.append(Conv2dNormActivation(HEAD_CHANNELS if index else channels, HEAD_CHANNELS))
        if level:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
    return nn.Sequential(*layers)
