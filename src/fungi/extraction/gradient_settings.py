"""Settings of the gradient stage, `extract_gradients.py`."""

import ast
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fungi.errors import FungiError, unknown_name
from fungi.extraction.generate_projection_matrix import LARGEST_PROJECTION
from fungi.extraction.stage import StageSettings
from fungi.objectives import OBJECTIVES
from fungi.settings import require_different_values, setting
from fungi.store.layout import EMBEDDINGS
from fungi.views.plans import OPTIONS as PLAN_OPTIONS
from fungi.views.plans import PUBLISHED, PlanName

NO_PROJECTION = "none"
"""Value of --projection-kind for gradients that are not projected."""

if TYPE_CHECKING:
    from fungi.store.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class GradientSettings(StageSettings):
    """Settings of the gradient stage: the settings of every extraction, and objectives, layers and projection."""

    objective: tuple[str, ...] = setting(
        ("kl", "dino", "simclr"), "objectives: names of `fungi list objectives`", topic="features"
    )
    with_embeddings: bool = setting(
        False, "also write the embeddings; each image is decoded only once", affects="which_results", topic="features"
    )
    layer: tuple[str, ...] = setting(
        (), "target layers as path.to.layer:name; default: the layer of the backbone", topic="features"
    )
    projection_matrix: tuple[Path, ...] = setting(
        (),
        "projection matrices: files of `fungi projection`, one for each gradient size of the target layers",
        topic="features",
    )
    projection_dim: int = setting(
        0,
        "size p of a projected gradient, for a new matrix; 0: the projection size that the backbone defines",
        within=(0, LARGEST_PROJECTION),
        topic="features",
    )
    projection_kind: str = setting(
        "binary",
        "kind of a new matrix: binary, gaussian, sparse or khatri-rao; none: do not project gradients",
        topic="features",
    )
    residual_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "dtype of the residual stream of a ViT before the target layer, for --dtype bfloat16; bfloat16 is faster and"
        " rounds more",
        topic="machine",
    )
    bias: bool = setting(True, "append the gradient of the layer's bias", topic="features")
    views: PlanName = setting(
        PUBLISHED,
        "size of crops and patches: scaled to the input size of the backbone (published), not scaled (native: a quarter"
        " of the forward passes), or not scaled and fewer (budget: a seventh)",
        topic="features",
    )
    set: tuple[str, ...] = setting(
        (), "settings of objectives and views, e.g. simclr.temperature=0.1", topic="features"
    )
    short_cut: bool = setting(
        True,
        "compute the last block only for the token of the embedding, if the model allows it; faster, with equal values",
        affects="nothing",
        topic="features",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.objective:
            raise FungiError("no objective is given. Name some with --objective.")
        require_different_values(self, "objective")
        known = OBJECTIVES.names()
        for name in (*self.objective, *parse_options(self.set)):
            if name not in known:
                raise unknown_name("objective", name, known)
        if self.projection_matrix and (self.projection_dim or self.projection_kind != "binary"):
            raise FungiError(
                "a matrix of --projection-matrix already has a size and a kind: leave out --projection-dim and"
                " --projection-kind."
            )
        if self.projection_kind == NO_PROJECTION and self.projection_dim:
            raise FungiError("--projection-kind none does not project gradients: leave out --projection-dim.")
        for name in parse_options(self.set):
            if name not in self.objective:
                raise FungiError(
                    f"--set names objective {name!r}, but --objective does not ({', '.join(self.objective)})."
                )

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features to extract."""
        return ((EMBEDDINGS,) if self.with_embeddings else ()) + self.objective

    def _identity_settings(self, feature: str) -> dict[str, Any]:
        """Return the settings that change the values of a feature and are known before anything is loaded."""
        if feature == EMBEDDINGS:
            return super()._identity_settings(feature)
        names = ("layer", "bias", "residual_dtype", "projection_kind", "projection_dim", *self._view_settings(feature))
        return {**super()._identity_settings(feature), **{name: getattr(self, name) for name in names}}

    def _view_settings(self, objective: str) -> tuple[str, ...]:
        """Return `("views",)` if the setting `views` changes the views of the objective, else `()` (for KL)."""
        kind = OBJECTIVES[objective].views
        is_in_a_plan = any(kind in options_by_kind for options_by_kind in PLAN_OPTIONS.values())
        return ("views",) if is_in_a_plan else ()

    def difference_from(self, provenance: "Provenance") -> str:
        """Return a sentence with the first setting that differs from the provenance of a file, or an empty text.

        Options of other objectives do not count.
        """
        options = _options_of(provenance.feature, self.set)
        stored_options = _options_of(provenance.feature, provenance.settings.get("set", ()))
        if options != stored_options:
            return f"{provenance.feature} was computed with --set {stored_options}, not {options}"
        return super().difference_from(provenance)

    def default_matrix(self, projection_dim: int, shape: tuple[int, int]) -> tuple[int, Path]:
        """Return the size p and the file of the default matrix for a gradient of this shape.

        projection_dim: projection size that the backbone defines, used if the settings name no size.

        Gradients with the same number of entries share a matrix, except for khatri-rao, whose matrices depend on the
        shape.
        """
        size = self.projection_dim or projection_dim
        width = "x".join(map(str, shape)) if self.projection_kind == "khatri-rao" else prod(shape)
        return size, self.layout.projection(f"{self.projection_kind}-{size}x{width}-seed{self.seed}")


def _options_of(objective: str, texts: Sequence[str]) -> str:
    """Return the texts of --set that belong to an objective, or `nothing`."""
    return " ".join(text for text in texts if text.partition(".")[0] == objective) or "nothing"


def parse_options(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Parse `("simclr.temperature=0.1", ...)` into `{"simclr": {"temperature": 0.1}}`.

    Values are Python literals or text. Raises FungiError for a text of another form.
    """
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        objective, dot, option = key.partition(".")
        if not equals or not dot:
            raise FungiError(f"--set {text!r} is not OBJECTIVE.OPTION=VALUE, e.g. simclr.temperature=0.1.")
        options.setdefault(objective, {})[option] = value
        with suppress(ValueError, SyntaxError):
            options[objective][option] = ast.literal_eval(value)
    return options
