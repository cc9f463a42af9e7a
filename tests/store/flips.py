"""Single flipped bits in a file: noticed, or without effect."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fungi.errors import FungiError


def noticed_flips(path: Path, read: Callable[[], Any], count: int, *, seed: int = 0) -> int:
    """Flip single bits of a file, and return how many of `count` flips `read` refuses with a FungiError.

    After every other flip `read` has to return what it returns for the whole file: a list of plain values.
    """
    draws, whole, expected = np.random.default_rng(seed), path.read_bytes(), read()
    noticed = 0
    for place in draws.integers(0, len(whole), count):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(draws.integers(8))
        path.write_bytes(damaged)
        try:
            assert read() == expected, f"a flip of byte {place} of {len(whole)} changes what is read"
        except FungiError:
            noticed += 1
    path.write_bytes(whole)
    assert read() == expected
    return noticed
