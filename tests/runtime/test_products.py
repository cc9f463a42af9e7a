"""Matrix products by oneDNN equal those by torch, and products of half-precision terms are summed in float32."""

import pytest
import torch

from fungi.runtime import products as products_module
from fungi.runtime.products import linear, product, products


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize(("rows", "keys"), [(0, 3), (3, 0), (1, 1), (7, 33), (64, 1000)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_equals_the_product_in_float64(rows: int, keys: int, with_bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    shapes = (48, rows), (keys, 96), (2 * keys,)
    inputs, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    inputs, weight, bias = inputs.T, weight[:, ::2], bias[::2]  # no tensor is contiguous
    outputs = linear(inputs, weight, bias if with_bias else None)
    expected = inputs.double() @ weight.double().T + (bias.double() if with_bias else 0)
    assert (outputs.layout, outputs.dtype) == (torch.strided, dtype)
    torch.testing.assert_close(outputs.double(), expected, rtol=1e-5, atol=1e-5)  # sums of 48 products of order 1


def test_products_without_onednn_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, weight = torch.randn(5, 48), torch.randn(33, 48)
    with_onednn = linear(inputs, weight)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(linear(inputs, weight), with_onednn, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("onednn", [True, False])
def test_a_product_keeps_its_precision_under_autocast(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, weight = torch.randn(5, 48), torch.randn(33, 48)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = linear(inputs, weight)
    torch.testing.assert_close(outputs, inputs @ weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "dtypes", [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.float32, torch.bfloat16)], ids=str
)
def test_products_of_any_dtype_are_float32_sums(
    dtypes: tuple[torch.dtype, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products_module, "COLUMNS_AT_ONCE", 4)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(3, 5, n, generator=generator).to(dtype) for n, dtype in zip((7, 9), dtypes, strict=True))
    left = left.transpose(1, 2)  # [3 7 5] x [3 5 9]
    expected = left.double() @ right.double()
    batched = products(left, right, out=torch.empty(3, 7, 9))
    single = product(left[0], right[0])
    assert single.dtype == torch.float32
    for actual, truth in ((batched, expected), (single, expected[0])):
        torch.testing.assert_close(actual.double(), truth, rtol=1e-5, atol=1e-5)  # sums of five products of order 1
