"""What one forward on torch's meta device, which computes nothing, tells of an unknown model.

Gradient source, in this order: the last attention output projection that is called (the layer of the paper), else the
last linear or convolution layer that is called. Layers that are called twice for one image, convolutions that pad in
other ways than with zeros, short cuts and the gates of squeeze-and-excitation can't be a source.
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
"""How architectures of timm and `transformers` call the output projection of their self-attention."""

SIDE_PATHS = (".se.", ".downsample.", ".shortcut.")


@dataclass(frozen=True)
class Anatomy:
    """Facts of a model: pooling, gradient source and why it is that, embedding size, parameters, work of one view."""

    pooling: str
    layer: str
    reason: str
    weight_shape: tuple[int, ...]
    bias: bool
    embedding_dim: int
    parameters: int
    flops: int

    @property
    def of_spec(self) -> dict[str, Any]:
        """The fields of a `BackboneSpec` that it decides."""
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


def examine(build: Callable[[], "nn.Module"], example: "tuple[int, ...]") -> Anatomy:
    """The anatomy of the model that `build` makes; example: shape of one input.

    Raises FungiError for a model that gives no `[1, d]`, and for one without a layer to take gradients at.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with torch.device("meta"):
            model = build().eval().requires_grad_(False)
    except (NotImplementedError, RuntimeError):  # it reads values of tensors while it is built
        model = build().eval().requires_grad_(False)
    device = next(model.parameters()).device
    with called_layers(model) as called, FlopCounterMode(display=False) as counter, torch.no_grad():
        embedding = model(torch.zeros(example, device=device))
    if not isinstance(embedding, torch.Tensor) or embedding.dim() != 2:
        output = list(embedding.shape) if isinstance(embedding, torch.Tensor) else type(embedding).__name__
        raise FungiError(f"a {type(model).__name__} gives {output} for one input; an embedding [1, d] is needed.")
    path, reason = gradient_source(model, called)
    layer: Any = model.get_submodule(path)
    return Anatomy(
        pooling=_pooling(model),
        layer=path,
        reason=reason,
        weight_shape=tuple(layer.weight.shape),
        bias=layer.bias is not None,
        embedding_dim=embedding.shape[1],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=int(counter.get_total_flops()),
    )


def gradient_source(model: "nn.Module", called: list[str]) -> tuple[str, str]:
    """Path of the layer to take gradients at, and why that; FungiError where there is none.

    called: paths of the layers in the order in which a forward called them.
    """
    once = [path for path in called if called.count(path) == 1]
    if not once:
        raise FungiError(f"a {type(model).__name__} has no linear or convolution layer to take gradients at.")
    known = [path for path in once if path.endswith(OUTPUT_PROJECTIONS)]
    return (known[-1], "last attention output projection") if known else (once[-1], "last layer that is computed")


@contextmanager
def called_layers(model: "nn.Module") -> "Iterator[list[str]]":
    """Within: the list of the paths of the layers that can be gradient sources, as they are called."""
    called: list[str] = []
    hooks = []
    for path, module in model.named_modules():
        if _can_be_source(module) and not any(side in path for side in SIDE_PATHS):
            hooks.append(module.register_forward_hook(lambda *_, path=path: called.append(path)))
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def _can_be_source(module: Any) -> bool:
    from torch import nn

    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def _pooling(model: Any) -> str:
    """How a model of timm pools: `token`, `avg`, `map`; empty where it does not say."""
    pooling = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    return pooling if isinstance(pooling, str) else str(getattr(pooling, "pool_type", ""))
