"""Build the engine for a model of the user from its target layers, its embedding size and the projections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fungi.errors import FungiError
from fungi.gradients.capture import Capture, frozen
from fungi.gradients.engine import GradientEngine
from fungi.gradients.khatri_rao import make_projector
from fungi.gradients.projection import ProjectionMatrix, draw_projection, from_entries, product_dtype
from fungi.gradients.projection_memory import require_memory
from fungi.gradients.targets import Target, find_targets
from fungi.runtime.device import default_torch_settings

Projection = Shaped[Tensor, "p g"] | ProjectionMatrix | str
ProjectionArgument = Projection | Mapping[str, Projection] | None
_SOLUTION = 'Pass projection="khatri-rao", which needs little memory, or choose another target_layer.'


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the extraction that do not depend on the model.

    projection: a matrix for all layers, the name of a kind of random matrices, or layer name -> one of these. None
        means the kind `binary`. Random matrices are drawn with `seed`, and their p is the width of the model
        (`width_of`).
    views_per_forward: as in `GradientEngine`. bias: append the gradient of the bias.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    projection: ProjectionArgument = None
    seed: int = 42
    views_per_forward: int = 0
    bias: bool = True


@default_torch_settings()
def assemble_engine(
    model: nn.Module, layers: Sequence[str], embedding_dim: int, settings: EngineSettings
) -> GradientEngine:
    """Return the engine of a model. Raises FungiError if a layer or a projection does not fit the model."""
    targets = find_targets(model, tuple(layers), bias=settings.bias)
    if not targets:
        raise FungiError("no target layer is given. Name at least one layer, for example blocks.11.attn.proj.")
    width = width_of(model, embedding_dim)
    shared: dict[tuple[int, tuple[int, int]], ProjectionMatrix] = {}
    matrices = {target.name: _matrix(target, width, settings, shared) for target in targets}
    views = settings.views_per_forward
    return build_engine(model, targets, matrices, device=settings.device, dtype=settings.dtype, views_per_forward=views)


@default_torch_settings()
def build_engine(
    model: nn.Module,
    targets: Sequence[Target],
    matrices: Mapping[str, ProjectionMatrix],
    *,
    device: torch.device,
    dtype: torch.dtype,
    **options: Any,
) -> GradientEngine:
    """Return the engine for these targets. Their projections are on the device, in the dtype of the products.

    matrices: target name -> projection matrix. Targets with the same matrix share a projector.
    options: further arguments of `GradientEngine`.
    """
    distinct = {id(matrix): matrix for matrix in matrices.values()}
    projectors = {key: make_projector(matrix, device, product_dtype(dtype)) for key, matrix in distinct.items()}
    projectors_by_name = {name: projectors[id(matrix)] for name, matrix in matrices.items()}
    return GradientEngine(model, targets, projectors_by_name, device=device, dtype=dtype, **options)


def _matrix(
    target: Target,
    projection_dim: int,
    settings: EngineSettings,
    shared: dict[tuple[int, tuple[int, int]], ProjectionMatrix],
) -> ProjectionMatrix:
    """Return the projection of a target.

    shared: (id of the projection argument, shape of the gradient) -> matrix. Layers of equal shape share a random
    matrix, as in the commands.
    Raises FungiError if the settings have no projection for the target.
    """
    projection = settings.projection
    if isinstance(projection, Mapping):
        if target.name not in projection:
            raise FungiError(
                f"there is no projection for layer {target.name!r}. There are projections for {', '.join(projection)}."
            )
        projection = projection[target.name]
    key = (id(projection), target.shape)
    if key not in shared:
        if projection is None or isinstance(projection, str):
            kind, outputs = projection or "binary", target.shape[0]
            require_memory(kind, projection_dim, target.shape, settings.device, settings.dtype, _SOLUTION)
            projection = draw_projection(
                projection_dim, target.gradient_dim, kind=kind, seed=settings.seed, outputs=outputs
            )
        shared[key] = projection if isinstance(projection, ProjectionMatrix) else _matrix_of_signs(projection)
    return shared[key]


def _matrix_of_signs(entries: Shaped[Tensor, "p g"]) -> ProjectionMatrix:
    """Return the matrix with these entries. Raises FungiError for entries other than +1 and -1."""
    if entries.dtype != torch.bool and not bool((entries.abs() == 1).all()):
        raise FungiError(
            "the projection has entries other than +1 and -1. Give its signs, or another kind as a ProjectionMatrix "
            "(fungi.gradients.projection.draw_projection)."
        )
    return from_entries(entries)


def width_of(model: nn.Module, embedding_dim: int) -> int:
    """Return the size p of projected gradients: the width of the model, or the embedding size if no width is known.

    Width and embedding size differ if the model projects embeddings to another space, as in CLIP (spec vision 2.1).
    """
    widths = [getattr(model, name, None) for name in ("embed_dim", "hidden_dim")]
    widths.append(getattr(getattr(model, "config", None), "hidden_size", None))
    return next((width for width in widths if isinstance(width, int)), embedding_dim)


@default_torch_settings()
def embedding_dim_of(model: nn.Module, layers: Sequence[str], images: Float[Tensor, "b c h w"]) -> int:
    """Return the embedding size d. To measure it, run a forward and a backward pass for some images.

    Raises FungiError if the model does not map images to `[b, d]`, or if a layer gets no gradient.
    """
    with frozen(model), torch.enable_grad(), Capture(model, find_targets(model, tuple(layers))) as capture:
        embeddings = _output_of(model, images)
        if hasattr(embeddings, "last_hidden_state"):
            raise FungiError(_ADVICE_FOR_TRANSFORMERS.format(output=type(embeddings).__name__, layer=layers[0]))
        if not isinstance(embeddings, Tensor) or embeddings.dim() != 2:
            output = f"shape {list(embeddings.shape)}" if isinstance(embeddings, Tensor) else type(embeddings).__name__
            raise FungiError(
                f"the model gives {output} for a batch of {len(images)}; embeddings [b, d] are needed. "
                "Remove its classifier, and pool its output if that is tokens or a feature map."
            )
        capture.signals([embeddings], [torch.ones_like(embeddings)], keep_graph=False)  # checks the layers
    return embeddings.shape[1]


def _output_of(model: nn.Module, images: Float[Tensor, "b c h w"]) -> Any:
    """Return the output of the model for images. Raises FungiError if the model does not accept their size."""
    try:
        return model(images)
    except FungiError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise FungiError(
            f"the model fails for images of {list(images.shape[1:])} ({reason}). input_dim is the side of its input."
        ) from error


_ADVICE_FOR_TRANSFORMERS = """the model gives {output}; embeddings [b, d] are needed. Wrap it:
class Encoder(torch.nn.Sequential):
    def forward(self, images):
        return self[0](images).last_hidden_state[:, 0]  # or .pooler_output
FUNGIWrapper(Encoder(model), "0.{layer}", ...)"""
