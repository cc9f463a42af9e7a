"""Configurations of the extractors of the library.

KL, DINO and SimCLR have dataclasses with the published names. For every other objective, `<Objective>Config` is derived
from the objective. A configuration of your own needs only a method `get_extractor(base_params)`. The defaults are the
values of the paper. Some defaults of the published library are different (KL temperature 1, 64 negatives).
"""

from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fungi.values import LARGEST, converted
from fungi.views.base import options_of
from fungi.views.image import KINDS

if TYPE_CHECKING:
    from fungi.gradients.base_extractor import BaseGradientExtractor


_MODEL_OPTIONS = {"patch_size": 0}
"""Options of views that are read from the model if their value is 0."""

_PLAN_OPTIONS = ("global_size", "local_size", "view_size", "patch_side", "per_side")
"""Sizes and numbers of views. If their value is 0, the plan of views (`views` of the wrapper) determines it."""


_AT_LEAST_ONE = {"within": (1, LARGEST)}
_ANY_NUMBER = {"within": (-inf, inf)}


class ExtractorConfig:
    """Base of the configurations of this module. extractor: name of the extractor in `fungi.gradients`."""

    extractor: ClassVar[str]

    def get_extractor(self, base_params: dict[str, Any]) -> "BaseGradientExtractor":
        """Return the extractor for these settings. base_params: arguments that all extractors of a wrapper share.

        Raises FungiError for a value of another type, or outside the bounds of its field.
        """
        gradients, config_type = import_module("fungi.gradients"), type(self)
        settings = {setting.name: getattr(self, setting.name) for setting in fields(self)}  # type: ignore[arg-type]
        settings = converted(config_type, settings, label=(config_type.__name__ + "({}=...)").format)
        settings = {name: value for name, value in settings.items() if value or name not in _PLAN_OPTIONS}
        return getattr(gradients, self.extractor)(**(base_params | settings))


@dataclass
class KLConfig(ExtractorConfig):
    """Configuration of KL (paper, table 17).

    temperature: temperature of the softmax.
    latent_dim: output size of the head.
    direction: `uniform_to_pred` is the divergence in the published code; `pred_to_uniform` is the divergence in the
        paper.
    normalize: whether to L2-normalise embeddings before the head.
    project: whether to use a head (table 6).
    """

    extractor = "KLGradientsExtractor"

    temperature: float = 15.0
    latent_dim: int = field(default=768, metadata=_AT_LEAST_ONE)
    direction: Literal["uniform_to_pred", "pred_to_uniform"] = "uniform_to_pred"
    normalize: bool = True
    project: bool = True


@dataclass
class DINOConfig(ExtractorConfig):
    """Configuration of DINO (paper, table 17).

    teacher_temperature, student_temperature: temperatures of the softmaxes.
    latent_dim: output size of both heads.
    shared_head: whether teacher and student use the same head.
    augmentation: only `crops`, or all augmentations of `dino` (table 15).
    global_crops, local_crops: numbers of views.
    global_size, local_size: side in pixels of the encoded views; 0: `views` of the wrapper determines it.
    skip_same_view: whether to leave out the pairs of a crop with itself.
    normalize, project: as for KL.
    """

    extractor = "DINOGradientsExtractor"

    teacher_temperature: float = 0.07
    student_temperature: float = 0.1
    latent_dim: int = field(default=2048, metadata=_AT_LEAST_ONE)
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
    """Configuration of SimCLR (paper, table 17).

    temperature: temperature of the softmax.
    self_similarity_constant: not used, but accepted, because calls of the published library pass it. The similarity of
        a view to itself is masked out exactly.
    comparison_batch_size: number of images in the negative batch.
    comparison_batch_encoding_batch_size: number of these images that are encoded together.
    latent_dim: output size of the head.
    num_patches: number of patches without overlap, a square number: 4 is a grid of 2 x 2.
    stride_scale: the stride of the patches is their side / stride_scale; with 6, a grid of 2 x 2 becomes 7 x 7.
    patch_side: side of a patch in pixels; 0: `views` of the wrapper determines it.
    per_side: number of patches along a side of the image; 0: `views` of the wrapper determines it.
    view_size: side in pixels of the encoded views; 0: `views` of the wrapper determines it.
    hard_negatives: PIL images that come first in the negative batch.
    negatives_mixing: whether to mix every view with its `mixing_k` nearest negatives.
    mixing_k: number of negatives to mix with a view.
    exclude_self_from_negatives: whether to leave out negatives of the image itself.
    views: kind of the views: `patches`, `random-crops` or `default`.
    n_views: number of views of the kinds `random-crops` and `default`; without effect for `patches`.
    normalize, project: as for KL.
    """

    extractor = "SimCLRGradientsExtractor"

    temperature: float = 0.07
    self_similarity_constant: float = field(default=-10e3, metadata=_ANY_NUMBER)
    comparison_batch_size: int = field(default=256, metadata=_AT_LEAST_ONE)
    comparison_batch_encoding_batch_size: int = field(default=32, metadata=_AT_LEAST_ONE)
    latent_dim: int = field(default=96, metadata=_AT_LEAST_ONE)
    num_patches: int = field(default=4, metadata=_AT_LEAST_ONE)
    stride_scale: int = 6
    patch_side: int = 0
    per_side: int = 0
    view_size: int = 0
    # Not saved with the configuration: the wrapper saves the complete negative batch.
    hard_negatives: tuple[Any, ...] | list[Any] = field(default=(), metadata={"saved": False})
    negatives_mixing: bool = False
    mixing_k: int = field(default=20, metadata=_AT_LEAST_ONE)
    exclude_self_from_negatives: bool = False
    views: Literal["patches", "random-crops", "default"] = "patches"
    n_views: int = 0
    normalize: bool = False
    project: bool = True


def __getattr__(name: str) -> Any:
    """Return `<Objective>Config` for an objective without a class in this module."""
    if name.endswith("Config"):
        objective = import_module("fungi.objectives.base").objective_of_class(name.removesuffix("Config"))
        if objective is not None:
            return _derive_configuration(objective)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _derive_configuration(objective: Any) -> type[ExtractorConfig]:
    """Return a configuration class with the settings of an objective and the options of its views."""
    settings = {setting.name: (setting.type, setting.default) for setting in fields(objective)}
    options = options_of(KINDS, objective.views) if objective.views in KINDS else {}
    defaults = objective.view_defaults | _MODEL_OPTIONS
    view_settings = {name: (option.type, defaults.get(name, option.default)) for name, option in options.items()}
    documentation = {"__doc__": objective.__doc__, "__module__": __name__}
    bounds = {"latent_dim": _AT_LEAST_ONE}
    return make_dataclass(
        f"{objective.__name__}Config",
        [
            (name, kind, field(default=default, metadata=bounds.get(name)))
            for name, (kind, default) in (view_settings | settings).items()
        ],
        bases=(ExtractorConfig,),
        namespace={"extractor": f"{objective.__name__}GradientsExtractor"} | documentation,
        kw_only=True,
    )
