"""Determine the structure of an unknown model with a forward pass on torch's meta device, which computes no numbers.

The gradient source is the last attention output projection that is called (the layer of the paper). If there is no
output projection, the source is the last linear or convolution layer that is called. Some layers are never the source:
layers that are called twice for an image, convolutions whose padding is not a fixed number of zeros, shortcuts, and
the gates of squeeze-and-excitation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fungi.errors import FungiError

if TYPE_CHECKING:
    from torch import nn

OUTPUT_PROJECTIONS = (
    "attn.proj",
    "attn.out_proj",
    "attn.o",
    "attn.Wo",
    "attention.output.dense",
    "attention.o_proj",
    "attention.out_lin",
    "attention.proj",
    "self_attn.out_proj",
    "self_attn.o_proj",
    "SelfAttention.o",
    "token_mixer.proj",
)
"""Names of the output projection of self-attention in the architectures of timm and `transformers`."""

SIDE_PATHS = (".se.", ".downsample.", ".shortcut.")
"""Parts of the paths of squeeze-and-excitation layers and shortcuts."""


@dataclass(frozen=True)
class ModelStructure:
    """Facts about an unknown model that its `BackboneSpec` needs.

    pooling: type of pooling; empty if it is not known.
    layer, reason: path of the gradient source, and the reason for this choice.
    weight_shape, bias: shape of the weight of the gradient source, and whether the source has a bias.
    embedding_dim, parameters: numbers of entries of the embedding and of parameters of the model.
    flops: floating-point operations for one view.
    """

    pooling: str
    layer: str
    reason: str
    weight_shape: tuple[int, ...]
    bias: bool
    embedding_dim: int
    parameters: int
    flops: int

    @property
    def spec_fields(self) -> dict[str, Any]:
        """Fields of a `BackboneSpec` that depend only on the structure."""
        return {
            "embedding_dim": self.embedding_dim,
            "projection_dim": self.embedding_dim,
            "layer": self.layer,
            "weight_shape": self.weight_shape,
            "bias": self.bias,
            "pca_dim": min(self.embedding_dim, 512),
            "flops": self.flops,
        }

    def __str__(self) -> str:
        return (
            f"gradient source {self.layer} ({self.reason}); {self.parameters / 1e6:.1f} M parameters, "
            f"{self.flops / 1e9:.3g} GFLOP per view"
        )


def model_structure(build: Callable[[], "nn.Module"], input_shape: "tuple[int, ...]") -> ModelStructure:
    """Return the structure of the model that `build` returns. input_shape: shape of a batch with one input.

    Raises FungiError if the output is not `[1, d]`, or if the model has no layer that can be the gradient source.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with torch.device("meta"):
            model = build().eval().requires_grad_(False)
    except (NotImplementedError, RuntimeError):  # building the model needs values of tensors
        model = build().eval().requires_grad_(False)
    device = next(model.parameters()).device
    with record_calls(model) as called_paths, FlopCounterMode(display=False) as counter, torch.no_grad():
        embedding = model(torch.zeros(input_shape, device=device))
    if not isinstance(embedding, torch.Tensor) or embedding.dim() != 2:
        output = list(embedding.shape) if isinstance(embedding, torch.Tensor) else type(embedding).__name__
        raise FungiError(f"a {type(model).__name__} returns {output} for one input; an embedding [1, d] is needed.")
    path, reason = gradient_source(model, called_paths)
    layer: Any = model.get_submodule(path)
    return ModelStructure(
        pooling=_pooling(model),
        layer=path,
        reason=reason,
        weight_shape=tuple(layer.weight.shape),
        bias=layer.bias is not None,
        embedding_dim=embedding.shape[1],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=int(counter.get_total_flops()),
    )


def gradient_source(model: "nn.Module", called_paths: list[str]) -> tuple[str, str]:
    """Return (path of the gradient source, reason for the choice). Raises FungiError if no layer can be the source.

    called_paths: paths of the layers in the order of their calls in a forward pass.
    """
    candidates = [path for path in called_paths if called_paths.count(path) == 1]
    if not candidates:
        raise FungiError(f"a {type(model).__name__} has no linear or convolution layer to take gradients at.")
    output_projections = [path for path in candidates if path.endswith(OUTPUT_PROJECTIONS)]
    if output_projections:
        return output_projections[-1], "last attention output projection"
    return candidates[-1], "last layer that is computed"


@contextmanager
def record_calls(model: "nn.Module") -> "Iterator[list[str]]":
    """Yield a list. During the `with` statement, forward passes append the paths of the called layers to this list.

    The list contains only layers that can be gradient sources.
    """
    called_paths: list[str] = []
    hooks = []
    for path, module in model.named_modules():
        if _can_be_source(module) and not any(part in path for part in SIDE_PATHS):
            hooks.append(module.register_forward_hook(lambda *_, path=path: called_paths.append(path)))
    try:
        yield called_paths
    finally:
        for hook in hooks:
            hook.remove()


def _can_be_source(module: Any) -> bool:
    """Return whether a module is a linear layer, or a convolution whose padding is a fixed number of zeros."""
    from torch import nn

    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def _pooling(model: Any) -> str:
    """Return the type of pooling of a model of timm, for example `token`, `avg` or `map`; empty if it is unknown."""
    pooling = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    return pooling if isinstance(pooling, str) else str(getattr(pooling, "pool_type", ""))
