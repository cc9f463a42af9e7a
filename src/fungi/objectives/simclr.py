"""SimCLR: the patches of an image attract each other and repel the patches of 256 training images (spec vision 4.3)."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.objectives.base import Embed, Objective, Support, register
from fungi.runtime.seeds import derive, numpy_generator
from fungi.search.exact import most_similar
from fungi.views.base import HasStream, ViewGenerator

NEGATIVE_VIEWS = 2
"""Number of views per negative image, if views are drawn at random."""

SAME_IMAGE = 0.999
"""An image with a larger mean cosine of latents is the sample itself. Rounding in bfloat16 is below 1e-3."""


def info_nce(
    positives: Float[Tensor, "b v l"],
    negatives: Float[Tensor, "*b m l"],
    temperature: float,
    denominator_temperature: bool = True,
    *,
    own: Bool[Tensor, "b m"] | None = None,
    mixed: Float[Tensor, "b v k l"] | None = None,
) -> Float[Tensor, " b"]:
    """Return InfoNCE of every view with the other views of its sample and the negatives, averaged over views.

    negatives: `[m l]` for all samples, or `[b m l]`.

    With similarities `s = cos / T`:  `l_i = -mean_{j != i} s_ij + log(sum_k exp s_ik + sum_{j != i} exp s_ij)`.
    All other positives stay in the denominator; the similarity of a view to itself is masked. Without
    `denominator_temperature`, the denominator has T = 1, as in the published library (deviation V23a).

    own: negatives to skip, per sample; mixed: additional negatives of unit norm, per view.
    """
    queries = normalize(positives, dim=-1)
    views = positives.shape[1]
    itself = torch.eye(views, dtype=torch.bool, device=positives.device)
    among = torch.einsum("bvl,bul->bvu", queries, queries)
    attraction = among.masked_fill(itself, 0).sum(dim=-1) / (temperature * (views - 1))
    scale = temperature if denominator_temperature else 1.0
    # There are many negatives, so scale the few queries, and add the parts of the denominator without concatenation.
    logits = (queries / scale) @ normalize(negatives, dim=-1).mT  # [b v l] x [l m] -> [b v m]
    if own is not None:
        logits = logits.masked_fill(own.unsqueeze(1), -torch.inf)
    against = torch.logsumexp(logits, dim=-1)
    if mixed is not None:
        synthetic = torch.einsum("bvl,bvkl->bvk", queries / scale, mixed)
        against = torch.logaddexp(against, torch.logsumexp(synthetic, dim=-1))
    others = torch.logsumexp((among / scale).masked_fill(itself, -torch.inf), dim=-1)
    return (torch.logaddexp(against, others) - attraction).mean(dim=-1)


def mix_negatives(
    positives: Float[Tensor, "b v l"],
    negatives: Float[Tensor, "m l"],
    shares: Float[Tensor, "v k"],
    own: Bool[Tensor, "b m"] | None = None,
) -> Float[Tensor, "b v k l"]:
    """Return synthetic negatives without gradient: each view mixed with its k most similar negatives, normalised.

    shares: share of the view in each mixture, below one half. own: negatives to skip.
    """
    queries, others = normalize(positives.detach(), dim=-1), normalize(negatives, dim=-1)
    excluded = None if own is None else own.unsqueeze(1)
    _, nearest = most_similar(queries, others, shares.shape[1], excluded)  # [b v k]
    share = shares.unsqueeze(-1)
    return normalize(share * queries.unsqueeze(2) + (1 - share) * others[nearest], dim=-1)


def own_negatives(
    positives: Float[Tensor, "b v l"], negatives: Float[Tensor, "m l"], own_views: Float[Tensor, "s v l"]
) -> Bool[Tensor, "b m"]:
    """Return a mask of the negatives that are views of the sample itself.

    own_views: the views of the s images of the negatives; each image has the same number of negatives. An image is the
    sample itself if its views have the latents of the sample.
    """
    cosines = torch.einsum("bvl,svl->bs", normalize(positives.detach(), dim=-1), normalize(own_views, dim=-1))
    same = cosines / own_views.shape[1] > SAME_IMAGE
    return same.repeat_interleave(len(negatives) // len(own_views), dim=1)


@register
@dataclass(frozen=True, kw_only=True)
class SimCLR(Objective):
    """The SimCLR objective: 49 patches, and a constant matrix of negatives for all samples and splits.

    negative_samples: number of negative images; hard_negatives: rows of the training split to use as the first ones.
    negatives_mixing: for every view, add mixtures with its `mixed_negatives` nearest negatives.
    exclude_self_from_negatives: skip negatives that are views of the sample itself (deviation V8).
    view_generator: the kind of views. Random views need `n_views`, and have two views per negative image.
    """

    name = "simclr"
    views = "patches"

    normalize: bool = False
    latent_dim: int = 96
    temperature: float = 0.07
    negative_samples: int = 256
    denominator_temperature: bool = True
    hard_negatives: tuple[int, ...] = ()
    negatives_mixing: bool = False
    mixed_negatives: int = 20
    exclude_self_from_negatives: bool = False
    view_generator: str = "patches"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.negative_samples < 1 or self.mixed_negatives < 1:
            raise FungiError("simclr.negative_samples and simclr.mixed_negatives have to be at least 1.")
        if len(self.hard_negatives) > self.negative_samples:
            raise FungiError(
                f"there are {len(self.hard_negatives)} hard negatives, but simclr.negative_samples is "
                f"{self.negative_samples}. Increase simclr.negative_samples."
            )

    @property
    def view_kind(self) -> str:
        """The kind of views."""
        return self.view_generator

    def support_views(self, views: ViewGenerator) -> ViewGenerator:
        """Return the views of negatives: all patches, or, for random views, two more draws after those of the loss.

        So the negatives from a train sample differ from its own views. With `exclude_self_from_negatives`, its own
        views are included, to recognise it.
        """
        if not isinstance(views, HasStream):
            return views
        changed: Any = views
        if self.exclude_self_from_negatives:
            return replace(changed, n_views=views.n_views + NEGATIVE_VIEWS)
        return replace(changed, n_views=NEGATIVE_VIEWS, skipped=views.n_views)

    def support(self, train: Samples, embed: Embed, heads: nn.ModuleDict, seed: int) -> Support:
        """Return `negatives` `[256 * v, 96]`: latents of training samples, drawn without replacement.

        With mixing, there is also `mixing_seed`, the seed for the shares of views in mixtures. With
        `exclude_self_from_negatives`, there is also `own_views` `[256 v 96]`, the latents of the samples' own views.
        """
        rows = self.negative_rows(len(train), seed)
        with torch.no_grad():
            latents = self.latents(embed(train.take(rows)), heads["head"])  # [n v l]
        own, negatives = latents, latents
        if self.exclude_self_from_negatives and self.view_generator != type(self).views:
            own, negatives = latents[:, :-NEGATIVE_VIEWS], latents[:, -NEGATIVE_VIEWS:]
        support = {"negatives": negatives.flatten(0, 1)}
        if self.negatives_mixing:
            support["mixing_seed"] = torch.tensor(derive(seed, self.name, "mixing"))
        if self.exclude_self_from_negatives:
            support["own_views"] = own.contiguous()
        return support

    def negative_rows(self, available: int, seed: int) -> Int64[np.ndarray, " m"]:
        """Return the rows of the training split to use as negatives: all rows if there are too few."""
        hard = np.array(self.hard_negatives, dtype=np.int64)
        if len(hard) and (hard.min() < 0 or hard.max() >= available):
            raise FungiError(f"simclr.hard_negatives has rows outside the training split, which has {available} rows.")
        others = np.setdiff1d(np.arange(available), hard)
        count = min(self.negative_samples - len(hard), len(others))
        drawn = numpy_generator(seed, self.name, "negatives").choice(others, size=count, replace=False)
        return np.concatenate([hard, drawn])

    def latent_loss(self, latents: Float[Tensor, "b v l"], support: Support) -> Float[Tensor, " b"]:
        """Return InfoNCE of the latents."""
        negatives = support["negatives"]
        own = mixed = None
        if self.exclude_self_from_negatives:
            own = own_negatives(latents, negatives, support["own_views"])
        if self.negatives_mixing:
            shares = self._shares(latents.shape[1], support).to(latents, non_blocking=True)
            mixed = mix_negatives(latents, negatives, shares, own)
        return info_nce(latents, negatives, self.temperature, self.denominator_temperature, own=own, mixed=mixed)

    def _shares(self, views: int, support: Support) -> Float[Tensor, "v k"]:
        """Return the shares of mixtures. They are the same for all samples, so a feature depends only on its image."""
        generator = torch.Generator().manual_seed(int(support["mixing_seed"]))
        count = min(self.mixed_negatives, len(support["negatives"]))
        return torch.rand((views, count), generator=generator) / 2
