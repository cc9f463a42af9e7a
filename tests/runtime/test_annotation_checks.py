"""The tests check types and axes of every call in `fungi`."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from fungi.combine.source import l2_normalized
from fungi.runtime.seeds import numpy_generator
from fungi.views.image import ImageInput
from fungi.views.pixels import normalize
from tests.annotation_checks import checked


@checked
def products(rows: Float[Tensor, "n d"], keys: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    return rows @ keys.T if len(rows) < 9 else rows  # the result for 9 rows has wrong axes, on purpose


@checked
def names(count: int) -> list[str]:
    return ["a"] * count if count < 9 else [1]  # the result for 9 names has a wrong type, on purpose


@checked
def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@checked
@dataclasses.dataclass(frozen=True)
class Place:
    row: int
    rows: "list[int] | None" = None


@pytest.mark.parametrize(
    "call",
    [
        lambda: products(torch.ones(2, 3), torch.ones(4, 5)),  # different sizes of the axis d
        lambda: products(torch.ones(2), torch.ones(4, 3)),
        lambda: products(torch.ones(2, 3, dtype=torch.int64), torch.ones(4, 3)),
        lambda: products(torch.ones(9, 3), torch.ones(4, 3)),  # the result has the axes [n d] instead of [n k]
        lambda: names("3"),
        lambda: names(9),
        lambda: list(numbers("3")),
        lambda: Place("3"),
        lambda: Place(3, rows=(1,)),
        lambda: l2_normalized(torch.ones(3, dtype=torch.int64)),
        lambda: normalize(torch.ones(2, 3, 4), ImageInput().statistics),
        lambda: numpy_generator("42"),
        lambda: ImageInput(size="224"),
    ],
)
def test_wrong_types_and_axes_are_errors(call) -> None:
    with pytest.raises(BeartypeCallHintViolation):
        call()


def test_sizes_of_axes_are_independent_in_every_call() -> None:
    for size in (2, 3):
        assert products(torch.ones(4, size), torch.ones(5, size)).shape == (4, 5)
    assert names(2) == ["a", "a"]
    assert list(numbers(3)) == [0, 1, 2]
    assert Place(3, rows=[1]).rows == [1]
    assert numpy_generator(42).random() != np.random.default_rng(0).random()
