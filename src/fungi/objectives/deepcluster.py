"""DeepCluster: every crop of an image predicts the prototype that the image belongs to (spec vision 4.4).

An image belongs to the prototype nearest to a *bank crop* of its own. Bank crops are the first two views of every
image, of train and test alike: the target comes from the image itself and the saved prototypes, so that a feature does
not depend on the batch, and a train image finds the very cluster that k-means put it into.
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


@register
@dataclass(frozen=True, kw_only=True)
class DeepCluster(Objective):
    """Two bank crops that choose the targets, then two global and six local crops that predict them.

    prototypes: clusters per head, at most as many as there are train images; 0 picks the published 3000, or a tenth of
    the train images where that is less. prototype_heads: independent k-means, head h on bank crop h mod 2; iterations:
    of k-means.
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
        if self.prototypes < 0 or self.prototype_heads < 1:
            raise FungiError("deepcluster.prototypes has to be at least 0, deepcluster.prototype_heads at least 1.")

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """Return one bias-free head, E -> 128, its rows of length one (weight normalisation with gain 1)."""
        drawn = random_linear(embedding_dim, self.latent_dim, seed, self.name)
        head = nn.utils.skip_init(nn.Linear, embedding_dim, self.latent_dim, bias=False).requires_grad_(False)
        head.weight.copy_(normalize(drawn.weight, dim=1))
        return nn.ModuleDict({"head": head})

    def support_views(self, views: ViewGenerator) -> ViewGenerator:
        """Keep the bank crops alone: crops are drawn one after the other, so these are the first two of the loss."""
        return replace(views, global_crops=BANK_CROPS, local_crops=0) if isinstance(views, Crops) else views

    def support(self, train: Samples, embed: Embed, heads: nn.ModuleDict, seed: int) -> Support:
        """Prototypes `[h k l]` of the train images' bank crops. Fitted on train alone; other splits are assigned."""
        count = self.prototypes_for(len(train))
        bank = self.unit_latents(embed(train)[:, :BANK_CROPS], heads["head"])  # [n 2 l]
        fitted = [
            k_means(
                bank[:, head % BANK_CROPS],
                count,
                self.iterations,
                torch_generator(seed, self.name, "k-means", str(head)),
            )
            for head in range(self.prototype_heads)
        ]
        return {"prototypes": torch.stack(fitted)}

    def prototypes_for(self, images: int) -> int:
        """Clusters per head for so many train images."""
        if self.prototypes > images:
            raise FungiError(
                f"deepcluster.prototypes is {self.prototypes}, but there are only {images} train images. "
                f"Set deepcluster.prototypes to at most {images}."
            )
        return self.prototypes or max(1, min(PUBLISHED_PROTOTYPES, images // 10))

    def unit_latents(self, embeddings: Float[Tensor, "*b d"], head: nn.Module) -> Float[Tensor, "*b l"]:
        """Latents of length one."""
        return normalize(self.latents(embeddings, head), dim=-1)

    def latent_loss(self, latents: Float[Tensor, "b v l"], support: Support) -> Float[Tensor, " b"]:
        """Cross-entropy of the crops against the prototypes of the bank crops, mean over crops and prototype heads."""
        latents = normalize(latents, dim=-1)
        bank, crops = latents[:, :BANK_CROPS].detach(), latents[:, BANK_CROPS:]
        terms = []
        for index, prototypes in enumerate(support["prototypes"]):
            target = (bank[:, index % BANK_CROPS] @ prototypes.T).argmax(dim=-1)  # [b l] [l k] -> [b]
            log_p = torch.log_softmax(crops @ prototypes.T / self.temperature, dim=-1)  # [b v k]
            chosen = target[:, None, None].expand(-1, log_p.shape[1], 1)
            terms.append(-log_p.gather(2, chosen).squeeze(2).mean(dim=1))
        return torch.stack(terms).mean(dim=0)


def k_means(
    rows: Float[Tensor, "n l"], count: int, iterations: int, generator: torch.Generator
) -> Float[Tensor, "k l"]:
    """Prototypes by k-means with dot products: from random rows; means are not brought back to length one."""
    chosen = torch.randperm(len(rows), generator=generator)[:count].to(rows.device)
    prototypes = rows[chosen].clone()
    for _ in range(iterations):
        members = assign(rows, prototypes)
        sizes = torch.bincount(members, minlength=count)
        sums = torch.segment_reduce(rows[members.argsort(stable=True)], "sum", lengths=sizes, initial=0.0)
        prototypes = torch.where(
            sizes[:, None] > 0, sums / sizes.clamp_min(1)[:, None], prototypes
        )  # an empty one stays
    return prototypes


def assign(rows: Float[Tensor, "n l"], prototypes: Float[Tensor, "k l"]) -> Int64[Tensor, " n"]:
    """Return the prototype with the largest dot product, for each row."""
    return torch.cat([(part @ prototypes.T).argmax(dim=1) for part in rows.split(_ROWS_AT_ONCE)])
