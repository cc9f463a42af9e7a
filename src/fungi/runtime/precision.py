"""Choose the precision of float32 products on a GPU: float32, or TF32, whose factors have a mantissa of ten bits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fungi.runtime.log import logger

OVERRIDE = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"


def set_full_precision() -> None:
    """Compute float32 products and convolutions in float32 from now on. Every command calls this.

    By default, torch computes convolutions on a GPU in TF32. It also computes products in TF32 if an environment
    variable asks for it.
    """
    if os.environ.get(OVERRIDE, "0") != "0" and torch.cuda.is_available():
        logger.warning(f"{OVERRIDE} is set and has no effect: float32 products are computed in float32.")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def tf32_products(device: torch.device, *, enabled: bool = True) -> Iterator[None]:
    """Compute float32 products and convolutions on a GPU in TF32 inside the `with` statement, if `enabled` is set."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if enabled and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products and convolutions in float32 inside the `with` statement or the decorated function.

    Otherwise, torch uses TF32 after `torch.set_float32_matmul_precision("high")`, with
    TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 and, for convolutions, by default. Exact search, Gram matrices and decompositions
    would be wrong in TF32, and nobody would notice the error.
    """
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
