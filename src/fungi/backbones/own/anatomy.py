"""Find out the structure of an unknown model by one forward pass on torch's meta device, which computes no numbers.

The gradient source is the last attention output projection that is called (the layer of the paper) or, if there is
none, the last linear or convolution layer that is called. Not used as a source: layers that are called twice for one
image, convolutions that do not pad with zeros, shortcuts, and the gates of squeeze-and-excitation.
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


@dataclass(frozen=True)
class Anatomy:
    """Structure of a model.

    pooling: how the model pools its tokens, if it is known. layer, reason: the gradient source, and why it was chosen.
    weight_shape, bias: of the gradient source. flops: floating-point operations of one view.
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
        """The fields of a `BackboneSpec` that follow from the structure."""
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
    """Return the structure of the model that `build` returns. example: shape of one input.

    Raises FungiError if the output is not `[1, d]`, or if the model has no layer to take gradients at.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with torch.device("meta"):
            model = build().eval().requires_grad_(False)
    except (NotImplementedError, RuntimeError):  # the model reads values of tensors while it is built
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
    """Return (path of the layer to take gradients at, reason for the choice). Raises FungiError if there is none.

    called: paths of the layers in the order of their calls in a forward pass.
    """
    once = [path for path in called if called.count(path) == 1]
    if not once:
        raise FungiError(f"a {type(model).__name__} has no linear or convolution layer to take gradients at.")
    known = [path for path in once if path.endswith(OUTPUT_PROJECTIONS)]
    return (known[-1], "last attention output projection") if known else (once[-1], "last layer that is computed")


@contextmanager
def called_layers(model: "nn.Module") -> "Iterator[list[str]]":
    """Collect the paths of the layers that can be gradient sources, in the order in which forward passes call them."""
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
    """Return how a model of timm pools: `token`, `avg` or `map`; empty if the model does not say."""
    pooling = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    return pooling if isinstance(pooling, str) else str(getattr(pooling, "pool_type", ""))
