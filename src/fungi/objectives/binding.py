"""An objective with its views, heads and supporting data, ready for the engine."""

import dataclasses
import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded
from fungi.errors import FungiError, did_you_mean, listed
from fungi.objectives import OBJECTIVES
from fungi.objectives.base import Objective, Support, support_on
from fungi.runtime.device import default_torch_settings
from fungi.values import converted
from fungi.views.base import HasStream, InputSpec, ModalityDefaults, NoViewsError, UnknownOptionError, ViewGenerator
from fungi.views.plans import AS_PUBLISHED, PUBLISHED, ViewPlan


@dataclass(frozen=True)
class BoundObjective:
    """An objective with its views, heads and supporting data. The method `loss` needs only the output of the encoder.

    plan: name of the view plan that has exactly these views. If options of the user change the views, the name is
        `published`, and `settings` contains the options.
    scaling: name of the method that scales position embeddings (`backbones.position_embedding.scaling_of`); empty if
        no view is smaller than the input.
    """

    objective: Objective
    views: ViewGenerator
    heads: nn.ModuleDict
    support: Support = field(default_factory=dict)
    plan: str = PUBLISHED
    scaling: str = ""

    @property
    def name(self) -> str:
        """Name of the objective."""
        return self.objective.name

    def loss(self, encoded: Encoded) -> Float[Tensor, " b"]:
        """Return one loss per sample."""
        return self.objective.loss(encoded, self.heads, self.support)

    def with_support(self, support: Support) -> "BoundObjective":
        """Return the same objective with its supporting data."""
        return replace(self, support=support)

    def to(self, device: torch.device) -> "BoundObjective":
        """Return the same objective on a device."""
        return replace(self, heads=self.heads.to(device), support=support_on(device, self.support))

    @property
    def support_views(self) -> ViewGenerator:
        """Views from which the supporting data are computed."""
        return self.objective.support_views(self.views)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of objective and views, for provenance."""
        scaling = {"position_embeddings": self.scaling} if self.scaling else {}
        return settings_of(self.objective, self.views) | scaling

    @property
    def support_hash(self) -> str:
        """SHA-256 of the supporting data; empty if there are no supporting data."""
        if not self.support:
            return ""
        digest = hashlib.sha256()
        for name in sorted(self.support):
            digest.update(name.encode() + self.support[name].cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@default_torch_settings()
def bind(
    name: str,
    *,
    embedding_dim: int,
    input_spec: InputSpec,
    seed: int,
    options: dict[str, Any] | None = None,
    plan: ViewPlan = AS_PUBLISHED,
) -> BoundObjective:
    """Return an objective with its views and heads.

    options: values for settings of the objective or its views; these values override the view plan. Raises FungiError
    for an unknown objective or option.
    """
    objective, views, plan_name = configure(name, input_spec, options, plan)
    return BoundObjective(objective, views, objective.heads(embedding_dim, seed), plan=plan_name)


def settings_of(objective: Objective, views: ViewGenerator) -> dict[str, Any]:
    """Return the settings of an objective and its views, for provenance."""
    return {**vars(objective), "views": views.identity}


def configure(
    name: str, input_spec: InputSpec, options: dict[str, Any] | None = None, plan: ViewPlan = AS_PUBLISHED
) -> tuple[Objective, ViewGenerator, str]:
    """Return an objective, its views and the name of its view plan (see `BoundObjective`).

    The arguments are those of `bind`. Raises FungiError for an unknown objective or option, and NoViewsError if the
    input has no views for the objective.
    """
    objective_type = OBJECTIVES[name]
    fields = {field.name for field in dataclasses.fields(objective_type)}
    defaults = input_spec.objective_defaults(name) if isinstance(input_spec, ModalityDefaults) else {}
    all_options = {**defaults, **(options or {})}
    follows = objective_type.follows
    following_settings = {setting: all_options[option] for setting, option in follows.items() if option in all_options}
    all_options = following_settings | all_options
    settings = {key: value for key, value in all_options.items() if key in fields}
    view_options = {key: value for key, value in all_options.items() if key not in settings}
    try:
        objective = objective_type(**converted(objective_type, settings))
        plan_options = objective.view_defaults | plan.options(objective.view_kind, input_spec)
        views = input_spec.views(objective.view_kind, **plan_options | view_options)
        objective.check_views(views)
        follows_plan = bool(plan_options) and views == input_spec.views(objective.view_kind, **plan_options)
    except NoViewsError as error:
        option = next((key for key, value in (options or {}).items() if value == objective.view_kind), None)
        if option:  # the user chose this kind of views
            raise FungiError(f"objective {name}: option {option!r}: {error}") from None
        raise NoViewsError(f"objective {name} has no views for {input_spec.modality}.") from None
    except UnknownOptionError as error:
        known = sorted(fields.union(error.known))
        hint = did_you_mean(error.option, known) or f" It has: {listed(known)}."
        raise FungiError(f"objective {name} has no option {error.option!r}.{hint}") from None
    except FungiError as error:
        raise FungiError(f"objective {name}: {error}") from None
    if isinstance(views, HasStream):  # the seed of random views also depends on the name of the objective
        random_views: Any = views
        views = replace(random_views, stream=name)
    return objective, views, plan.name if follows_plan else PUBLISHED
