"""Feature maps of a vision transformer for dense heads: maps with four strides and a feature pyramid (spec udi 7.6)."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.loading import Backbone
from fungi.errors import FungiError
from fungi.pretraining.dense.settings import DenseSettings
from fungi.pretraining.tokens import resized_positions, set_drop_path


class PatchMaps(nn.Module):
    """The patch tokens after some blocks, as maps. The network runs without class tokens, as in the published detector.

    blocks: indices of the blocks, ascending; an index can be repeated. drop_path: share of dropped branches in the last
    block (stochastic depth); the share grows linearly from 0 in the first block. Raises FungiError for a block that the
    model does not have.
    """

    def __init__(self, model: Any, blocks: Sequence[int], drop_path: float = 0.0) -> None:
        super().__init__()
        if max(blocks) >= len(model.blocks):
            raise FungiError(
                f"--blocks {' '.join(map(str, blocks))}: the network has only the blocks 0 to {len(model.blocks) - 1}."
            )
        self.model, self.blocks = model.requires_grad_(False), tuple(blocks)
        set_drop_path(model, drop_path)
        # Only used parameters are trained, because the processes would wait for the gradients of unused parameters.
        for part in (model.patch_embed, model.pos_embed, model.norm_pre, model.blocks[: self.blocks[-1] + 1]):
            part.requires_grad_(True)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n d y x"]]:
        """Return the map of patch tokens after each block in `blocks`."""
        model = self.model
        patches = model.patch_embed.proj(images)  # [n d y x]
        grid = patches.shape[-2:]
        positions = resized_positions(model, *grid)[:, model.num_prefix_tokens :]
        tokens = model.norm_pre(patches.flatten(2).transpose(1, 2) + positions)  # [n d y x] -> [n y*x d]
        maps: list[Tensor] = []
        for index, block in enumerate(model.blocks[: self.blocks[-1] + 1]):
            tokens = block(tokens)
            tokens_as_map = tokens.transpose(1, 2).unflatten(2, grid)  # [n y*x d] -> [n d y x]
            maps += [tokens_as_map] * self.blocks.count(index)  # several times for a repeated index
        return maps


class TransformerPyramid(nn.Module):
    """A feature pyramid over the maps of four blocks. The cells of the maps are 1/4, 1/2, 1 and 2 patches wide.

    extra: whether to add a fifth, coarser map, for the anchors of a detector.
    """

    def __init__(self, backbone: Backbone, settings: DenseSettings, *, extra: bool) -> None:
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        super().__init__()
        model: Any = backbone.model
        width = int(model.embed_dim)
        self.maps = PatchMaps(model, settings.blocks, settings.drop_path)
        self.patch_size = int(model.patch_embed.patch_size[0])
        self.rescale = nn.ModuleList(
            [
                nn.Sequential(_doubled(width), nn.BatchNorm2d(width), nn.GELU(), _doubled(width)),
                _doubled(width),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        extra_blocks = LastLevelMaxPool() if extra else None
        self.pyramid = FeaturePyramidNetwork([width] * 4, settings.channels, extra_blocks=extra_blocks)
        self.out_channels = settings.channels

    @property
    def strides(self) -> list[int]:
        """The width of a cell of each map (also of the extra map) in pixels. Each width is at least 1."""
        quarters_of_patch = (1, 2, 4, 8, 16)
        return [max(1, self.patch_size * quarters // 4) for quarters in quarters_of_patch]

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> "OrderedDict[str, Float[Tensor, 'n c y x']]":
        """Return the maps by name, from the finest to the coarsest: `0` to `3` and, for a detector, `pool`."""
        maps = [rescale(level) for rescale, level in zip(self.rescale, self.maps(images), strict=True)]
        return self.pyramid(OrderedDict((str(index), level) for index, level in enumerate(maps)))


def _doubled(width: int) -> nn.ConvTranspose2d:
    """Return a layer that doubles both sides of a map."""
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups for an optimiser. Position embeddings and normalisation layers have no weight decay."""
    normalisation_layers = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    without_decay: list[nn.Parameter] = []
    with_decay: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                has_no_decay = isinstance(module, normalisation_layers) or name == "pos_embed"
                (without_decay if has_no_decay else with_decay).append(parameter)
    return [
        {"params": without_decay, "lr_scale": 1.0, "weight_decay": 0.0},
        {"params": with_decay, "lr_scale": 1.0, "weight_decay": weight_decay},
    ]
