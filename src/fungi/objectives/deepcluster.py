"""DeepCluster: every crop of an image predicts the prototypes of the image (spec vision 4.4).

Prototypes come from several runs of k-means, the *prototype heads*. The first two views of every train and test image
are its *bank crops*. Each head uses one of them: the prototype of an image is the nearest prototype to this crop. It
depends only on the image and the saved prototypes, so a feature does not depend on the batch. For a train image, it is
the prototype of its cluster in k-means.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.objectives.base import Embed, Objective, Support, random_linear, register
from fungi.runtime.seeds import torch_generator
from fungi.views.base import ViewGenerator
from fungi.views.crops import Crops

BANK_CROPS = 2
PUBLISHED_PROTOTYPES = 3000
_ROWS_AT_ONCE = 8192
"""Number of rows whose products with all prototypes are computed together."""


@register
@dataclass(frozen=True, kw_only=True)
class DeepCluster(Objective):
    """The DeepCluster objective. Two bank crops determine the targets; two global and six local crops predict them.

    prototypes: number of clusters per head, at most the number of train images. 0 means the published 3000, or a tenth
        of the train images if this is less.
    prototype_heads: number of independent runs of k-means; run h uses bank crop h mod 2.
    iterations: number of iterations of k-means.
    """

    name = "deepcluster"
    views = "crops"
    view_defaults: ClassVar[dict[str, Any]] = {
        "global_crops": BANK_CROPS + 2,
        "local_crops": 6,
        "global_area": (0.14, 1.0),
        "local_area": (0.05, 0.14),
        "interpolation": "bilinear",
    }

    latent_dim: int = 128
    temperature: float = 0.1
    prototypes: int = 0
    prototype_heads: int = 3
    iterations: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, minimum in (("prototypes", 0), ("prototype_heads", 1), ("iterations", 0)):
            if getattr(self, name) < minimum:
                raise FungiError(f"deepcluster.{name} has to be at least {minimum}, not {getattr(self, name)}.")

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """Return one head without bias, whose rows have unit norm (weight normalisation with gain 1)."""
        layer = random_linear(embedding_dim, self.latent_dim, seed, self.name)
        head = nn.utils.skip_init(nn.Linear, embedding_dim, self.latent_dim, bias=False).requires_grad_(False)
        head.weight.copy_(normalize(layer.weight, dim=1))
        return nn.ModuleDict({"head": head})

    def support_views(self, views: ViewGenerator) -> ViewGenerator:
        """Return views with only the bank crops. These crops are drawn first, so they are the same as in the loss."""
        return replace(views, global_crops=BANK_CROPS, local_crops=0) if isinstance(views, Crops) else views

    def support(self, train: Samples, embed: Embed, heads: nn.ModuleDict, seed: int) -> Support:
        """Return the prototypes `[heads k l]`, fitted on the bank crops of the train images."""
        count = self.prototypes_for(len(train))
        bank = self.unit_latents(embed(train)[:, :BANK_CROPS], heads["head"])  # [n 2 l]
        prototypes = []
        for head in range(self.prototype_heads):
            generator = torch_generator(seed, self.name, "k-means", str(head))
            prototypes.append(k_means(bank[:, head % BANK_CROPS], count, self.iterations, generator))
        return {"prototypes": torch.stack(prototypes)}

    def prototypes_for(self, images: int) -> int:
        """Return the number of clusters per head. Raises FungiError if there are fewer train images than clusters."""
        if self.prototypes > images:
            raise FungiError(
                f"deepcluster.prototypes is {self.prototypes}, but there are only {images} train images. "
                f"Set deepcluster.prototypes to at most {images}."
            )
        return self.prototypes or max(1, min(PUBLISHED_PROTOTYPES, images // 10))

    def unit_latents(self, embeddings: Float[Tensor, "*b d"], head: nn.Module) -> Float[Tensor, "*b l"]:
        """Return latents of unit norm."""
        return normalize(self.latents(embeddings, head), dim=-1)

    def latent_loss(self, latents: Float[Tensor, "b v l"], support: Support) -> Float[Tensor, " b"]:
        """Return the cross-entropy of the crops and the target prototypes, averaged over crops and prototype heads."""
        latents = normalize(latents, dim=-1)
        bank, crops = latents[:, :BANK_CROPS].detach(), latents[:, BANK_CROPS:]
        terms = []
        for index, prototypes in enumerate(support["prototypes"]):
            target = (bank[:, index % BANK_CROPS] @ prototypes.T).argmax(dim=-1)  # [b l] [l k] -> [b]
            log_p = torch.log_softmax(crops @ prototypes.T / self.temperature, dim=-1)  # [b v k]
            target_of_crops = target[:, None, None].expand(-1, log_p.shape[1], 1)
            terms.append(-log_p.gather(2, target_of_crops).squeeze(2).mean(dim=1))
        return torch.stack(terms).mean(dim=0)


def k_means(
    rows: Float[Tensor, "n l"], count: int, iterations: int, generator: torch.Generator
) -> Float[Tensor, "k l"]:
    """Return the prototypes of k-means with dot products, initialised with random rows. Means are not normalised.

    count: number of prototypes, k.
    """
    initial_rows = torch.randperm(len(rows), generator=generator)[:count].to(rows.device)
    prototypes = rows[initial_rows].clone()
    for _ in range(iterations):
        clusters = assign(rows, prototypes)
        sizes = torch.bincount(clusters, minlength=count)
        sorted_rows = rows[clusters.argsort(stable=True)]  # the rows of each cluster are next to each other
        sums = torch.segment_reduce(sorted_rows, "sum", lengths=sizes, initial=0.0)
        means = sums / sizes.clamp_min(1)[:, None]
        prototypes = torch.where(sizes[:, None] > 0, means, prototypes)  # an empty cluster keeps its prototype
    return prototypes


def assign(rows: Float[Tensor, "n l"], prototypes: Float[Tensor, "k l"]) -> Int64[Tensor, " n"]:
    """Return for each row the index of the prototype with the largest dot product."""
    return torch.cat([(part @ prototypes.T).argmax(dim=1) for part in rows.split(_ROWS_AT_ONCE)])
