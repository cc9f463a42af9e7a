"""How parameters move: schedules, groups, clipping, the frozen last layer, the teacher's average (spec udi 5).

Warm-ups that are longer than the run are cut to it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.pretraining.udi.choices import Optimizer


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """With and without weight decay: vectors and biases have none, everything else (tokens, positions) has."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim == 1 or name.endswith(".bias") else decayed).append(parameter)
    return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]


def build_optimizer(kind: Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser; rates and weight decay are set before every step."""
    groups = parameter_groups(network)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9)
    if kind == "lars":
        from timm.optim import Lars

        return Lars(groups, lr=0.0, momentum=0.9)
    return torch.optim.AdamW(groups, lr=0.0, fused=True)  # one pass over all states; some twenty otherwise


def set_rates(optimizer: torch.optim.Optimizer, rate: float, weight_decay: float) -> None:
    """The rate of this step, and the decay of the first group."""
    for place, group in enumerate(optimizer.param_groups):
        group["lr"] = rate
        if place == 0:
            group["weight_decay"] = weight_decay


def clip_each(parameters: Iterable[nn.Parameter], limit: float) -> Float[Tensor, ""]:
    """Scale each tensor's gradient to a norm of at most `limit` (0: leave it); the largest norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch._foreach_norm(gradients)
    if limit:
        torch._foreach_mul_(gradients, [(limit / (norm + 1e-6)).clamp(max=1.0) for norm in norms])
    return torch.stack(norms).max()


def drop_last_layer_gradients(network: nn.Module) -> None:
    """The last layer stays as it is in this step."""
    for name, parameter in network.named_parameters():
        if "last_layer" in name:
            parameter.grad = None


@torch.no_grad()
def move_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """`teacher <- m teacher + (1 - m) student`, all parameters; buffers are not averaged."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
