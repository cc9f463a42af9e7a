"""SimCLR: the patches of an image attract each other and repel the patches of 256 training images (spec vision 4.3)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.objectives.base import Embed, Objective, Support, random_linear, register
from fungi.runtime.seeds import numpy_generator


def info_nce(
    positives: Float[Tensor, "b v l"],
    negatives: Float[Tensor, "m l"],
    temperature: float,
    denominator_temperature: bool = True,
) -> Float[Tensor, " b"]:
    """InfoNCE of every view against the other views of its sample and shared negatives, mean over views.

    With similarities `s = cos / T`:  `l_i = -mean_{j != i} s_ij + log(sum_k exp s_ik + sum_{j != i} exp s_ij)`.
    All other positives stay in the denominator; a view's similarity to itself is masked out. Without
    `denominator_temperature` the denominator is left undivided, as in the published library (quirk V23a).
    """
    queries = normalize(positives, dim=-1)
    views = positives.shape[1]
    itself = torch.eye(views, dtype=torch.bool, device=positives.device)
    among = torch.einsum("bvl,bul->bvu", queries, queries)
    attraction = among.masked_fill(itself, 0).sum(dim=-1) / (temperature * (views - 1))
    scale = temperature if denominator_temperature else 1.0
    # The negatives are many: scale the few queries instead, and join the two parts of the denominator as sums.
    against = torch.logsumexp((queries / scale) @ normalize(negatives, dim=-1).T, dim=-1)  # [b v l] x [l m] -> [b v]
    others = torch.logsumexp((among / scale).masked_fill(itself, -torch.inf), dim=-1)
    return (torch.logaddexp(against, others) - attraction).mean(dim=-1)


@register
@dataclass(frozen=True, kw_only=True)
class SimCLR(Objective):
    """Forty-nine patches against a constant matrix of negatives, shared by all samples and splits."""

    name = "simclr"
    views = "patches"

    normalize: bool = False
    latent_dim: int = 96
    temperature: float = 0.07
    negative_samples: int = 256
    denominator_temperature: bool = True

    def __post_init__(self) -> None:
        if self.negative_samples < 1:
            raise FungiError("simclr.negative_samples has to be at least 1.")

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """One head, E -> 96, on embeddings as they are (not normalised)."""
        return nn.ModuleDict({"head": random_linear(embedding_dim, self.latent_dim, seed, self.name)})

    def support(self, train: Samples, embed: Embed, heads: nn.ModuleDict, seed: int) -> Support:
        """Head outputs of all views of 256 training samples, drawn without replacement: `[256 * v, 96]`."""
        rows = self.negative_rows(len(train), seed)
        with torch.no_grad():
            latents = self.latents(embed(train.take(rows)), heads["head"])
        return {"negatives": latents.flatten(0, 1)}

    def negative_rows(self, available: int, seed: int) -> np.ndarray:
        """Rows of the training split that serve as negatives; all of them where there are fewer than asked for."""
        count = min(self.negative_samples, available)
        return numpy_generator(seed, self.name, "negatives").choice(available, size=count, replace=False)

    def loss(self, embeddings: Float[Tensor, "b v d"], heads: nn.ModuleDict, support: Support) -> Float[Tensor, " b"]:
        """InfoNCE of the latents."""
        latents = self.latents(embeddings, heads["head"])
        return info_nce(latents, support["negatives"], self.temperature, self.denominator_temperature)
