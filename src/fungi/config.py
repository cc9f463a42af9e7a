"""Configurations of the library's extractors: plain dataclasses under the published names, and for every other
objective one that is derived from it, `<Objective>Config`.

Each has `get_extractor(base_params)`; a configuration of your own needs nothing else. Defaults are the paper's, also
where the published library has others (KL temperature 1, 64 negatives).
"""

from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fungi.values import LARGEST, converted
from fungi.views.base import options_of
from fungi.views.image import KINDS

if TYPE_CHECKING:
    from fungi.gradients.base_extractor import BaseGradientExtractor


_OF_THE_MODEL = {"patch_size": 0}
"""Options of views that are read from the model unless the user sets them."""


_LEFT_TO_THE_PLAN = ("global_size", "local_size", "view_size", "patch_side", "per_side")
"""Sizes and numbers of views that are 0 where the wrapper's `views` decides."""


_FROM_ONE = {"within": (1, LARGEST)}


class ExtractorConfig:
    """Base of the configurations of this module, which name their extractor in `fungi.gradients`."""

    extractor: ClassVar[str]

    def get_extractor(self, base_params: dict[str, Any]) -> "BaseGradientExtractor":
        """Return the extractor, from the arguments that all extractors of a wrapper share and these settings.

        Raises FungiError for a value of another type, or outside the bounds of its field.
        """
        gradients, kind = import_module("fungi.gradients"), type(self)
        settings = {setting.name: getattr(self, setting.name) for setting in fields(self)}  # type: ignore[arg-type]
        settings = converted(kind, settings, called=(kind.__name__ + "({}=...)").format)
        settings = {name: value for name, value in settings.items() if value or name not in _LEFT_TO_THE_PLAN}
        return getattr(gradients, self.extractor)(**(base_params | settings))


@dataclass
class KLConfig(ExtractorConfig):
    """KL (paper, table 17).

    temperature: of the softmax; latent_dim: output size of the head; direction: `uniform_to_pred`, as the published
    code computes it, or `pred_to_uniform`, as the paper prints it; normalize: embeddings before the head; project: use
    a head at all (table 6).
    """

    extractor = "KLGradientsExtractor"

    temperature: float = 15.0
    latent_dim: int = field(default=768, metadata=_FROM_ONE)
    direction: Literal["uniform_to_pred", "pred_to_uniform"] = "uniform_to_pred"
    normalize: bool = True
    project: bool = True


@dataclass
class DINOConfig(ExtractorConfig):
    """DINO (paper, table 17).

    teacher_temperature, student_temperature: of the softmaxes; latent_dim: output size of both heads; shared_head: one
    head for both, augmentation: `crops` alone or the full `dino` recipe (table 15); global_crops, local_crops: numbers
    of views; global_size, local_size: side in pixels at which they are encoded, 0 leaves it to the wrapper's `views`;
    skip_same_view: leave out the pairs of a crop with itself; normalize, project: as for KL.
    """

    extractor = "DINOGradientsExtractor"

    teacher_temperature: float = 0.07
    student_temperature: float = 0.1
    latent_dim: int = field(default=2048, metadata=_FROM_ONE)
    shared_head: bool = False
    augmentation: Literal["crops", "dino"] = "crops"
    global_crops: int = 2
    local_crops: int = 10
    global_size: int = 0
    local_size: int = 0
    skip_same_view: bool = False
    normalize: bool = True
    project: bool = True


@dataclass
class SimCLRConfig(ExtractorConfig):
    """SimCLR (paper, table 17).

    num_patches: patches where they do not overlap, a square number: 4 is a grid of 2 x 2; stride_scale: steps per
    patch side, 6 makes 49 overlapping patches of those 4; patch_side: side of a patch in pixels, per_side: number of
    patches along a side, view_size: side in pixels at which they are encoded, 0 leaves each to the wrapper's `views`;
    comparison_batch_size: images in the negative batch;
    comparison_batch_encoding_batch_size: how many of them are encoded together; self_similarity_constant: taken for the
    sake of published code and not used, a view's similarity to itself is masked out exactly.
    hard_negatives: PIL images that take the first places of the negative batch; negatives_mixing, mixing_k: mix every
    view with its nearest negatives; exclude_self_from_negatives: leave out negatives of the image itself.
    views: `patches`, or `random-crops` or `default` with `n_views` of them.
    """

    extractor = "SimCLRGradientsExtractor"

    temperature: float = 0.07
    self_similarity_constant: float = -10e3
    comparison_batch_size: int = field(default=256, metadata=_FROM_ONE)
    comparison_batch_encoding_batch_size: int = field(default=32, metadata=_FROM_ONE)
    latent_dim: int = field(default=96, metadata=_FROM_ONE)
    num_patches: int = field(default=4, metadata=_FROM_ONE)
    stride_scale: int = 6
    patch_side: int = 0
    per_side: int = 0
    view_size: int = 0
    hard_negatives: tuple[Any, ...] | list[Any] = field(default=(), metadata={"saved": False})  # negatives are saved
    negatives_mixing: bool = False
    mixing_k: int = field(default=20, metadata=_FROM_ONE)
    exclude_self_from_negatives: bool = False
    views: Literal["patches", "random-crops", "default"] = "patches"
    n_views: int = 0
    normalize: bool = False
    project: bool = True


def __getattr__(name: str) -> Any:
    """Return `<Objective>Config` for an objective that has no class above."""
    if name.endswith("Config"):
        objective = import_module("fungi.objectives.base").objective_of_class(name.removesuffix("Config"))
        if objective is not None:
            return _derived(objective)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _derived(objective: Any) -> type[ExtractorConfig]:
    """Return the configuration of an objective: its settings and the options of its views, with the same defaults."""
    settings = {setting.name: (setting.type, setting.default) for setting in fields(objective)}
    options = options_of(KINDS, objective.views) if objective.views in KINDS else {}
    own = objective.view_defaults | _OF_THE_MODEL
    described = {name: (option.type, own.get(name, option.default)) for name, option in options.items()} | settings
    named = {"__doc__": objective.__doc__, "__module__": __name__}
    return make_dataclass(
        f"{objective.__name__}Config",
        [(name, kind, field(default=default)) for name, (kind, default) in described.items()],
        bases=(ExtractorConfig,),
        namespace={"extractor": f"{objective.__name__}GradientsExtractor"} | named,
        kw_only=True,
    )
