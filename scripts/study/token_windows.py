"""SimCLR on windows of tokens: only the last quarter of the network is computed for each view.

The image goes through the first three quarters of the blocks once. Each view is a square window of its tokens, with
half the side of the image and the class token before it. The last quarter of the blocks encodes the view. 25 windows
and the embedding cost about 1 + 25 / 4 / 4 = 2.6 forwards. This is an experiment of the study of
views (docs/views.md): `fungi extract-gradients` does not have it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fungi.backbones.loading import load_backbone
from fungi.data.base import Samples, open_split
from fungi.extraction.gradient_settings import parse_options
from fungi.gradients.projection import draw_projection
from fungi.objectives.binding import BoundObjective, bind
from fungi.views.patches import PatchGrid

BATCH = 64


@dataclass(frozen=True)
class TokenWindows:
    """A vision transformer of timm, divided before the last quarter of its blocks.

    per_side: number of windows along a side of the image. side: side of a window in tokens; 0 is half of the image.
    """

    model: Any
    per_side: int
    side: int = 0

    @property
    def tail(self) -> int:
        """Number of blocks that are computed for each window."""
        return max(1, len(self.model.blocks) // 4)

    def tokens(self, images: Float[Tensor, "b c s s"]) -> Float[Tensor, "b n d"]:
        """Return the tokens of complete images before the last quarter of the blocks."""
        hidden = self.model.norm_pre(self.model._pos_embed(self.model.patch_embed(images)))
        for block in self.model.blocks[: -self.tail]:
            hidden = block(hidden)
        return hidden

    @property
    def token_indices(self) -> Int64[Tensor, "v m"]:
        """Indices of the tokens of each window: the class token, then the tokens of a square."""
        height, width = self.model.patch_embed.grid_size
        side, prefix = self.side or height // 2, self.model.num_prefix_tokens
        grid = prefix + torch.arange(height * width).reshape(height, width)
        starts = torch.linspace(0, height - side, self.per_side).round().int().tolist()
        windows = [grid[y : y + side, x : x + side].flatten() for y in starts for x in starts]
        return torch.stack([torch.cat([torch.arange(prefix), window]) for window in windows])

    def embeddings(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b v d"]:
        """Return the embedding of each window."""
        indices = self.token_indices
        hidden = tokens[:, indices].flatten(0, 1)  # [b n d] -> [b v m d] -> [b*v m d]
        for block in self.model.blocks[-self.tail :]:
            hidden = block(hidden)
        pooled = self.model.forward_head(self.model.norm(hidden), pre_logits=True)
        return pooled.unflatten(0, (len(tokens), len(indices)))

    @property
    def forwards(self) -> float:
        """Cost of all windows of an image in forwards, from the numbers of tokens and blocks.

        The first blocks do not count, because the embedding of the image needs them in any case.
        """
        all_tokens = self.model.patch_embed.num_patches + self.model.num_prefix_tokens
        return self.tail / len(self.model.blocks) * self.token_indices.numel() / all_tokens


def extract(
    name: str,
    loading_options: Mapping[str, Any],
    dataset: str,
    per_side: int,
    seed: int,
    setting_folder: Path,
    options: Sequence[str],
) -> float:
    """Write the projected gradients of both splits to `train.npy` and `test.npy`. Return the forwards per image.

    name: name of the backbone. per_side: number of windows along a side of the image.
    setting_folder: folder to write to. options: options of the objective.
    """
    backbone = load_backbone(name, **loading_options)
    spec, network = backbone.spec, TokenWindows(backbone.model, per_side)
    layer = backbone.model.get_submodule(spec.layer)
    arguments = {"embedding_dim": spec.embedding_dim, "input_spec": backbone.input, "seed": seed}
    bound = bind("simclr", **arguments, options=parse_options(tuple(options)).get("simclr"))
    splits = {split: open_split(dataset, split, Path("data")) for split in ("train", "test")}
    image_views = PatchGrid(input=backbone.input, grid=1)  # a grid of 1 x 1 patches: the complete image

    def embed(samples: Samples) -> Tensor:
        return torch.cat([network.embeddings(tokens) for tokens in _tokens(samples, image_views, network)])

    bound = bound.with_support(bound.objective.support(splits["train"], embed, bound.heads, seed))
    matrix = draw_projection(spec.projection_dim, layer.weight.numel() + layer.bias.numel(), seed=seed).dense()
    setting_folder.mkdir(parents=True, exist_ok=True)
    for split, samples in splits.items():
        gradients = [
            _gradient(network, layer, bound, tokens_of_image) @ matrix.T / len(matrix) ** 0.5
            for tokens in _tokens(samples, image_views, network)
            for tokens_of_image in tokens.split(1)
        ]
        np.save(setting_folder / f"{split}.npy", torch.stack(gradients).numpy())
    return network.forwards


def _tokens(samples: Samples, image_views: PatchGrid, network: TokenWindows) -> Iterator[Float[Tensor, "b n d"]]:
    """Yield the tokens of batches of samples before the last quarter of the blocks."""
    for start in range(0, len(samples), BATCH):
        rows = range(start, min(start + BATCH, len(samples)))
        images = image_views.render(torch.stack([image_views.prepare(samples.load(row)) for row in rows]))
        with torch.no_grad():
            tokens = network.tokens(images)
        yield tokens  # after the `with` block, which would otherwise disable gradients in the caller, too


def _gradient(
    network: TokenWindows, layer: nn.Module, bound: BoundObjective, tokens: Float[Tensor, "1 n d"]
) -> Float[Tensor, " g"]:
    """Return the gradient of weight and bias of the layer, flattened."""
    parameters: Any = [layer.weight.requires_grad_(), layer.bias.requires_grad_()]
    latents = bound.objective.latents(network.embeddings(tokens), bound.heads["head"])
    loss = bound.objective.latent_loss(latents, bound.support).sum()
    weight, bias = torch.autograd.grad(loss, parameters)
    return torch.cat([weight, bias.unsqueeze(1)], dim=1).flatten()
