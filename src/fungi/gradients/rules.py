"""The gradient of a layer's weight for each sample, as a pure function of what went in and what came back.

With inputs `a_s` and signals `delta_s = dL/d(output_s)` at positions s (views x tokens of one sample),

    grad_W = sum_s delta_s a_s^T,    grad_b = sum_s delta_s,

one matrix product per sample: neither per-view nor per-token gradients are ever formed (spec vision 5).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import unfold

from fungi.errors import FungiError


def outer_products(
    activations: Float[Tensor, "b s i"], signals: Float[Tensor, "b s o"], bias: bool
) -> Float[Tensor, "b o i_and_bias"]:
    """`[b o s] x [b s i] -> [b o i]`, in float32, with the bias gradient as a last column where asked for."""
    activations, signals = activations.float(), signals.float()
    weight = torch.bmm(signals.transpose(1, 2), activations)
    return torch.cat([weight, signals.sum(dim=1).unsqueeze(2)], dim=2) if bias else weight


def linear_gradient(
    layer: Any, activations: Float[Tensor, "m *t i"], signals: Float[Tensor, "m *t o"], samples: int, bias: bool
) -> Float[Tensor, "b o i_and_bias"]:
    """Gradient of a linear layer: `[b*v t i] -> [b v*t i]`, then outer products."""
    positions = activations.reshape(samples, -1, activations.shape[-1])
    back = signals.reshape(samples, -1, signals.shape[-1])
    return outer_products(positions, back, bias)


def convolution_gradient(
    layer: Any,
    activations: Float[Tensor, "m c h w"],
    signals: Float[Tensor, "m o y x"],
    samples: int,
    bias: bool,
) -> Float[Tensor, "b o i_and_bias"]:
    """Gradient of a convolution: the inputs under the kernel are the activations of a position; groups are blocks."""
    columns = unfold(
        activations, layer.kernel_size, dilation=layer.dilation, padding=_padding(layer), stride=layer.stride
    )  # [m c*kh*kw y*x]
    out, groups = signals.shape[1], layer.groups
    if columns.shape[2] != signals.shape[2] * signals.shape[3]:
        raise FungiError(f"a {type(layer).__name__} pads its input by itself: its gradient is not supported.")
    inner = columns.shape[1] // groups
    columns = _per_sample(columns.unflatten(1, (groups, inner)), samples)  # [b g s i]
    back = _per_sample(signals.flatten(2).unflatten(1, (groups, out // groups)), samples)  # [b g s o]
    blocks = outer_products(columns.flatten(0, 1), back.flatten(0, 1), bias)  # [b*g o/g i+1]
    return blocks.reshape(samples, out, -1)


def _per_sample(values: Float[Tensor, "m g f s"], samples: int) -> Float[Tensor, "b g vs f"]:
    """`[b*v g f s] -> [b g v*s f]`."""
    by_sample = values.unflatten(0, (samples, -1))  # [b v g f s]
    return by_sample.permute(0, 2, 1, 4, 3).flatten(2, 3)


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    if isinstance(layer.padding, str):
        raise FungiError(f"a convolution with padding={layer.padding!r} is not supported; use one with numbers.")
    if layer.padding_mode != "zeros":
        raise FungiError(f"a convolution with padding_mode={layer.padding_mode!r} is not supported; use zeros.")
    return layer.padding


Rule = Callable[[Any, Tensor, Tensor, int, bool], Tensor]
RULES: dict[type[nn.Module], Rule] = {nn.Linear: linear_gradient, nn.Conv2d: convolution_gradient}


def rule_for(module: nn.Module) -> Rule | None:
    """The rule of a layer's type; None where the type is not supported."""
    return next((rule for kind, rule in RULES.items() if isinstance(module, kind)), None)
