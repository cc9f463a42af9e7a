"""The head of Semantic FPN (Kirillov et al. 2019): maps of a pyramid -> logits of classes at the finest stride."""

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fungi.backbones.loading import Backbone
from fungi.pretraining.dense.pyramid import TransformerPyramid
from fungi.runtime.seeds import seeded

HEAD_CHANNELS = 128


class SemanticFpn(nn.Module):
    """Pyramid and head; images `[n 3 h w]` are normalised, and their sides are multiples of two patches."""

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        blocks: Sequence[int],
        channels: int = 256,
        drop_path: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with seeded(seed, "semantic head"):
            self.pyramid = TransformerPyramid(backbone, blocks, channels=channels, drop_path=drop_path, extra=False)
            self.branches = nn.ModuleList([_branch(channels, max(1, level), doubled=level > 0) for level in range(4)])
            self.classify = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(HEAD_CHANNELS, classes, 1))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c y x"]:
        """Return logits at a quarter of a patch per cell."""
        maps: OrderedDict[str, Tensor] = self.pyramid(images)
        finest = maps["0"].shape[-2:]
        total: Tensor | int = 0
        for level, branch in zip(maps.values(), self.branches, strict=True):
            upsampled = branch(level)
            total = total + interpolate(upsampled, finest, mode="bilinear", align_corners=False)
        return self.classify(total)


def _branch(channels: int, convolutions: int, *, doubled: bool) -> nn.Sequential:
    """Return convolutions, each followed by a doubling of the map for all levels but the finest."""
    layers: list[nn.Module] = []
    for place in range(convolutions):
        layers += [
            nn.Conv2d(HEAD_CHANNELS if place else channels, HEAD_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(HEAD_CHANNELS),
            nn.ReLU(),
        ]
        if doubled:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
