"""What an objective is to the rest of the program, and the enumeration of objectives.

An objective is a frozen dataclass: its fields are its settings. It names the kind of views it wants, makes its fixed
random heads, and turns the embeddings of a sample's views into one loss. Samples of a batch never interact: the
engine sums the losses, so that the gradient of a sample is the gradient of its own loss (spec vision 4 and 5).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from fungi.backbones.encoders import Encoded, WholeModel
from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.objectives import OBJECTIVES
from fungi.runtime.seeds import torch_generator
from fungi.views.base import ViewGenerator

Support = dict[str, Tensor]
"""Supporting data of an objective (negatives, prototypes): named constant tensors."""

Embed = Callable[[Samples], Float[Tensor, "n v d"]]
"""Samples -> embeddings of each sample's views for supporting data, without gradient."""


def support_on(device: torch.device, support: Support) -> Support:
    """Supporting data on a device. Single numbers stay on the host, where reading them waits for nothing."""
    return {name: tensor.to(device) if tensor.dim() else tensor.cpu() for name, tensor in support.items()}


def random_linear(inputs: int, outputs: int, seed: int, *purpose: str) -> nn.Linear:
    """Draw a frozen linear layer as PyTorch does by default, `U(-1/sqrt(E), 1/sqrt(E))`, from its own stream."""
    generator = torch_generator(seed, "head", *purpose)
    bound = inputs**-0.5
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)
    return layer.requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Settings common to all objectives.

    normalize: L2-normalise embeddings before the head; project: use the random head at all (paper, table 6);
    latent_dim: output size of the head.
    views, view_defaults: kind of the views, and options in which they differ from that kind's own defaults.
    follows: settings that take the value of a view option where that alone is given.
    encoder: the way through the model where the loss wants more of a view than its embedding.
    """

    name: ClassVar[str]
    views: ClassVar[str]
    view_defaults: ClassVar[dict[str, Any]] = {}
    follows: ClassVar[dict[str, str]] = {}
    encoder: ClassVar[type[WholeModel] | None] = None

    normalize: bool = True
    project: bool = True
    latent_dim: int = 768

    def __post_init__(self) -> None:
        for name in ("latent_dim", "temperature", "student_temperature", "teacher_temperature"):
            value = getattr(self, name, 1)
            if not value > 0:
                raise FungiError(f"{self.name}.{name} has to be larger than 0, not {value}.")

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """Return the fixed random heads by name, equal for all splits and datasets; by default E -> `latent_dim`."""
        return nn.ModuleDict({"head": random_linear(embedding_dim, self.latent_dim, seed, self.name)})

    def loss(self, encoded: Encoded, heads: nn.ModuleDict, support: Support) -> Float[Tensor, " b"]:
        """Return one loss per sample from the latents of its views: `pooled` `[b v d]`, `patches` with an `encoder`.

        To be overridden where `latent_loss` is not enough: for several heads, or for tokens.
        """
        return self.latent_loss(self.latents(encoded.pooled, heads["head"]), support)

    def latent_loss(self, latents: Float[Tensor, "b v l"], support: Support) -> Float[Tensor, " b"]:
        """Return one loss per sample from the head's outputs of its views: all that most objectives have to write."""
        raise NotImplementedError

    def support(self, train: Samples, embed: Embed, heads: nn.ModuleDict, seed: int) -> Support:
        """Supporting data from the training split; most objectives need none."""
        return {}

    @property
    def view_kind(self) -> str:
        """Kind of the views that these settings ask for."""
        return self.views

    def support_views(self, views: ViewGenerator) -> ViewGenerator:
        """Return the views that `support` embeds, from those of the loss: the same unless it needs fewer."""
        return views

    @property
    def needs_support(self) -> bool:
        """Whether `support` has to be called with a training split."""
        return type(self).support is not Objective.support

    def latents(self, embeddings: Float[Tensor, "*b d"], head: nn.Module) -> Float[Tensor, "*b l"]:
        """Embeddings through the head, as the settings say."""
        vectors = normalize(embeddings, dim=-1) if self.normalize else embeddings
        return head(vectors) if self.project else vectors


def called(class_name: str) -> type[Objective] | None:
    """Return the objective whose class has this name, if there is one."""
    return next((OBJECTIVES[name] for name in OBJECTIVES if OBJECTIVES[name].__name__ == class_name), None)


def register(objective: type[Objective]) -> type[Objective]:
    """Class decorator: add an objective under its name, which is also its file's."""
    return OBJECTIVES.register(objective.name, objective)
