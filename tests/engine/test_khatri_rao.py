"""Laws of the Khatri-Rao projection, whose rows are outer products."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fungi.errors import FungiError
from fungi.gradients.khatri_rao import KhatriRaoProjector, make_projector
from fungi.gradients.projection import DenseProjector, Projector, draw_projection, load_projection, save_projection
from fungi.gradients.terms import EachPosition, Terms

CPU = torch.device("cpu")
SIGNALS, ACTIVATIONS = 6, 9  # numbers of outputs and inputs of the layer; the bias is an additional input


def fourth_moment(x: Tensor, y: Tensor) -> float:
    """Return the expectation of `(s.x)^2 (s.y)^2` over random signs s: the mean over all 2^n rows of signs."""
    rows = torch.tensor([[1.0 if (row >> bit) & 1 else -1.0 for bit in range(len(x))] for row in range(2 ** len(x))])
    return float(((rows @ x) ** 2 * (rows @ y) ** 2).mean())


def stated_fourth_moment(x: Tensor, y: Tensor) -> float:
    """Return the same expectation by the formula in the docstring of `fungi.gradients.khatri_rao`."""
    return float(x @ x) * float(y @ y) + 2 * float(x @ y) ** 2 - 2 * float((x**2 * y**2).sum())


def random_projector(size: int, *, seed: int = 0) -> KhatriRaoProjector:
    """Return a projector for the layer of these tests. size: number of its rows."""
    matrix = draw_projection(size, SIGNALS * (ACTIVATIONS + 1), kind="khatri-rao", seed=seed, outputs=SIGNALS)
    projector = make_projector(matrix, CPU, torch.float32)
    assert isinstance(projector, KhatriRaoProjector)
    return projector


def random_terms(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return the activations and the signals of some positions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, ACTIVATIONS, generator=generator), torch.randn(count, SIGNALS, generator=generator)


def gradients_of_positions(activations: Tensor, signals: Tensor) -> Tensor:
    """Return the gradient of each position: `[n o i+1]`."""
    return torch.einsum("no,ni->noi", signals, torch.cat([activations, torch.ones(len(activations), 1)], dim=1))


def project_positions(projector: Projector, activations: Tensor, signals: Tensor) -> Tensor:
    """Project the gradient of each position separately: `[n p]`."""
    terms = Terms(signals[None, None], activations[None, None], bias=True)
    return projector.project(projector.contract(EachPosition().rows(terms)))


@pytest.mark.also_with_two_threads
def test_projected_positions_equal_the_dense_matrix_times_their_gradients() -> None:
    projector, (activations, signals) = random_projector(33), random_terms(7)
    dense = gradients_of_positions(activations, signals).flatten(1) @ projector.matrix.dense().T * 33**-0.5
    torch.testing.assert_close(project_positions(projector, activations, signals), dense, rtol=1e-5, atol=1e-5)
    dense_projector = DenseProjector(projector.matrix, CPU, torch.float32)
    torch.testing.assert_close(project_positions(dense_projector, activations, signals), dense, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(projector.entries, dense_projector.entries)


@pytest.mark.also_with_two_threads
def test_a_projected_sample_is_the_sum_of_its_projected_positions() -> None:
    projector, (activations, signals) = random_projector(33), random_terms(7)
    terms = Terms(signals[None, None], activations[None, None], bias=True)
    sample = projector.project(projector.contract(terms))[0]
    torch.testing.assert_close(sample, project_positions(projector, activations, signals).sum(0), rtol=1e-5, atol=1e-5)


def test_groups_of_a_convolution_have_separate_rows_of_the_gradient() -> None:
    generator = torch.Generator().manual_seed(2)
    signals, activations = torch.randn(2, 3, 5, 2, generator=generator), torch.randn(2, 3, 5, 9, generator=generator)
    terms, projector = Terms(signals, activations, bias=True), random_projector(33)  # 3 groups of 2 outputs
    dense_projector = DenseProjector(projector.matrix, CPU, torch.float32)
    projected, expected = (method.project(method.contract(terms)) for method in (projector, dense_projector))
    torch.testing.assert_close(projected, expected, rtol=1e-5, atol=1e-5)


def test_inner_products_have_the_stated_mean_and_variance() -> None:
    """Estimate mean and variance from 40,000 independent rows, within five standard deviations of each estimate."""
    rows, (activations, signals) = 40_000, random_terms(2)
    signals[1] = signals[0] + 0.3 * signals[1]  # similar signals, because then no term of the variance is negligible
    # Every row of the projection gives an independent product: [p].
    products = project_positions(random_projector(rows), activations, signals).prod(dim=0) * rows
    # The two gradients are the outer products of d and a, and of e and b.
    (d, e), (a, b) = signals, torch.cat([activations, torch.ones(2, 1)], dim=1)
    mean = float(d @ e) * float(a @ b)
    variance = fourth_moment(d, e) * fourth_moment(a, b) - mean**2
    assert stated_fourth_moment(d, e) * stated_fourth_moment(a, b) - mean**2 == pytest.approx(variance, rel=1e-4)
    assert abs(float(products.mean()) - mean) < 5 * (variance / rows) ** 0.5
    fourth_central_moment = float(((products - mean) ** 4).mean())
    assert abs(float(products.var()) - variance) < 5 * (fourth_central_moment / rows) ** 0.5


def test_the_variance_of_the_squared_norm_is_high_for_rank_one_and_low_for_full_rank() -> None:
    """The variance is 8/p at rank one, and 2/p at full rank. A dense matrix has 2/p at every rank."""
    size, width = 4000, 64
    generator = torch.Generator().manual_seed(5)
    matrix = draw_projection(size, width * width, kind="khatri-rao", seed=3)
    projector = make_projector(matrix, CPU, torch.float32)

    def variance(gradient: Tensor) -> float:
        # Position i contributes row i of the gradient.
        terms = Terms(torch.eye(width)[None, None], gradient[None, None], bias=False)
        rows = projector.project(projector.contract(terms))[0] * size**0.5
        return float((rows**2).var() / (gradient**2).sum() ** 2)

    rank_one = torch.outer(*torch.randn(2, width, generator=generator))
    assert variance(rank_one) > 5
    assert variance(torch.randn(width, width, generator=generator)) < 3


def test_the_file_is_small_and_keeps_hash_and_shape(tmp_path: Path) -> None:
    matrix = draw_projection(384, 384 * 385, kind="khatri-rao")
    save_projection(matrix, tmp_path / "m.pth")
    # A row is the outer product of 384 and 385 signs, which take a bit each. The other fields take less than 4 KiB.
    assert (tmp_path / "m.pth").stat().st_size < 384 * (384 + 385) / 8 + 4096
    loaded_matrix = load_projection(tmp_path / "m.pth")
    assert (loaded_matrix.hash, loaded_matrix.outputs) == (matrix.hash, 384)


def test_layers_of_equal_size_and_different_shapes_have_different_hashes() -> None:
    wide, tall = (draw_projection(4, 12 * 6, kind="khatri-rao", outputs=outputs) for outputs in (12, 6))
    assert wide.hash != tall.hash


def test_an_unknown_or_impossible_number_of_outputs_is_refused() -> None:
    with pytest.raises(FungiError, match="--layer-outputs"):
        draw_projection(4, 13, kind="khatri-rao")
    with pytest.raises(FungiError, match="split into 5 rows"):
        draw_projection(4, 12, kind="khatri-rao", outputs=5)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_bfloat16_terms_keep_their_direction_at_every_scale(scale: float) -> None:
    activations, signals = random_terms(20)
    matrix = random_projector(256).matrix
    in_bfloat16, in_float32 = (
        project_positions(make_projector(matrix, CPU, dtype), activations, signals * scale) / scale
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert torch.nn.functional.cosine_similarity(in_bfloat16, in_float32).min() > 0.999
