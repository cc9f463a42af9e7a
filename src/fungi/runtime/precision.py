"""The precision of float32 products, and where it has to be full."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
