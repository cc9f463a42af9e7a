"""Features of patches: tokens of a vision transformer, and the gradient of SimCLR's loss per patch (spec dense 4).

All tokens of an image attract each other and repel the nearest patches of the training images. The gradient of the
loss at a linear layer is a sum over tokens, `sum_t delta_t a_t^T`. The gradient of a patch is its term of this sum,
after projection. Each term has rank one. Only a few terms are in memory at the same time. A khatri-rao projection needs
no term in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64, Shaped
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
from fungi.runtime.transfers import upload
from fungi.search.backends import Search
from fungi.search.stored import BankSearch
from fungi.segmentation.contrast import contrast
from fungi.store.banks import Patches
from fungi.views.scenes import SceneView

Feature = Literal["embeddings", "simclr", "embeddings+simclr"]
NEIGHBOURS = 2  # number of neighbours per token that can become negatives
_NO_LIMIT = 1 << 20  # number of views per forward pass that no batch reaches, so that each batch is one forward pass
SCRAMBLED_NEIGHBOURS = 5  # number of neighbours that the published code retrieves and scrambles (spec dense 6, H1)


@dataclass(frozen=True, kw_only=True)
class DenseLoss:
    """SimCLR's loss between the tokens of an image (spec dense 4.2), with switches for deviations.

    latent_dim: output size of the head. temperature: temperature of the loss.
    kept: probability that a candidate (a neighbour of a token in the support bank) becomes a negative.
    denominator_temperature: whether similarities in the log-sum-exp are divided by the temperature; if not, the
        published code is reproduced (spec dense 6, H2).
    neighbour_layout: `real` neighbours, or the scrambled neighbours of the published code (spec dense 6, H1).
    normalise_tokens_before_head: whether tokens are scaled to length 1, like their neighbours (spec dense 6, H16).
    """

    latent_dim: int = 96
    temperature: float = 0.07
    kept: float = 0.5
    denominator_temperature: bool = True
    neighbour_layout: Literal["real", "published"] = "real"
    normalise_tokens_before_head: bool = False

    @property
    def neighbours(self) -> int:
        """The number of neighbours to search for each token."""
        return NEIGHBOURS if self.neighbour_layout == "real" else SCRAMBLED_NEIGHBOURS

    def candidates(self, neighbours: Float[Tensor, "n k d"]) -> Float[Tensor, "n 2 d"]:
        """Return the two neighbours of each token that can become negatives."""
        if self.neighbour_layout == "published":
            # The published code reads [K E] as [E K] and transposes: row j has the entries j, j + K, j + 2 K, ...
            neighbours = neighbours.reshape(len(neighbours), *reversed(neighbours.shape[1:])).transpose(1, 2)
        return neighbours[:, :NEIGHBOURS]

    def draw_negatives(self, tokens: int, seeds: Sequence[int]) -> Bool[Tensor, "b t 2"]:
        """Return which candidates of each image become negatives (spec dense 6, H12). seeds: one seed per image."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        uniform = torch.stack([torch.rand(tokens, NEIGHBOURS, generator=generator) for generator in generators])
        is_negative = uniform < self.kept
        is_negative[:, 0, 0] |= ~is_negative.any(dim=(1, 2))  # each image needs at least one negative
        return is_negative

    def draw_indices(
        self, tokens: int, seeds: Sequence[int]
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " m"], list[int]]:
        """Return the indices of the tokens to search for, the indices of the negatives, and their number per image.

        The neighbours of the other tokens (a quarter of all tokens) are not searched, because none of them becomes a
        negative. The indices of the negatives count the candidates of the searched tokens only. All indices are on the
        host: with a mask on a GPU, the host would wait for the GPU.
        """
        is_negative = self.draw_negatives(tokens, seeds)
        searched = is_negative.any(dim=2)
        indices = [mask.flatten().nonzero().flatten() for mask in (searched, is_negative[searched])]
        return indices[0], indices[1], is_negative.sum(dim=(1, 2)).tolist()

    def __call__(
        self, tokens: Float[Tensor, "b t d"], negatives: Sequence[Float[Tensor, "_ d"]], head: nn.Module
    ) -> Float[Tensor, " b"]:
        """Return one loss per image. Each image has its own negatives; no gradient flows through the negatives."""
        latents = head(normalize(tokens, dim=-1) if self.normalise_tokens_before_head else tokens)
        with torch.no_grad():
            negative_latents = [head(features) for features in negatives]
        options = (self.temperature, self.denominator_temperature)
        return torch.stack([contrast(*image, *options) for image in zip(latents, negative_latents, strict=True)])


