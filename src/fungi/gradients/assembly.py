"""An engine for somebody's model: which layers, how large the embedding is, which projections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fungi.errors import FungiError
from fungi.gradients.capture import Capture
from fungi.gradients.engine import GradientEngine
from fungi.gradients.freezing import frozen
from fungi.gradients.khatri_rao import make_projector
from fungi.gradients.projection import ProjectionMatrix, Projector, draw_projection, from_entries, product_dtype
from fungi.gradients.targets import Target, find_targets

VIEWS_PER_FORWARD = {"cpu": 64, "cuda": 1024}
"""Views that are encoded at once where nobody says otherwise."""

Projection = Shaped[Tensor, "p g"] | ProjectionMatrix
GivenProjection = Projection | Mapping[str, Projection] | None


@dataclass(frozen=True)
class EngineSettings:
    """How to extract, whatever the model.

    projection: one matrix for all layers, or one per layer name; None draws them: binary, from `seed`, with p =
        the model's width (`width_of`).
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    projection: GivenProjection = None
    seed: int = 42
    views_per_forward: int = 0
    bias: bool = True


def assemble_engine(
    model: nn.Module, layers: Sequence[str], embedding_dim: int, settings: EngineSettings
) -> GradientEngine:
    """The engine of a model; FungiError for a layer that can't be a source, or a projection that does not fit."""
    targets = find_targets(model, tuple(layers), bias=settings.bias)
    if not targets:
        raise FungiError("no target layer is given. Name one, as in blocks.11.attn.proj.")
    drawn: dict[tuple[int, tuple[int, int]], Projector] = {}
    return GradientEngine(
        model,
        targets,
        {target.name: _projector(target, width_of(model, embedding_dim), settings, drawn) for target in targets},
        device=settings.device,
        dtype=settings.dtype,
        views_per_forward=settings.views_per_forward or VIEWS_PER_FORWARD.get(settings.device.type, 64),
    )


def _projector(
    target: Target, projection_dim: int, settings: EngineSettings, drawn: dict[tuple[int, tuple[int, int]], Projector]
) -> Projector:
    """The given projection of a target, or the usual one; layers of one size share a matrix, as in the stages."""
    given = settings.projection
    if isinstance(given, Mapping):
        if target.name not in given:
            raise FungiError(f"there is no projection for layer {target.name!r}. Given: {', '.join(given)}.")
        given = given[target.name]
    key = (id(given), target.shape)
    if key not in drawn:
        if given is None:
            given = draw_projection(projection_dim, target.gradient_dim, seed=settings.seed)
        matrix = given if isinstance(given, ProjectionMatrix) else _signs(given)
        drawn[key] = make_projector(matrix, settings.device, product_dtype(settings.dtype))
    return drawn[key]


def _signs(given: Shaped[Tensor, "p g"]) -> ProjectionMatrix:
    """A matrix that a caller gives as it is; FungiError for entries other than +1 and -1."""
    if given.dtype != torch.bool and not bool((given.abs() == 1).all()):
        raise FungiError(
            "the projection has entries other than +1 and -1. Give its signs, or another kind as a ProjectionMatrix "
            "(fungi.gradients.projection.draw_projection)."
        )
    return from_entries(given)


def width_of(model: nn.Module, embedding_dim: int) -> int:
    """Size p of projected gradients: the model's own width where it says so, else that of its embedding.

    They differ where embeddings are projected to another space, as CLIP's are (spec vision 2.1).
    """
    widths = [getattr(model, name, None) for name in ("embed_dim", "hidden_dim")]
    widths.append(getattr(getattr(model, "config", None), "hidden_size", None))
    return next((width for width in widths if isinstance(width, int)), embedding_dim)


def embedding_dim_of(model: nn.Module, layers: Sequence[str], images: Float[Tensor, "b c h w"]) -> int:
    """d, found by a trial with some images.

    FungiError where the model does not map images to `[b, d]`, or where a layer gets no gradient.
    """
    with frozen(model), torch.enable_grad(), Capture(model, find_targets(model, tuple(layers))) as capture:
        embeddings = model(images)
        if not isinstance(embeddings, Tensor) or embeddings.dim() != 2:
            found = f"shape {list(embeddings.shape)}" if isinstance(embeddings, Tensor) else type(embeddings).__name__
            raise FungiError(
                f"the model gives {found} for {len(images)} images; embeddings [b, d] are needed. "
                "Leave out its classifier, and pool where it returns tokens or a feature map."
            )
        capture.signals([embeddings], [torch.ones_like(embeddings)], keep_graph=False)
    return embeddings.shape[1]
