"""Laws of the projection whose rows are outer products."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fungi.errors import FungiError
from fungi.gradients.khatri_rao import KhatriRaoProjector, make_projector
from fungi.gradients.projection import DenseProjector, Projector, draw_projection, load_projection, save_projection
from fungi.gradients.terms import EachPosition, Terms

CPU = torch.device("cpu")
SIGNALS, ACTIVATIONS = 6, 9  # o, i; the bias makes a tenth input


def fourth_moment(x: Tensor, y: Tensor) -> float:
    """`E (s.x)^2 (s.y)^2` over all 2^n rows of signs, one by one."""
    rows = torch.tensor([[1.0 if (row >> bit) & 1 else -1.0 for bit in range(len(x))] for row in range(2 ** len(x))])
    return float(((rows @ x) ** 2 * (rows @ y) ** 2).mean())


def docstring_formula(x: Tensor, y: Tensor) -> float:
    return float(x @ x) * float(y @ y) + 2 * float(x @ y) ** 2 - 2 * float((x**2 * y**2).sum())


def drawn(size: int, *, seed: int = 0) -> KhatriRaoProjector:
    matrix = draw_projection(size, SIGNALS * (ACTIVATIONS + 1), kind="khatri-rao", seed=seed, outputs=SIGNALS)
    projector = make_projector(matrix, CPU, torch.float32)
    assert isinstance(projector, KhatriRaoProjector)
    return projector


def positions(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, ACTIVATIONS, generator=generator), torch.randn(count, SIGNALS, generator=generator)


def formed(activations: Tensor, signals: Tensor) -> Tensor:
    """`[n o i+1]`: the gradient of every position."""
    return torch.einsum("no,ni->noi", signals, torch.cat([activations, torch.ones(len(activations), 1)], dim=1))


def each(projector: Projector, activations: Tensor, signals: Tensor) -> Tensor:
    """Return the projected gradient of every position: `[n p]`."""
    terms = Terms(signals[None, None], activations[None, None], bias=True)
    return projector.project(projector.contract(EachPosition().rows(terms)))


def test_terms_are_the_dense_product_of_the_outer_products() -> None:
    projector, (activations, signals) = drawn(33), positions(7)
    dense = formed(activations, signals).flatten(1) @ projector.matrix.dense().T * 33**-0.5
    torch.testing.assert_close(each(projector, activations, signals), dense, rtol=1e-5, atol=1e-5)
    as_dense = DenseProjector(projector.matrix, CPU, torch.float32)
    torch.testing.assert_close(each(as_dense, activations, signals), dense, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(projector.entries, as_dense.entries)


def test_samples_project_to_the_sum_of_their_terms() -> None:
    projector, (activations, signals) = drawn(33), positions(7)
    terms = Terms(signals[None, None], activations[None, None], bias=True)
    sample = projector.project(projector.contract(terms))[0]
    torch.testing.assert_close(sample, each(projector, activations, signals).sum(0), rtol=1e-5, atol=1e-5)


def test_blocks_of_a_convolution_have_their_own_rows_of_the_gradient() -> None:
    generator = torch.Generator().manual_seed(2)
    signals, activations = torch.randn(2, 3, 5, 2, generator=generator), torch.randn(2, 3, 5, 9, generator=generator)
    terms, projector = Terms(signals, activations, bias=True), drawn(33)  # 3 blocks of 2 outputs
    dense = DenseProjector(projector.matrix, CPU, torch.float32)
    actual, expected = (kind.project(kind.contract(terms)) for kind in (projector, dense))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_inner_products_have_the_stated_mean_and_variance() -> None:
    """Over 40,000 independent rows, within five deviations of each estimate."""
    rows, (activations, signals) = 40_000, positions(2)
    signals[1] = signals[0] + 0.3 * signals[1]  # similar vectors, so that the correction terms matter
    products = each(drawn(rows), activations, signals).prod(dim=0) * rows  # [p], one draw per row
    (d, e), (a, b) = signals, torch.cat([activations, torch.ones(2, 1)], dim=1)
    mean = float(d @ e) * float(a @ b)
    variance = fourth_moment(d, e) * fourth_moment(a, b) - mean**2
    assert docstring_formula(d, e) * docstring_formula(a, b) - mean**2 == pytest.approx(variance, rel=1e-4)
    assert abs(float(products.mean()) - mean) < 5 * (variance / rows) ** 0.5
    kurtosis = float(((products - mean) ** 4).mean())
    assert abs(float(products.var()) - variance) < 5 * (kurtosis / rows) ** 0.5


def test_lengths_have_a_larger_variance_than_dense_ones_only_for_gradients_of_low_rank() -> None:
    """The variance is 8/p for rank one, and nearly the 2/p of the dense matrix for full rank."""
    size, width = 4000, 64
    generator = torch.Generator().manual_seed(5)
    matrix = draw_projection(size, width * width, kind="khatri-rao", seed=3)
    projector = make_projector(matrix, CPU, torch.float32)

    def variance(gradient: Tensor) -> float:
        terms = Terms(
            torch.eye(width)[None, None], gradient[None, None], bias=False
        )  # one row of the gradient per position
        rows = projector.project(projector.contract(terms))[0] * size**0.5
        return float((rows**2).var() / (gradient**2).sum() ** 2)

    thin = torch.outer(*torch.randn(2, width, generator=generator))
    assert variance(thin) > 5
    assert variance(torch.randn(width, width, generator=generator)) < 3


def test_the_file_is_small_and_keeps_hash_and_shape(tmp_path: Path) -> None:
    matrix = draw_projection(384, 384 * 385, kind="khatri-rao")
    save_projection(matrix, tmp_path / "m.pth")
    assert (tmp_path / "m.pth").stat().st_size < 384 * (384 + 385) / 8 + 4096
    read = load_projection(tmp_path / "m.pth")
    assert (read.hash, read.outputs) == (matrix.hash, 384)


def test_layers_of_the_same_size_and_different_shapes_have_different_hashes() -> None:
    wide, tall = (draw_projection(4, 12 * 6, kind="khatri-rao", outputs=outputs) for outputs in (12, 6))
    assert wide.hash != tall.hash


def test_the_error_for_an_unknown_layer_shape_names_the_flag() -> None:
    with pytest.raises(FungiError, match="--layer-outputs"):
        draw_projection(4, 13, kind="khatri-rao")
    with pytest.raises(FungiError, match="split into 5 rows"):
        draw_projection(4, 12, kind="khatri-rao", outputs=5)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_bfloat16_terms_keep_their_direction_at_every_scale(scale: float) -> None:
    activations, signals = positions(20)
    matrix = drawn(256).matrix
    half, full = (
        each(make_projector(matrix, CPU, dtype), activations, signals * scale) / scale
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert torch.nn.functional.cosine_similarity(half, full).min() > 0.999
