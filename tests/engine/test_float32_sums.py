"""On a GPU, terms in half precision are multiplied as they are and summed in float32; no float32 copy of them exists.

Shown on fake tensors, which have a device and a shape but no numbers. The CPU has no such product and converts the
terms. The sums are the same; other tests compare them with plain autograd.
"""

from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from fungi.gradients.khatri_rao import make_projector
from fungi.gradients.projection import Projector, draw_projection
from fungi.gradients.terms import EachPosition, Positions, SumOfPositions, Terms
from tests.runtime.traffic import Traffic

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
WIDTH = 96
SAMPLES, POSITIONS = 8, 49
HALF = (torch.bfloat16, torch.float16)


def projector_of(kind: str) -> Projector:
    matrix = draw_projection(WIDTH, WIDTH * (WIDTH + 1), kind=kind, outputs=WIDTH)
    return make_projector(matrix, CPU, torch.bfloat16)


def to_fake_gpu(projector: Any) -> None:
    """Replace the matrices of a projector by fake tensors on a GPU."""
    for name, value in list(vars(projector).items()):
        if isinstance(value, torch.Tensor):
            setattr(projector, name, torch.empty(value.shape, dtype=value.dtype, device=CUDA))


def traffic_of(kind: str, positions: Positions, dtype: torch.dtype) -> Traffic:
    """Return the memory traffic of the contraction and the projection of a batch on a GPU."""
    projector = projector_of(kind)
    with FakeTensorMode(), torch.no_grad():
        to_fake_gpu(projector)
        values = [torch.empty(SAMPLES, 1, POSITIONS, WIDTH, dtype=dtype, device=CUDA) for _ in range(2)]
        with Traffic() as traffic:
            projected = projector.project(projector.contract(positions.rows(Terms(*values, bias=True))))
    assert (projected.dtype, projected.device) == (torch.float32, CUDA)
    return traffic


@pytest.mark.parametrize("positions", [SumOfPositions(), EachPosition(1)], ids=repr)
@pytest.mark.parametrize("kind", ["binary", "khatri-rao"])
def test_no_term_in_bfloat16_is_copied_to_float32(kind: str, positions: Positions) -> None:
    half, full = (traffic_of(kind, positions, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert half.conversions == 0
    assert half.bytes < full.bytes


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_gradients_of_half_precision_terms_are_written_once(dtype: torch.dtype) -> None:
    """Terms are read once for the weight and once for the bias, and the gradient is written once."""
    with FakeTensorMode(), torch.no_grad():
        values = [torch.empty(SAMPLES, 1, POSITIONS, WIDTH, dtype=dtype, device=CUDA) for _ in range(2)]
        with Traffic() as traffic:
            gradients = Terms(*values, bias=True).gradients()
    assert traffic.bytes == gradients.nbytes + values[0].nbytes * 2 + values[1].nbytes


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_gradients_of_half_precision_terms_are_those_of_their_float32_copies(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    signals, activations = (torch.randn(3, 2, 7, size, generator=draw).to(dtype) for size in (5, 6))
    half = Terms(signals, activations, bias=True).gradients()
    full = torch.einsum("bgso,bgsi->bgoi", signals.double(), activations.double()).flatten(1, 2)
    torch.testing.assert_close(half[..., :-1].double(), full, rtol=1e-5, atol=1e-5)  # sums of seven products of order 1
    torch.testing.assert_close(half[..., -1].double(), signals.double().sum(dim=2).flatten(1), rtol=1e-5, atol=1e-5)
    assert half.dtype == torch.float32


def test_copies_and_unfused_operations_count_as_traffic() -> None:
    with FakeTensorMode(), Traffic() as traffic:
        values = torch.empty(100, dtype=torch.bfloat16, device=CUDA)
        values.view(10, 10).float().add_(1)
    assert traffic.conversions == 400
    assert traffic.bytes == (200 + 400) + (400 + 400)
