"""A vision transformer as the backbone of dense heads: maps of four strides, and a feature pyramid (spec udi 7.6)."""

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
    """The patch tokens behind chosen blocks, as maps. The class tokens are left out, as the published detector does.

    blocks: ascending numbers of blocks, counted from 0. drop_path: stochastic depth of the last block; it grows from 0.
    Raises FungiError for a block that the model does not have.
    """

    def __init__(self, model: Any, blocks: Sequence[int], drop_path: float = 0.0) -> None:
        super().__init__()
        if max(blocks) >= len(model.blocks):
            raise FungiError(
                f"--blocks {' '.join(map(str, blocks))}: the network has blocks 0 to {len(model.blocks) - 1}."
            )
        self.model, self.taken = model.requires_grad_(False), tuple(blocks)
        set_drop_path(model, drop_path)
        # What is not used keeps no gradient: processes that train together would wait for it.
        for used in (model.patch_embed, model.pos_embed, model.norm_pre, model.blocks[: self.taken[-1] + 1]):
            used.requires_grad_(True)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n d y x"]]:
        """Return one map of the patch grid for each chosen block."""
        model = self.model
        patches = model.patch_embed.proj(images)  # [n d y x]
        grid = patches.shape[-2:]
        positions = resized_positions(model, *grid)[:, model.num_prefix_tokens :]
        tokens = model.norm_pre(patches.flatten(2).transpose(1, 2) + positions)  # [n d y x] -> [n y*x d]
        maps = []
        for place, block in enumerate(model.blocks[: self.taken[-1] + 1]):
            tokens = block(tokens)
            if place in self.taken:
                maps.append(tokens.transpose(1, 2).unflatten(2, grid))  # [n y*x d] -> [n d y x]
        return maps


class TransformerPyramid(nn.Module):
    """Maps of 1/4, 1/2, 1 and 2 patches a cell from four blocks, combined top-down by a feature pyramid.

    patch_size: of the transformer, in pixels. extra: add a fifth, coarser map, for the anchors of a detector.
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
        last = LastLevelMaxPool() if extra else None
        self.pyramid = FeaturePyramidNetwork([width] * 4, settings.channels, extra_blocks=last)
        self.out_channels = settings.channels

    @property
    def strides(self) -> list[int]:
        """Pixels per cell of each map, the extra one included; a patch of fewer than 4 pixels gives equal ones."""
        return [max(1, self.patch_size * share // 4) for share in (1, 2, 4, 8, 16)]

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> "OrderedDict[str, Float[Tensor, 'n c y x']]":
        """Return the maps by name, `0` to `3` and, for a detector, `pool`; from the finest to the coarsest."""
        maps = [rescale(level) for rescale, level in zip(self.rescale, self.maps(images), strict=True)]
        return self.pyramid(OrderedDict((str(place), level) for place, level in enumerate(maps)))


def _doubled(width: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer: position embeddings and normalisation layers have no weight decay."""
    kinds = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                groups[isinstance(module, kinds) or name == "pos_embed"].append(parameter)
    return [
        {"params": parameters, "lr_scale": 1.0, "weight_decay": 0.0 if without else weight_decay}
        for without, parameters in groups.items()
    ]
