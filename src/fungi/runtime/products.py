"""Matrix products without derivatives, with the fastest available library.

The axis letters in this module are the usual letters of matrix products, not those of `fungi.axes`.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

COLUMNS_AT_ONCE = 64
"""Columns of a half-precision factor that are converted to float32 together: 150 MB for the gradient of a ViT-B."""


def linear(
    rows: Float[Tensor, "r d"], weight: Float[Tensor, "n d"], bias: Float[Tensor, " n"] | None = None
) -> Float[Tensor, "r n"]:
    """Return `rows @ weight.T + bias` in the dtype of the rows; autocast has no effect.

    float32 products on a CPU use oneDNN, which takes 0.6 to 0.8 of the time of MKL on AMD processors.
    """
    assert rows.dtype == weight.dtype, (rows.dtype, weight.dtype)
    with torch.autocast(rows.device.type, enabled=False):
        if _supports_onednn(rows) and weight.numel():
            bias = None if bias is None else bias.contiguous()  # oneDNN ignores strides
            return torch.nn.functional.linear(rows.to_mkldnn(), weight, bias).to_dense()
        return torch.nn.functional.linear(rows, weight, bias)  # [r d] [n d] -> [r n]


def product(left: Float[Tensor, "m k"], right: Float[Tensor, "k n"]) -> Float32[Tensor, "m n"]:
    """Return `left @ right`, summed in float32, for factors of any dtype.

    A GPU multiplies factors in half precision without a conversion. On other devices, the factors are converted to
    float32, with the same result. `right` is converted in parts, because it may be a large projection matrix.
    """
    if _has_float32_output(left, right):
        return torch.mm(left, right, out_dtype=torch.float32)
    if right.dtype == torch.float32:
        return left.float() @ right
    return torch.cat([left.float() @ part.float() for part in right.split(COLUMNS_AT_ONCE, dim=1)], dim=1)


def products(
    left: Float[Tensor, "b m k"], right: Float[Tensor, "b k n"], *, out: Float32[Tensor, "b m n"]
) -> Float32[Tensor, "b m n"]:
    """Write the products of two batches of matrices to `out`, summed in float32 as in `product`, and return `out`."""
    if _has_float32_output(left, right):
        return torch.bmm(left, right, out_dtype=torch.float32, out=out)
    return torch.bmm(left.float(), right.float(), out=out)


def _has_float32_output(left: Tensor, right: Tensor) -> bool:
    """Return whether torch can sum these products in float32 without a conversion: in half precision on NVIDIA GPUs."""
    is_cuda = left.device.type == "cuda" and torch.version.hip is None
    return is_cuda and left.dtype == right.dtype and left.dtype in (torch.bfloat16, torch.float16)


def _supports_onednn(rows: Float[Tensor, "r d"]) -> bool:
    """Return whether oneDNN can multiply these rows in float32."""
    return rows.device.type == "cpu" and rows.dtype == torch.float32 and torch.backends.mkldnn.is_available()
