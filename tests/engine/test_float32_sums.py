"""On a GPU, products of terms in half precision are summed in float32, without copies of the terms in float32.

Most tests use fake tensors, which have a device and a shape but no numbers. A CPU cannot sum products in this way, so
on a CPU the terms are converted to float32 first. The sums are the same; other tests compare them with autograd.
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
HALF_DTYPES = (torch.bfloat16, torch.float16)


def projector_of(kind: str) -> Projector:
    """Return a projector for a layer of `WIDTH` inputs and outputs. kind: kind of its matrix."""
    matrix = draw_projection(WIDTH, WIDTH * (WIDTH + 1), kind=kind, outputs=WIDTH)
    return make_projector(matrix, CPU, torch.bfloat16)


def to_fake_gpu(projector: Any) -> None:
    """Replace the matrices of a projector by fake tensors on a GPU."""
    for name, value in list(vars(projector).items()):
        if isinstance(value, torch.Tensor):
            setattr(projector, name, torch.empty(value.shape, dtype=value.dtype, device=CUDA))


def traffic_of(kind: str, positions: Positions, dtype: torch.dtype) -> Traffic:
    """Return the memory traffic of a GPU when it contracts and projects the terms of a batch."""
    projector = projector_of(kind)
    with FakeTensorMode(), torch.no_grad():
        to_fake_gpu(projector)
        values = [torch.empty(SAMPLES, 1, POSITIONS, WIDTH, dtype=dtype, device=CUDA) for _ in range(2)]
        with Traffic() as traffic:
            rows = projector.project(projector.contract(positions.rows(Terms(*values, bias=True))))
    assert (rows.dtype, rows.device) == (torch.float32, CUDA)
    return traffic


@pytest.mark.parametrize("positions", [SumOfPositions(), EachPosition(1)], ids=repr)
@pytest.mark.parametrize("kind", ["binary", "khatri-rao"])
def test_no_term_in_bfloat16_is_copied_to_float32(kind: str, positions: Positions) -> None:
    in_bfloat16, in_float32 = (traffic_of(kind, positions, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert in_bfloat16.conversions == 0
    assert in_bfloat16.bytes < in_float32.bytes


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_gradients_of_half_precision_terms_are_written_once(dtype: torch.dtype) -> None:
    with FakeTensorMode(), torch.no_grad():
        signals, activations = (torch.empty(SAMPLES, 1, POSITIONS, WIDTH, dtype=dtype, device=CUDA) for _ in range(2))
        with Traffic() as traffic:
            gradients = Terms(signals, activations, bias=True).gradients()
    # The signals are read twice: for the gradient of the weight, and for the gradient of the bias.
    assert traffic.bytes == gradients.nbytes + 2 * signals.nbytes + activations.nbytes


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_gradients_of_half_precision_terms_equal_those_of_their_float64_copies(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    signals, activations = (torch.randn(3, 2, 7, size, generator=generator).to(dtype) for size in (5, 6))
    gradients = Terms(signals, activations, bias=True).gradients()
    assert gradients.dtype == torch.float32
    of_weight = torch.einsum("bgso,bgsi->bgoi", signals.double(), activations.double()).flatten(1, 2)
    of_bias = signals.double().sum(dim=2).flatten(1)
    # Rounding of sums of seven products of numbers of about 1.
    torch.testing.assert_close(gradients[..., :-1].double(), of_weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[..., -1].double(), of_bias, rtol=1e-5, atol=1e-5)


def test_traffic_counts_bytes_of_copies_and_of_every_operation() -> None:
    with FakeTensorMode(), Traffic() as traffic:
        values = torch.empty(100, dtype=torch.bfloat16, device=CUDA)
        values.view(10, 10).float().add_(1)
    assert traffic.conversions == 400
    assert traffic.bytes == (200 + 400) + (400 + 400)  # read and written by the conversion and by the addition
