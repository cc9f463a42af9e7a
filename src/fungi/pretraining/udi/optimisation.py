"""Update the parameters of student and teacher: optimiser, clipping, moving average (spec udi 5)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.pretraining.udi.choices import Optimizer
from fungi.pretraining.udi.lars import Lars, norms_of


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Return parameter groups with weight decay (matrices, tokens, positions) and without (vectors, biases)."""
    with_decay: list[nn.Parameter] = []
    without_decay: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            group = without_decay if parameter.ndim == 1 or name.endswith(".bias") else with_decay
            group.append(parameter)
    return [{"params": with_decay}, {"params": without_decay, "weight_decay": 0.0}]


def build_optimizer(kind: Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser. Call `set_rates` before every step to set its learning rate and weight decay."""
    groups = parameter_groups(network)
    if kind == "sgd":
        sgd = torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=True)
        # The fused SGD needs the buffers of all parameters, but the first steps may have no gradient of the last layer.
        for group in groups:
            for parameter in group["params"]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    if kind == "lars":
        return Lars(groups, published_tensors(network), momentum=0.9)
    # The fused AdamW reads all states once instead of about twenty times.
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, rate: float, weight_decay: float) -> None:
    """Set the learning rate of all groups, and the weight decay of the first group (the group with weight decay)."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.param_groups[0]["weight_decay"] = weight_decay


def published_tensors(network: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters in groups: each group is one tensor of published checkpoints.

    The class tokens cls and cls+ are one published tensor.
    """
    tensors: dict[str, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        tensors.setdefault(name.replace("reg_token", "cls_token"), []).append(parameter)
    return list(tensors.values())


def clip_each(tensors: Iterable[Sequence[nn.Parameter]], limit: float) -> Float[Tensor, ""]:
    """Clip the gradient of each tensor to a norm of at most `limit`; 0: no clipping. Return the largest original norm.

    A tensor is a sequence of its parts.
    """
    gradients = [parts for tensor in tensors if (parts := [part.grad for part in tensor if part.grad is not None])]
    norms = torch.stack(norms_of(gradients))
    if limit:
        factors = (limit / (norms + 1e-6)).clamp(max=1.0).unbind()  # 1e-6 avoids a division by 0
        part_factors = [factor for factor, parts in zip(factors, gradients, strict=True) for _ in parts]
        torch._foreach_mul_([part for parts in gradients for part in parts], part_factors)
    return norms.max()


def drop_last_layer_gradients(network: nn.Module) -> None:
    """Remove the gradients of the last layer. The step then does not change the layer."""
    for name, parameter in network.named_parameters():
        if "last_layer" in name:
            parameter.grad = None


@torch.no_grad()
def update_teacher(
    teacher: nn.Module, student: nn.Module, momentum: float, halted: Float[Tensor, ""] | None = None
) -> None:
    """Set all parameters of the teacher to `m teacher + (1 - m) student`. Buffers are not averaged.

    halted: a scalar on the device; with 1, the teacher does not change.
    """
    teachers: list[Tensor] = list(teacher.parameters())
    students: list[Tensor] = list(student.parameters())
    if halted is not None:
        pairs = zip(teachers, students, strict=True)
        students = [torch.where(halted > 0, unchanged, new) for unchanged, new in pairs]
    torch._foreach_lerp_(teachers, students, 1 - momentum)