@dataclass(frozen=True)
class Support:
    """A bank of embeddings and the search over it."""

    bank: Patches
    search: Search

    def nearest(self, tokens: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n k d"]:
        """Return the k nearest patches of each token, as features of length one."""
        _, rows = self.search(normalize(tokens, dim=-1), k)
        if isinstance(self.search, BankSearch) and (features := self.search.kept_features(rows)) is not None:
            return features.to(tokens)  # the host does not wait for the rows
        return torch.from_numpy(self.bank.features_of(rows.cpu().numpy())).to(tokens)


class DenseExtractor:
    """Computes the features of the patches of images, in row-major order. All images have the same size.

    model: a vision transformer of timm with a class token; its input size is the size of the images.
    target: gradient source of the model. views: turns samples into inputs of the model. All images of a call are one
    batch.
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
        width = getattr(vit.head, "out_features", vit.embed_dim)  # CLIP maps its tokens to the joint space
        self.views, self.loss = views, loss or DenseLoss()
        self.head = random_linear(width, self.loss.latent_dim, seed, "simclr").to(device)
        self._target = target.name
        self.engine = GradientEngine(
            model,
            [target],
            {target.name: projector},
            device=device,
            dtype=dtype,
            views_per_forward=_NO_LIMIT,
            short_cut=False,
            positions=EachPosition(vit.num_prefix_tokens),  # the class token is dropped
        ).with_encoder(TokenEncoder)

    def features(
        self,
        feature: Feature,
        images: Shaped[Tensor, "b c s s"],
        draw_seeds: Sequence[int],
        support: Support | None = None,
        ids: Sequence[str] = (),
    ) -> Float[Tensor, "b t f"]:
        """Return the L2-normalised features of all patches (spec dense 4.4).

        Token and gradient are also L2-normalised before they are concatenated.

        draw_seeds: seed of each image for the choice of negatives. support: bank with the candidates for negatives; not
        needed for embeddings. ids: names of the images in error messages.
        Raises FungiError if a gradient is not finite.
        """
        if feature == "embeddings":
            patches = self.engine.encode(images, self.views).patches
            assert patches is not None
            return normalize(patches[:, 0], dim=-1)
        assert support is not None
        extracted = self.engine.extract(images, self.views, {"simclr": self._loss_of(draw_seeds, support)})
        patches, gradients = extracted.encoded.patches, extracted.gradients["simclr"][self._target]
        assert patches is not None
        self._require_finite(gradients, ids)
        tokens, gradients = normalize(patches[:, 0], dim=-1), normalize(gradients, dim=-1)
        return gradients if feature == "simclr" else normalize(torch.cat([tokens, gradients], dim=-1), dim=-1)

    def _require_finite(self, gradients: Float[Tensor, "b t p"], ids: Sequence[str]) -> None:
        """Raise FungiError with the images whose gradients are not finite. The host waits for the device."""
        is_finite = gradients.isfinite().flatten(1).all(dim=1)
        if bad_rows := (~is_finite).cpu().nonzero().flatten().tolist():
            names = ", ".join(repr(ids[row]) if ids else f"image {row} of the batch" for row in bad_rows[:4])
            advice = " Use --dtype bfloat16 or float32." if self.engine.dtype == torch.float16 else ""
            raise FungiError(
                f"the gradient of a patch is not finite for {names} ({len(bad_rows)} in this batch).{advice}"
            )

    def _loss_of(self, draw_seeds: Sequence[int], support: Support) -> Loss:
        """Return the loss of a batch of images as a function of their encoding."""

        def loss(encoded: Encoded) -> Float[Tensor, " b"]:
            tokens = encoded.tokens[:, 0]  # [b 1 1+t d] -> [b 1+t d]
            searched, chosen, counts = self.loss.draw_indices(tokens.shape[1], draw_seeds)
            searched, chosen = upload(searched, tokens.device), upload(chosen, tokens.device)
            neighbours = support.nearest(tokens.detach().flatten(0, 1)[searched], self.loss.neighbours)
            negatives = self.loss.candidates(neighbours).flatten(0, 1)[chosen]  # [n 2 d] -> [n*2 d], image by image
            return self.loss(tokens, negatives.split(counts), self.head)

        return loss


def token_settings(extractor: DenseExtractor, profile: str) -> dict[str, Any]:
    """Return the settings that determine the tokens of an image.

    A bank and a wrapper that uses this bank must have the same settings.
    """
    views = extractor.views
    return {
        "profile": profile,
        "input_size": views.size,
        "statistics": [list(triple) for triple in views.statistics],
        "weights_at_that_size": hash_weights(extractor.engine.model),
    }


def grid_of(vit: Any) -> int:
    """Return the number of patches along a side of the input of a vision transformer of timm."""
    return int(vit.patch_embed.grid_size[0])


def set_input_size(model: nn.Module, size: int) -> None:
    """Change the input size of a vision transformer to `size` x `size`, in place. Also resize its position embedding.

    Raises FungiError if the size is not a multiple of the patch size, or if the model has no patch tokens or a fixed
    input size.
    """
    require_patch_tokens(model)
    vit: Any = model
    patch = int(vit.patch_embed.patch_size[0])
    if size % patch:
        raise FungiError(f"--input-size {size} is not a multiple of the model's patches of {patch} pixels.")
    native = vit.patch_embed.img_size
    if native == (size, size):
        return
    if not hasattr(vit, "set_input_size"):
        raise FungiError(f"the input size of a {type(model).__name__} is fixed. Use --input-size {native[0]}.")
    set_size(vit, size)
