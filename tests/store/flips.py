"""Flip single bits of a file, and count the flips that are detected."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fungi.errors import FungiError


def detected_flips(path: Path, read: Callable[[], Any], count: int, *, seed: int = 0) -> int:
    """Flip single bits of a file, and return how many of `count` flips `read` refuses with a FungiError.

    After a flip that is not refused, `read` has to return the same list of values as for the undamaged file.
    """
    draws, content, expected = np.random.default_rng(seed), path.read_bytes(), read()
    detected = 0
    for position in draws.integers(0, len(content), count):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(draws.integers(8))
        path.write_bytes(damaged)
        try:
            assert read() == expected, f"a flip of byte {position} of {len(content)} changes what is read"
        except FungiError:
            detected += 1
    path.write_bytes(content)
    assert read() == expected
    return detected
