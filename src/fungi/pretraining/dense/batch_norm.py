"""Batch normalisation with the statistics of all processes, on GPUs and on CPUs."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.pretraining.processes import World


def synchronised(model: nn.Module, world: World, device: torch.device) -> Any:
    """Return the model on its device. Several processes share the statistics of their batch normalisation."""
    if world.size > 1:
        if device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = _SynchronisedNorm  # torch's SyncBatchNorm is only for GPUs
    return model.to(device)


class _Sum(torch.autograd.Function):
    """Autograd function that sums over processes.

    Its gradient is also a sum over processes, because the losses of all processes depend on the sum.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    backward = forward


class _SynchronisedNorm(nn.BatchNorm2d):
    """Batch normalisation that uses the maps of all processes in training."""

    def forward(self, maps: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c y x"]:
        """Return normalised maps. In training, use the mean and variance of the maps of all processes.

        Maps of 16-bit numbers are normalised in float32, as torch does, and returned in their own dtype.
        """
        if not self.training:
            return super().forward(maps)
        dtype = maps.dtype
        maps = maps.to(torch.promote_types(dtype, torch.float32))
        count = _Sum.apply(torch.tensor(float(maps[:, 0].numel())))
        mean = _Sum.apply(maps.sum((0, 2, 3))) / count
        centred = maps - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        unbiased_variance = variance * count / (count - 1)  # as in torch, only for the moving average
        for moving_average, value in ((self.running_mean, mean), (self.running_var, unbiased_variance)):
            assert moving_average is not None
            moving_average.lerp_(value.detach(), self.momentum or 0.0)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(dtype)
