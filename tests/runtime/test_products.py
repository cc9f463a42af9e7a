"""Products by another library than torch's usual one are those products."""

import pytest
import torch

from fungi.runtime.products import linear


@pytest.mark.parametrize(("rows", "keys"), [(0, 3), (3, 0), (1, 1), (7, 33), (64, 1000)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_that_of_float64_whatever_computes_it(
    rows: int, keys: int, with_bias: bool, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(rows)
    shapes = (48, rows), (keys, 96), (2 * keys,)
    given, weight, bias = (torch.randn(shape, generator=draw).to(dtype) for shape in shapes)
    given, weight, bias = given.T, weight[:, ::2], bias[::2]  # none lies in one piece
    found = linear(given, weight, bias if with_bias else None)
    expected = given.double() @ weight.double().T + (bias.double() if with_bias else 0)
    assert (found.layout, found.dtype) == (torch.strided, dtype)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)  # sums of 48 products of order 1


def test_a_machine_without_onednn_gets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given, weight = torch.randn(5, 48), torch.randn(33, 48)
    before = linear(given, weight)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(linear(given, weight), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("onednn", [True, False])
def test_a_product_keeps_its_precision_under_autocast(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given, weight = torch.randn(5, 48), torch.randn(33, 48)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(given, weight)
    torch.testing.assert_close(found, given @ weight.T, rtol=1e-5, atol=1e-5)
