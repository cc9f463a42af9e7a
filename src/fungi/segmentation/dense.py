"""Features of patches: tokens of a vision transformer, and each patch's own gradient of SimCLR's loss (spec dense 4).

All tokens of an image attract each other and repel the nearest patches of the training images. The loss's gradient at a
linear layer is a sum over tokens, `sum_t delta_t a_t^T`; each patch keeps its own term, projected. Terms are of rank
one, and no more than a few are ever formed: none at all with a khatri-rao projection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import normalize

from fungi.backbones.checkpoints import hash_weights
from fungi.backbones.encoders import Encoded, TokenEncoder, require_patch_tokens
from fungi.backbones.position_embedding import set_size
from fungi.errors import FungiError
from fungi.gradients.engine import GradientEngine, Loss
from fungi.gradients.projection import Projector
from fungi.gradients.targets import Target
from fungi.gradients.terms import EachPosition
from fungi.objectives.base import random_linear
from fungi.search.backends import Search
from fungi.segmentation.contrast import contrast
from fungi.store.banks import Patches
from fungi.views.scenes import SceneView

Feature = Literal["embeddings", "simclr", "embeddings+simclr"]
NEIGHBOURS = 2
_ALL_AT_ONCE = 1 << 20
SCRAMBLED_NEIGHBOURS = 5  # what the published code retrieves before it scrambles them (deviation H1)


@dataclass(frozen=True, kw_only=True)
class DenseLoss:
    """SimCLR's loss between the tokens of an image (spec dense 4.2), and the switches of the published code.

    denominator_temperature: divide within the log-sum-exp, too (off: deviation H2); neighbour_layout: `real`
    neighbours, or the published scramble of five (H1); normalise_tokens_before_head: treat tokens as their
    neighbours, which come with length one (H16).
    """

    latent_dim: int = 96
    temperature: float = 0.07
    kept: float = 0.5
    denominator_temperature: bool = True
    neighbour_layout: Literal["real", "published"] = "real"
    normalise_tokens_before_head: bool = False

    @property
    def retrieved(self) -> int:
        """Neighbours that have to be searched for each token."""
        return NEIGHBOURS if self.neighbour_layout == "real" else SCRAMBLED_NEIGHBOURS

    def candidates(self, neighbours: Float[Tensor, "n k d"]) -> Float[Tensor, "n 2 d"]:
        """Return the two neighbours that each token proposes as negatives."""
        if self.neighbour_layout == "published":
            # [K E] read as [E K] and transposed: each row takes every K-th entry of all neighbours in turn.
            neighbours = neighbours.reshape(len(neighbours), *reversed(neighbours.shape[1:])).transpose(1, 2)
        return neighbours[:, :NEIGHBOURS]

    def drawn(self, tokens: int, draws: Sequence[int]) -> Bool[Tensor, "b t 2"]:
        """Return which candidates of each image become negatives: a share, drawn per image (deviation H12)."""
        streams = [torch.Generator().manual_seed(draw) for draw in draws]
        uniform = torch.stack([torch.rand(tokens, NEIGHBOURS, generator=stream) for stream in streams])
        chosen = uniform < self.kept
        chosen[:, 0, 0] |= ~chosen.any(dim=(1, 2))  # an image of few tokens has at least one
        return chosen

    def __call__(
        self, tokens: Float[Tensor, "b t d"], negatives: Sequence[Float[Tensor, "_ d"]], head: nn.Module
    ) -> Float[Tensor, " b"]:
        """Return one loss per image, each with its own negatives, through which no gradient flows."""
        latents = head(normalize(tokens, dim=-1) if self.normalise_tokens_before_head else tokens)
        with torch.no_grad():
            against = [head(features) for features in negatives]
        options = (self.temperature, self.denominator_temperature)
        return torch.stack([contrast(*image, *options) for image in zip(latents, against, strict=True)])


@dataclass(frozen=True)
class Support:
    """The bank of embeddings in which neighbours are looked up, and how."""

    bank: Patches
    search: Search

    def nearest(self, tokens: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n k d"]:
        """Return the k nearest patches of each token: features of length one."""
        _, rows = self.search(normalize(tokens, dim=-1), k)
        return torch.from_numpy(self.bank.features_of(rows.cpu().numpy())).to(tokens)


class DenseExtractor:
    """Images of one size -> features of their patches, row by row over the image.

    model: a vision transformer of timm with a class token, at that size; target: the gradient source in it; views:
    render the images; head: maps tokens to latents. Images of a call go through the model together.
    """

    def __init__(
        self,
        model: nn.Module,
        target: Target,
        projector: Projector,
        views: SceneView,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        loss: DenseLoss | None = None,
        seed: int = 42,
    ) -> None:
        require_patch_tokens(model)
        vit: Any = model
        width = getattr(vit.head, "out_features", vit.embed_dim)  # CLIP's tokens are those of the joint space
        self.views, self.loss = views, loss or DenseLoss()
        self.head = random_linear(width, self.loss.latent_dim, seed, "simclr").to(device)
        self._target = target.name
        self.engine = GradientEngine(
            model,
            [target],
            {target.name: projector},
            device=device,
            dtype=dtype,
            views_per_forward=_ALL_AT_ONCE,
            short_cut=False,
            positions=EachPosition(vit.num_prefix_tokens),  # the class token is dropped
        ).through(TokenEncoder)

    def features(
        self,
        feature: Feature,
        images: Shaped[Tensor, "b c s s"],
        draws: Sequence[int],
        support: Support | None = None,
        ids: Sequence[str] = (),
    ) -> Float[Tensor, "b t f"]:
        """Return the features of all patches at length one: `cat[token, gradient]`, each at length 1 (spec dense 4.4).

        draws: seed of each image's choice of negatives. support: where those are looked up; embeddings need none. ids:
        of the images, for the FungiError that names one with a gradient that is not finite; else it counts them.
        """
        if feature == "embeddings":
            patches = self.engine.encode(images, self.views).patches
            assert patches is not None
            return normalize(patches[:, 0], dim=-1)
        assert support is not None
        extracted = self.engine.extract(images, self.views, {"simclr": self._loss_of(draws, support)})
        patches, gradients = extracted.encoded.patches, extracted.gradients["simclr"][self._target]
        assert patches is not None
        if bad := (~gradients.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist():
            names = ", ".join(repr(ids[row]) if ids else f"image {row} of the batch" for row in bad[:4])
            half = " Use --dtype bfloat16 or float32." if self.engine.dtype == torch.float16 else ""
            raise FungiError(f"the gradient of a patch is not finite for {names} ({len(bad)} in this batch).{half}")
        parts = [normalize(patches[:, 0], dim=-1), normalize(gradients, dim=-1)]
        return parts[1] if feature == "simclr" else normalize(torch.cat(parts, dim=-1), dim=-1)

    def _loss_of(self, draws: Sequence[int], support: Support) -> Loss:
        def loss(encoded: Encoded) -> Float[Tensor, " b"]:
            tokens = encoded.tokens[:, 0]  # [b 1 1+t d] -> [b 1+t d]
            drawn = self.loss.drawn(tokens.shape[1], draws)
            needed = drawn.any(dim=2)  # a quarter of the tokens is spared the search
            neighbours = support.nearest(tokens.detach()[needed.to(tokens.device)], self.loss.retrieved)
            chosen = self.loss.candidates(neighbours)[drawn[needed].to(tokens.device)]  # image by image
            return self.loss(tokens, chosen.split(drawn.sum(dim=(1, 2)).tolist()), self.head)

        return loss


def record_of(extractor: DenseExtractor, profile: str) -> dict[str, Any]:
    """Return what decides the tokens of an image; a bank of embeddings records it, and a wrapper has to match it."""
    views = extractor.views
    return {
        "profile": profile,
        "input_size": views.size,
        "statistics": [list(triple) for triple in views.statistics],
        "weights_at_that_size": hash_weights(extractor.engine.model),
    }


def grid_of(model: nn.Module) -> int:
    """Patches along a side of the model's input."""
    embed: Any = getattr(model, "patch_embed")  # noqa: B009
    return int(embed.grid_size[0])


def at_input_size(model: nn.Module, size: int) -> None:
    """Make a vision transformer take images of `size` x `size`, in place; `set_size` says how positions are scaled.

    FungiError for a size that is no multiple of the patch size, a model without patch tokens, and one that takes
    images of a single size.
    """
    require_patch_tokens(model)
    vit: Any = model
    patch = int(vit.patch_embed.patch_size[0])
    if size % patch:
        raise FungiError(f"--input-size {size} is no multiple of the model's patches of {patch} pixels.")
    native = vit.patch_embed.img_size
    if native == (size, size):
        return
    if not hasattr(vit, "set_input_size"):
        raise FungiError(f"a {type(model).__name__} takes no other size than its own: use --input-size {native[0]}.")
    set_size(vit, size)
