"""LARS as in the published code (spec udi 7.6).

timm's LARS differs: it divides by |g| + wd |w|, and it does not scale the steps of tensors without weight decay.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

TRUST = 0.001


def norms_of(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the norm of each published tensor, on the device. It is stored as a list of parameters, its parts."""
    norms = iter(torch._foreach_norm([part for parts in tensors for part in parts]))
    part_norms = [[next(norms) for _ in parts] for parts in tensors]
    return [parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts)) for parts in part_norms]


class Lars(torch.optim.Optimizer):
    """SGD with momentum. The step of each tensor is scaled by 0.001 |w| / |g + wd w|, except for vectors.

    tensors: one list of parameters per published tensor (`published_tensors`); they are scaled together.
    found_inf: a scalar on the device; if it is not 0, a step changes nothing, as in torch's fused optimisers.
    """

    found_inf: Tensor | None = None

    def __init__(
        self, groups: list[dict[str, Any]], tensors: Sequence[Sequence[nn.Parameter]], *, momentum: float
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0})
        self._tensors = tensors

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        groups = {parameter: group for group in self.param_groups for parameter in group["params"]}
        tensors = [parts for tensor in self._tensors if (parts := [part for part in tensor if part.grad is not None])]
        gradients = [[_gradient(part, groups[part]["weight_decay"]) for part in parts] for parts in tensors]
        for parts, part_gradients, weight_norm, gradient_norm in zip(
            tensors, gradients, norms_of(tensors), norms_of(gradients), strict=True
        ):
            is_scaled = (weight_norm > 0) & (gradient_norm > 0)
            ratio = torch.where(is_scaled, TRUST * weight_norm / gradient_norm, 1.0)
            for part, gradient in zip(parts, part_gradients, strict=True):
                self._update(part, gradient * ratio if part.ndim > 1 else gradient, groups[part])

    def _update(self, parameter: nn.Parameter, update: Tensor, group: dict[str, Any]) -> None:
        """Add an update to the momentum, and change the parameter by the momentum."""
        state = self.state[parameter]
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
        momentum = buffer * group["momentum"] + update
        if self.found_inf is not None:
            momentum = torch.where(self.found_inf > 0, buffer, momentum)
            parameter.add_(torch.where(self.found_inf > 0, 0.0, momentum), alpha=-group["lr"])
        else:
            parameter.add_(momentum, alpha=-group["lr"])
        buffer.copy_(momentum)


def _gradient(parameter: nn.Parameter, weight_decay: float) -> Tensor:
    """Return the gradient plus the derivative of the weight decay. Vectors have no weight decay."""
    assert parameter.grad is not None
    return parameter.grad.add(parameter, alpha=weight_decay) if parameter.ndim > 1 else parameter.grad
