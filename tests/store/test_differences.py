"""Messages about two different records name the cause, and only the different part of long texts."""

import pytest

from fungi.store.differences import difference_in_words, differing_parts

HASH, OTHER_HASH = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("old_record", "new_record", "message"),
    [
        (
            {"profile": "clean", "weights_hash": HASH},
            {"profile": "published", "weights_hash": HASH},
            "profile: clean -> published",
        ),
        (
            {"profile": "clean", "input": "In(a=1)"},
            {"profile": "published", "input": "In(a=2)"},
            "profile: clean -> published",
        ),
        ({"weights_hash": HASH}, {"weights_hash": OTHER_HASH}, f"weights hash: {'a' * 12} -> {'b' * 12}"),
        (
            {"objective_settings": {"temperature": 3, "head": 1}},
            {"objective_settings": {"temperature": 15, "head": 1}},
            "temperature: 3 -> 15",
        ),
        ({"layers": {"proj": {"bias": True}}}, {"layers": {}}, "layers.proj.bias: True -> absent"),
        ({"seed": 1, "dtype": "float32"}, {"seed": 2, "dtype": "bfloat16"}, "seed: 1 -> 2; dtype: float32 -> bfloat16"),
        (
            {"input": "Input(size=224, mean=(0.5, 0.5), crop=1)"},
            {"input": "Input(size=32, mean=(0.5, 0.5), crop=1)"},
            "input: size=224 -> size=32",
        ),
    ],
)
def test_the_message_names_the_cause_and_not_its_consequences(old_record: dict, new_record: dict, message: str) -> None:
    assert difference_in_words(old_record, new_record) == message


def test_only_the_different_entries_of_two_dictionaries_remain() -> None:
    assert differing_parts({"a": 1, "b": None}, {"a": 1}) == ({"b": None}, {})
    assert differing_parts("x", "y") == ("x", "y")
    assert differing_parts("In(a=1)", "In(a=1, b=2)") == ("nothing else", "b=2")
