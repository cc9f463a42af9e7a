"""Batch normalisation over several processes equals torch's batch normalisation of the batch of all processes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fungi.pretraining.dense.batch_norm import synchronised
from fungi.pretraining.processes import World


def _maps(dtype: torch.dtype) -> Tensor:
    """Return random feature maps `[4 5 6 7]`, with mean 3 and standard deviation 2."""
    return (3 + 2 * torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(0))).to(dtype)


def _norm() -> nn.BatchNorm2d:
    """Return a batch normalisation in float32. Its weights and moving averages differ from the initial ones."""
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(5)
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert values is not None
        nn.init.uniform_(values, 0.5, 1.5)
    return norm


def _norm_of_processes(norm: nn.BatchNorm2d, processes: int, monkeypatch: pytest.MonkeyPatch) -> nn.BatchNorm2d:
    """Return the batch normalisation of one of several processes. All processes have the same maps."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.mul_(processes))
    network = synchronised(nn.Sequential(copy.deepcopy(norm)), World(size=2), torch.device("cpu"))
    return network[0]


def _output_and_gradient(norm: nn.BatchNorm2d, maps: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normalised maps, and the gradient of their sum with these weights with respect to the maps."""
    maps = maps.clone().requires_grad_()
    output = norm(maps)
    output.backward(weights)
    assert maps.grad is not None
    return output.detach(), maps.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("processes", [1, 2])
def test_outputs_gradients_and_moving_averages_equal_those_of_the_whole_batch(dtype, processes, monkeypatch) -> None:
    expected_norm = _norm()
    own = _norm_of_processes(expected_norm, processes, monkeypatch)
    maps = _maps(dtype)
    weights = torch.linspace(-1, 1, maps.numel()).view_as(maps).to(dtype)
    output, gradient = _output_and_gradient(own, maps, weights)
    expected, expected_gradient = (
        values[: len(maps)]
        for values in _output_and_gradient(
            expected_norm, torch.cat([maps] * processes), torch.cat([weights] * processes)
        )
    )
    assert output.dtype == gradient.dtype == maps.dtype
    # Outputs are below 8 and gradients below 1. Both norms compute in float32 and round once, so that 16-bit numbers
    # differ by at most a unit in the last place.
    units = torch.finfo(dtype).eps if dtype.itemsize == 2 else 32 * torch.finfo(dtype).eps
    torch.testing.assert_close(output, expected, rtol=0, atol=4 * units)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=units)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(own, name), getattr(expected_norm, name), rtol=1e-5, atol=0)
    for name in ("weight", "bias"):
        summed = processes * getattr(own, name).grad
        torch.testing.assert_close(summed, getattr(expected_norm, name).grad, rtol=1e-4, atol=1e-4)


def test_a_network_that_computes_in_bfloat16_trains_in_several_processes(monkeypatch) -> None:
    norm = _norm_of_processes(_norm(), 2, monkeypatch)
    before = copy.deepcopy(norm.running_mean)
    with torch.autocast("cpu", torch.bfloat16):
        maps = nn.Conv2d(5, 5, 3)(_maps(torch.float32))
        assert maps.dtype == torch.bfloat16 == norm(maps).dtype
    assert norm.weight.dtype == norm.running_mean.dtype == torch.float32
    assert not torch.equal(norm.running_mean, before)


def test_scoring_uses_the_moving_averages(monkeypatch) -> None:
    norm = _norm()
    own = _norm_of_processes(norm, 2, monkeypatch)
    assert torch.equal(own.eval()(_maps(torch.float32)), norm.eval()(_maps(torch.float32)))
