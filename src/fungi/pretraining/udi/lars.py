"""LARS as in the reference (spec udi 7.6).

timm's LARS divides by |g| + wd |w|, and does not scale the steps of tensors without weight decay.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

TRUST = 0.001


def norms_of(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the norm of each tensor, on the device. A tensor is a list of its parts."""
    norms = iter(torch._foreach_norm([part for parts in tensors for part in parts]))
    grouped = [[next(norms) for _ in parts] for parts in tensors]
    return [own[0] if len(own) == 1 else torch.linalg.vector_norm(torch.stack(own)) for own in grouped]


class Lars(torch.optim.Optimizer):
    """SGD with momentum. The step of each tensor is scaled by 0.001 |w| / |g + wd w|, except for vectors.

    tensors: the parameters, grouped into tensors that are scaled together. If `found_inf`, a scalar on the device, is
    not 0, a step changes nothing, as in torch's fused optimisers.
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
        moved = [parts for tensor in self._tensors if (parts := [part for part in tensor if part.grad is not None])]
        updates = [[_decayed(part, groups[part]["weight_decay"]) for part in parts] for parts in moved]
        for parts, steps, weight, norm in zip(moved, updates, norms_of(moved), norms_of(updates), strict=True):
            ratio = torch.where((weight > 0) & (norm > 0), TRUST * weight / norm, 1.0)
            for part, step in zip(parts, steps, strict=True):
                self._move(part, step * ratio if part.ndim > 1 else step, groups[part])

    def _move(self, parameter: nn.Parameter, update: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
        momentum = buffer * group["momentum"] + update
        if self.found_inf is not None:
            momentum = torch.where(self.found_inf > 0, buffer, momentum)
            parameter.add_(torch.where(self.found_inf > 0, 0.0, momentum), alpha=-group["lr"])
        else:
            parameter.add_(momentum, alpha=-group["lr"])
        buffer.copy_(momentum)


def _decayed(parameter: nn.Parameter, weight_decay: float) -> Tensor:
    """Return the gradient with the derivative of the weight decay added; vectors do not decay."""
    assert parameter.grad is not None
    return parameter.grad.add(parameter, alpha=weight_decay) if parameter.ndim > 1 else parameter.grad
