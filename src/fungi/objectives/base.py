"""The base class of objectives, and their registration.

An objective is a frozen dataclass, whose fields are the settings. An objective names its kind of views, creates its
fixed random heads, and computes one loss per sample from the embeddings of the views. Samples of a batch never
interact. The engine adds the losses, so the gradient of a sample is the gradient of its loss (spec vision 4 and 5).
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
"""Supporting data of an objective (negatives, prototypes), as named constant tensors."""

Embed = Callable[[Samples], Float[Tensor, "n v d"]]
"""Function: samples -> embeddings of their `support_views`, without gradient."""


def support_on(device: torch.device, support: Support) -> Support:
    """Return supporting data on a device. Scalars stay on the CPU, so that reading them does not wait for the GPU."""
    return {name: tensor.to(device) if tensor.dim() else tensor.cpu() for name, tensor in support.items()}


def random_linear(inputs: int, outputs: int, seed: int, *purpose: str) -> nn.Linear:
    """Return a frozen linear layer with PyTorch's default distribution, `U(-1/sqrt(inputs), 1/sqrt(inputs))`.

    The random numbers depend only on the seed and the purpose.
    """
    generator = torch_generator(seed, "head", *purpose)
    bound = inputs**-0.5
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)
    return layer.requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Base class of objectives.

    Settings of all objectives:

    normalize: L2-normalise embeddings before the head.
    project: use the random head (paper, table 6).
    latent_dim: output size of the head.

    Attributes of the class:

    views, view_defaults: kind of views, and values of view options that replace the defaults of this kind.
    follows: setting -> view option. If a user sets only the view option, the setting gets the same value.
    encoder: class of the encoder, if the loss needs more than the embeddings of views.
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
            value = getattr(self, name, 1)  # objectives without this setting pass the check
            if not value > 0:
                raise FungiError(f"{self.name}.{name} has to be larger than 0, not {value}.")

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """Return name -> fixed random head, the same for all datasets. Default: one head, `[d]` -> `[latent_dim]`."""
        return nn.ModuleDict({"head": random_linear(embedding_dim, self.latent_dim, seed, self.name)})

    def loss(self, encoded: Encoded, heads: nn.ModuleDict, support: Support) -> Float[Tensor, " b"]:
        """Return one loss per sample from the output of the encoder.

        The output has `pooled` `[b v d]`, and `patches` if the class sets `encoder`. A loss with several heads or with
        tokens overrides this method. Other losses only define `latent_loss`.
        """
        return self.latent_loss(self.latents(encoded.pooled, heads["head"]), support)

    def latent_loss(self, latents: Float[Tensor, "b v l"], support: Support) -> Float[Tensor, " b"]:
        """Return one loss per sample from the outputs of the head. Most objectives define this method."""
        raise NotImplementedError

    def support(self, train: Samples, embed: Embed, heads: nn.ModuleDict, seed: int) -> Support:
        """Return supporting data from the training split. By default, an objective has none."""
        return {}

    @property
    def view_kind(self) -> str:
        """Kind of views for these settings."""
        return self.views

    def support_views(self, views: ViewGenerator) -> ViewGenerator:
        """Return the views that `support` embeds. By default, they are the views of the loss."""
        return views

    def check_views(self, views: ViewGenerator) -> None:
        """Raise FungiError if the loss is not defined for these views or has no gradient. Default: accept all views."""

    @property
    def needs_support(self) -> bool:
        """Whether the objective has supporting data, so that `support` has to be called with a training split."""
        return type(self).support is not Objective.support

    def latents(self, embeddings: Float[Tensor, "*b d"], head: nn.Module) -> Float[Tensor, "*b l"]:
        """Return the latents of embeddings.

        The settings determine whether embeddings are normalised, and whether the head is applied.
        """
        vectors = normalize(embeddings, dim=-1) if self.normalize else embeddings
        return head(vectors) if self.project else vectors


def objective_of_class(class_name: str) -> type[Objective] | None:
    """Return the objective with this class name; None if there is no such objective."""
    return next((OBJECTIVES[name] for name in OBJECTIVES if OBJECTIVES[name].__name__ == class_name), None)


def register(objective: type[Objective]) -> type[Objective]:
    """Add an objective to the registry (class decorator). The objective must have the same name as its file."""
    return OBJECTIVES.register(objective.name, objective)
