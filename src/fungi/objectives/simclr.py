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
from fungi.runtime.seeds import derive_seed, numpy_generator
from fungi.search.exact import most_similar
from fungi.views.base import HasStream, ViewGenerator

NEGATIVE_VIEWS = 2
"""Number of views per negative image, if views are drawn at random."""

SAME_IMAGE = 0.999
"""Two images count as the same image if the mean cosine of their latents is larger than this number. Rounding in
bfloat16 changes the cosine by less than 1e-3."""


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

    The loss of view i is `-mean_{j != i} s_ij + log(sum_k exp s_ik + sum_{j != i} exp s_ij)` with the similarities
    `s = cos / T`, where j is a view of the same sample and k a negative. The sum in the logarithm (the denominator)
    contains all other positives, but not the similarity of a view to itself.

    positives: latents of the views. negatives: `[m l]` for all samples, or `[b m l]`. Latents are L2-normalised here.
    denominator_temperature: False means T = 1 in the denominator, as in the published library (spec vision 10, V23a).
    own: true for negatives that are skipped, because they are views of the sample itself.
    mixed: additional negatives for each view, of unit norm.
    """
    queries = normalize(positives, dim=-1)
    views = positives.shape[1]
    same_view = torch.eye(views, dtype=torch.bool, device=positives.device)
    cosines = torch.einsum("bvl,bul->bvu", queries, queries)
    numerator = cosines.masked_fill(same_view, 0).sum(dim=-1) / (temperature * (views - 1))
    scale = temperature if denominator_temperature else 1.0
    # There are many negatives. To save memory, scale the few queries, and do not concatenate positives and negatives.
    logits = (queries / scale) @ normalize(negatives, dim=-1).mT  # [b v l] x [l m] -> [b v m]
    if own is not None:
        logits = logits.masked_fill(own.unsqueeze(1), -torch.inf)
    negative_part = torch.logsumexp(logits, dim=-1)
    if mixed is not None:
        mixed_logits = torch.einsum("bvl,bvkl->bvk", queries / scale, mixed)
        negative_part = torch.logaddexp(negative_part, torch.logsumexp(mixed_logits, dim=-1))
    positive_part = torch.logsumexp((cosines / scale).masked_fill(same_view, -torch.inf), dim=-1)
    return (torch.logaddexp(negative_part, positive_part) - numerator).mean(dim=-1)


def mix_negatives(
    positives: Float[Tensor, "b v l"],
    negatives: Float[Tensor, "m l"],
    shares: Float[Tensor, "v k"],
    own: Bool[Tensor, "b m"] | None = None,
) -> Float[Tensor, "b v k l"]:
    """Return mixtures of each view with its k most similar negatives, with unit norm and without gradient.

    shares: share of the view in each mixture, below one half. own: true for negatives that are skipped (see
    `own_negatives`).
    """
    queries, unit_negatives = normalize(positives.detach(), dim=-1), normalize(negatives, dim=-1)
    excluded = None if own is None else own.unsqueeze(1)
    _, nearest = most_similar(queries, unit_negatives, shares.shape[1], excluded)  # [b v k]
    share = shares.unsqueeze(-1)
    return normalize(share * queries.unsqueeze(2) + (1 - share) * unit_negatives[nearest], dim=-1)


def own_negatives(
    positives: Float[Tensor, "b v l"], negatives: Float[Tensor, "m l"], own_views: Float[Tensor, "images v l"]
) -> Bool[Tensor, "b m"]:
    """Return a mask of the negatives that are views of the sample itself.

    own_views: latents of the images from which the negatives come, for the same views as in the loss. If the latents of
    an image are almost equal to the latents of a sample, the image is this sample (`SAME_IMAGE`). Each image has the
    same number of negatives, and the negatives of an image are neighbouring rows.
    """
    sums = torch.einsum("bvl,ivl->bi", normalize(positives.detach(), dim=-1), normalize(own_views, dim=-1))
    is_same_image = sums / own_views.shape[1] > SAME_IMAGE  # the mean cosine over views
    return is_same_image.repeat_interleave(len(negatives) // len(own_views), dim=1)


@register
@dataclass(frozen=True, kw_only=True)
class SimCLR(Objective):
    """The SimCLR objective: 49 patches, and a constant matrix of negatives for all samples and splits.

    denominator_temperature: see `info_nce`.
    negative_samples: number of negative images.
    hard_negatives: rows of the training split that are used as the first negative images.
    negatives_mixing: for every view, add mixtures of the view with its `mixed_negatives` nearest negatives.
    exclude_self_from_negatives: skip negatives that are views of the sample itself (spec vision 10, V8).
    view_generator: kind of views. Random views need the view option `n_views`, and a negative image then has two views.
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
        """Kind of views for these settings."""
        return self.view_generator

    def support_views(self, views: ViewGenerator) -> ViewGenerator:
        """Return the views of negative images: all patches, or two random views.

        The two random views are drawn after the views of the loss. If a negative image is also a sample, it therefore
        has other views as a negative than in the loss. With `exclude_self_from_negatives`, the views of the loss are
        included, because they identify the sample.
        """
        if not isinstance(views, HasStream):
            return views
        random_views: Any = views
        if self.exclude_self_from_negatives:
            return replace(random_views, n_views=views.n_views + NEGATIVE_VIEWS)
        return replace(random_views, n_views=NEGATIVE_VIEWS, skipped=views.n_views)

    def support(self, train: Samples, embed: Embed, heads: nn.ModuleDict, seed: int) -> Support:
        """Return `negatives` `[256 * v, 96]`: latents of training samples, drawn without replacement.

        With mixing, there is also `mixing_seed`, the seed for the shares of views in mixtures. With
        `exclude_self_from_negatives`, there is also `own_views` `[256 v 96]`, the latents of the views in the loss.
        """
        rows = self.negative_rows(len(train), seed)
        with torch.no_grad():
            latents = self.latents(embed(train.take(rows)), heads["head"])  # [n v l]
        own_views, negatives = latents, latents
        if self.exclude_self_from_negatives and self.view_generator != type(self).views:  # see `support_views`
            own_views, negatives = latents[:, :-NEGATIVE_VIEWS], latents[:, -NEGATIVE_VIEWS:]
        support = {"negatives": negatives.flatten(0, 1)}
        if self.negatives_mixing:
            support["mixing_seed"] = torch.tensor(derive_seed(seed, self.name, "mixing"))
        if self.exclude_self_from_negatives:
            support["own_views"] = own_views.contiguous()
        return support

    def negative_rows(self, available: int, seed: int) -> Int64[np.ndarray, " m"]:
        """Return the rows of the training split that are negatives; all rows if the split has too few.

        available: number of rows of the training split. Raises FungiError if hard negatives are not rows of the split.
        """
        hard = np.array(self.hard_negatives, dtype=np.int64)
        if len(hard) and (hard.min() < 0 or hard.max() >= available):
            raise FungiError(f"simclr.hard_negatives has rows outside the training split, which has {available} rows.")
        other_rows = np.setdiff1d(np.arange(available), hard)
        count = min(self.negative_samples - len(hard), len(other_rows))
        random_rows = numpy_generator(seed, self.name, "negatives").choice(other_rows, size=count, replace=False)
        return np.concatenate([hard, random_rows])

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
        """Return the shares of views in mixtures. All samples have the same shares, so samples are independent."""
        generator = torch.Generator().manual_seed(int(support["mixing_seed"]))
        count = min(self.mixed_negatives, len(support["negatives"]))
        return torch.rand((views, count), generator=generator) / 2
