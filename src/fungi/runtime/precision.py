"""Choose the precision of float32 products: full, or shortened to ten bits (TF32)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fungi.runtime.log import logger

OVERRIDE = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"


def set_full_precision() -> None:
    """Compute float32 products and convolutions with all digits of float32 from now on: the policy of every command.

    By itself torch shortens convolutions on a GPU to ten bits (TF32), and products if the environment says so.
    """
    if os.environ.get(OVERRIDE, "0") != "0" and torch.cuda.is_available():
        logger.warning(f"{OVERRIDE} is set and has no effect: float32 products are computed in float32.")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def tf32_products(device: torch.device, *, enabled: bool = True) -> Iterator[None]:
    """Compute float32 products and convolutions on a GPU with ten bits of each factor (TF32) inside the block."""
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
    """Compute float32 products with all digits of float32 inside the block, whatever the environment asks for.

    Products are shortened by `torch.set_float32_matmul_precision("high")`, by TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 (which
    has the same effect at the start of a process) and, for convolutions, by cuDNN's default. An exact search, a Gram
    matrix or a decomposition of shortened products is wrong without a sign of it. Also usable as a decorator.
    """
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
