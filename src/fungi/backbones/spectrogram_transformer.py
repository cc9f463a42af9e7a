"""The audio spectrogram transformer (SSAST, patch variant), with the parameter names of the published checkpoint.

A spectrogram `[frames 128]` is treated as an image with one channel: rows are frequencies, columns are times. The first
two tokens are a class token and a distillation token. The next tokens belong to overlapping 16 x 16 patches at stride
10, row by row (spec audio 1). The learned positions belong to the 8 x 64 grid of pre-training (frequency, time). They
are adapted to the grid of the input.
"""

from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Pooling = Literal["cls_dist", "mean_patches"]
PATCH, STRIDE = 16, 10  # side of a patch, and distance between neighbouring patches
TRAINED_GRID = (8, 64)  # frequency, time
LEADING_TOKENS = 2  # class token and distillation token


class SpectrogramTransformer(nn.Module):
    """Model that maps spectrograms to embeddings.

    width: number of entries of a token. depth, heads: numbers of blocks and of attention heads.
    pooling: `cls_dist` for the mean of the class token and the distillation token after the final norm, `mean_patches`
        for the mean of the patch tokens.
    stride: distance between neighbouring patches.
    """

    def __init__(
        self, *, width: int, depth: int, heads: int, pooling: Pooling = "cls_dist", stride: int = STRIDE
    ) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.pooling = pooling
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, PATCH, stride)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = LEADING_TOKENS + TRAINED_GRID[0] * TRAINED_GRID[1]
        self.pos_embed = nn.Parameter(torch.randn(1, positions, width) * 0.02)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        blocks = [Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(width)

    def forward(self, spectrograms: Float[Tensor, "n frames mels"]) -> Float[Tensor, "n d"]:
        """Return the embeddings of spectrograms."""
        tokens = self.norm(self.blocks(self.tokens(spectrograms)))
        pooled = tokens[:, :LEADING_TOKENS] if self.pooling == "cls_dist" else tokens[:, LEADING_TOKENS:]
        return pooled.mean(dim=1)

    def tokens(self, spectrograms: Float[Tensor, "n frames mels"]) -> Float[Tensor, "n t d"]:
        """Return the input of the first block."""
        images = spectrograms.transpose(1, 2).unsqueeze(1)  # [n frames mels] -> [n 1 mels frames]
        patches = self.patch_embed["proj"](images)  # [n d rows columns]
        leading = [token.expand(len(images), -1, -1) for token in (self.cls_token, self.dist_token)]
        tokens = torch.cat([*leading, patches.flatten(2).transpose(1, 2)], dim=1)
        return tokens + adapted_positions(self.pos_embed, (patches.shape[2], patches.shape[3]))


def adapted_positions(positions: Float[Tensor, "1 old d"], grid: tuple[int, int]) -> Float[Tensor, "1 new d"]:
    """Return learned positions for another grid (frequency, time). The positions of the first two tokens do not change.

    Along an axis on which the new grid is shorter, the centre of the trained grid is used. If the new grid is longer
    along an axis, the positions are resized bilinearly.
    """
    leading, patches = positions[:, :LEADING_TOKENS], positions[:, LEADING_TOKENS:]
    patches = patches.unflatten(1, TRAINED_GRID).permute(0, 3, 1, 2)  # [1 rows*columns d] -> [1 d rows columns]
    for axis, (length, trained_length) in enumerate(zip(grid, TRAINED_GRID, strict=True)):
        if length < trained_length:
            first = trained_length // 2 - length // 2
            patches = patches.narrow(axis + 2, first, length)  # axes of `patches`: [1 d rows columns]
    if tuple(patches.shape[2:]) != grid:
        patches = torch.nn.functional.interpolate(patches.float(), grid, mode="bilinear", align_corners=False)
    return torch.cat([leading, patches.to(leading.dtype).flatten(2).transpose(1, 2)], dim=1)
