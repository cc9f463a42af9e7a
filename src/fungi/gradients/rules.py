"""Terms of the gradient for each type of layer, from activations and signals.

Activations are the inputs of the layer. Signals are the derivatives with respect to the outputs of the layer.

Axes: m views of b samples, v views per sample, s positions.

Arguments of all rules: `samples` is the number of samples, b. `bias` appends the gradient of the bias.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import unfold

from fungi.errors import FungiError
from fungi.gradients.terms import Terms


def linear_terms(
    layer: Any, activations: Float[Tensor, "m *t i"], signals: Float[Tensor, "m *t o"], samples: int, bias: bool
) -> Terms:
    """Return the terms of a linear layer. Positions are the tokens of all views of a sample: `[b 1 v*t i]`."""
    return Terms(
        signals.reshape(samples, 1, -1, signals.shape[-1]),
        activations.reshape(samples, 1, -1, activations.shape[-1]),
        bias,
    )


def convolution_terms(
    layer: Any, activations: Float[Tensor, "m c h w"], signals: Float[Tensor, "m o y x"], samples: int, bias: bool
) -> Terms:
    """Return the terms of a convolution.

    The activations of a position are the patch of the input under the kernel. Axis g: groups of the convolution.
    Raises FungiError for a convolution with an unsupported padding.
    """
    columns = unfold(
        activations, layer.kernel_size, dilation=layer.dilation, padding=_padding(layer), stride=layer.stride
    )  # [m c*kh*kw y*x]
    outputs, groups = signals.shape[1], layer.groups
    if columns.shape[2] != signals.shape[2] * signals.shape[3]:
        raise FungiError(f"a {type(layer).__name__} that pads its input itself is not supported. Choose another layer.")
    return Terms(
        _per_sample(signals.flatten(2).unflatten(1, (groups, outputs // groups)), samples),  # [b g s o]
        _per_sample(columns.unflatten(1, (groups, columns.shape[1] // groups)), samples),  # [b g s i]
        bias,
    )


def _per_sample(values: Float[Tensor, "m g f s"], samples: int) -> Float[Tensor, "b g vs f"]:
    """Return `[b*v g f s]` as `[b g v*s f]`: the positions of all views of a sample are on one axis."""
    by_sample = values.unflatten(0, (samples, -1))  # [b v g f s]
    return by_sample.permute(0, 2, 1, 4, 3).flatten(2, 3)


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    """Return the padding of a convolution. Raises FungiError unless the padding is a fixed number of zeros."""
    if isinstance(layer.padding, str):
        raise FungiError(f"a convolution with padding={layer.padding!r} is not supported; use numbers.")
    if layer.padding_mode != "zeros":
        raise FungiError(f"a convolution with padding_mode={layer.padding_mode!r} is not supported; use zeros.")
    return layer.padding


Rule = Callable[[Any, Tensor, Tensor, int, bool], Terms]
RULES: dict[type[nn.Module], Rule] = {nn.Linear: linear_terms, nn.Conv2d: convolution_terms}


def rule_for(module: nn.Module) -> Rule | None:
    """Return the function in `RULES` for the type of a layer; None if the type is not supported."""
    return next((rule for kind, rule in RULES.items() if isinstance(module, kind)), None)
