"""Share rows with another process without a copy, in anonymous shared memory with a file descriptor.

/dev/shm is not used because it has a small limit of its own (64 MB in most containers). The shared memory is freed with
the last tensor that uses it.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

BYTES_PER_NUMBER = 8  # float64


class _Region(mmap.mmap):
    """Shared memory with its file descriptor. The descriptor is closed when the memory is freed."""

    descriptor: int

    @classmethod
    def of_size(cls, size: int) -> "_Region":
        """Return `size` zero bytes. The system provides a page only at the first access to it."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("fungi-rows")
        else:
            with tempfile.TemporaryFile() as file:  # systems other than Linux
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
        region = cls(descriptor, size)
        region.descriptor = descriptor
        return region

    def __del__(self) -> None:
        os.close(self.descriptor)


_REGIONS: "WeakValueDictionary[int, _Region]" = WeakValueDictionary()
"""The shared memory of each tensor: address of its data -> region."""


@dataclass(frozen=True)
class RowsHandle:
    """Location of float64 rows in shared memory, in a form that another process can use.

    descriptor: file descriptor of the shared memory. offset: position of the first row, in bytes.
    """

    descriptor: int
    offset: int
    shape: tuple[int, int]


def shared_rows(count: int, dim: int) -> Float64[Tensor, "n r"]:
    """Return `count` rows of zeros in shared memory."""
    region = _Region.of_size(max(1, count * dim * BYTES_PER_NUMBER))  # a region can't be empty
    tensor = torch.from_numpy(np.frombuffer(region, dtype=np.float64, count=count * dim).reshape(count, dim))
    _REGIONS[tensor.untyped_storage().data_ptr()] = region
    return tensor


@contextmanager
def shared_memory_handle(rows: Float64[Tensor, "n r"]) -> Iterator[RowsHandle]:
    """Yield a handle for rows on the CPU; copy the rows to shared memory if necessary.

    The handle is valid inside the `with` statement.
    """
    if rows.untyped_storage().data_ptr() not in _REGIONS or not rows.is_contiguous():
        copy = shared_rows(*rows.shape)
        copy.copy_(rows)
        rows = copy
    region = _REGIONS[rows.untyped_storage().data_ptr()]
    offset = int(BYTES_PER_NUMBER * rows.storage_offset())
    yield RowsHandle(region.descriptor, offset, (rows.shape[0], rows.shape[1]))
