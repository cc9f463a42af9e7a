"""Nouns in messages have the singular or the plural that their number needs."""

import pytest

from fungi.errors import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "forward", "1 forward"),
        (0, "row", "0 rows"),
        (2, "class", "2 classes"),
        (1_437, "train row", "1,437 train rows"),
        (2, "patch", "2 patches"),
        (3, "query", "3 queries"),
        (1.0, "forward", "1 forward"),
        (0.4, "forward", "0.4 forwards"),
        (12_345.5, "forward", "12,345.5 forwards"),
    ],
)
def test_a_noun_is_in_the_plural_unless_the_number_is_1(number: float, noun: str, text: str) -> None:
    assert counted(number, noun) == text
