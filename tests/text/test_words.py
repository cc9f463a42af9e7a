"""Views of texts: word deletion by both rules, tokens, padding and groups."""

import random
import re

import pytest
import torch

from fungi.backbones.base import BACKBONES
from fungi.errors import FungiError
from fungi.views.loading import prepare
from fungi.views.tokenizers import HashedWords
from fungi.views.tokens import groups_of_similar_length, pad_batch
from fungi.views.words import delete_count, delete_independently, join_words, without_words

INPUT = BACKBONES["tiny-bert"].input


def words(count: int) -> str:
    """Return a text of `count` different words."""
    return " ".join(f"w{number}" for number in range(count))


@pytest.mark.parametrize(("count", "deleted"), [(2, 1), (10, 1), (11, 2), (20, 2), (30, 3), (99, 10), (200, 10)])
def test_the_count_rule_deletes_a_tenth_rounded_up_but_at_most_ten_words(count, deleted):
    assert len(delete_count(words(count), 0.1).split()) == count - deleted


@pytest.mark.parametrize("text", ["", " ", "word", "?"])
def test_the_count_rule_does_not_change_a_text_with_fewer_than_two_words(text):
    assert delete_count(text, 0.1) == text


def test_the_count_rule_counts_punctuation_marks_but_deletes_only_words():
    for _ in range(50):
        view = delete_count("a, b, c, d, e, f !", 0.1)  # it deletes two of 12 pieces
        assert view.count(",") == 5
        assert view.endswith("!")
        assert sum(letter.isalpha() for letter in view) == 4


def test_the_count_rule_does_not_change_texts_of_punctuation_marks():
    assert delete_count("? !", 0.1) == "? !"


def test_the_count_rule_capitalises_the_new_first_word():
    views = {delete_count("Hello there", 0.1) for _ in range(50)}
    assert views == {"There", "Hello"}


def test_the_count_rule_corrects_spaces_around_marks():
    views = {delete_count("(really) nice, is it?", 0.1) for _ in range(200)}
    assert "( really) is it?" not in views  # the comma is never deleted
    assert "( really ), is it?" in views
    assert "( really) nice, it?" in views


def test_the_independent_rule_deletes_a_tenth_on_average_and_does_not_change_the_rest():
    random.seed(0)
    text = "one,  two\tthree 'four' " * 500
    view = delete_independently(text, 0.1)
    assert abs(1 - len(view.split()) / len(text.split()) - 0.1) < 0.02  # three deviations of 2000 draws
    remaining = iter(text.split())
    assert all(word in remaining for word in view.split())  # `in` advances the iterator, so this also checks the order
    assert delete_independently(" a  b\tc", 0.0) == " a  b\tc"


@pytest.mark.parametrize("text", ["word", "two words", "?"])
def test_the_independent_rule_never_deletes_everything(text):
    assert all(delete_independently(text, 0.99).strip() for _ in range(100))


@pytest.mark.parametrize("text", ["", "  "])
def test_a_text_without_words_is_not_changed(text):
    assert delete_independently(text, 0.5) == text


def test_views_depend_on_the_row_not_only_on_the_text():
    views = INPUT.views("words", deletion="count")
    first, same, other = (prepare(views, words(30), seed=42, sample_id=name) for name in ("row 1", "row 1", "row 2"))
    assert first == same
    assert first != other
    assert len(first) == 12
    assert all(len(view.ids) == 30 - 3 + 2 for view in first)  # three words are deleted, and two special tokens added


def test_views_do_not_depend_on_the_number_of_views():
    few, many = (prepare(INPUT.views("words", n_views=count), words(30), seed=42, sample_id="row") for count in (2, 12))
    assert few == many[:2]


def test_the_published_input_deletes_by_count_unless_the_option_is_set():
    published = BACKBONES["tiny-bert"].published_input
    assert published.views("words").rule == "count"
    assert INPUT.views("words").rule == "independent"
    assert published.views("words", deletion="independent").rule == "independent"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deletion": "some"}, "deletion 'some' is not known. Use independent or count"),
        ({"n_views": 1}, "n_views has to be at least 2"),
        ({"probability": 1.0}, "not in 0..1"),
        ({"grid": 2}, "have no option 'grid'. They have: .*deletion"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(FungiError, match=message):
        INPUT.views("words", **options)


def test_image_views_are_refused_with_the_kinds_of_text_views():
    with pytest.raises(FungiError, match=r"unknown kind of text views 'crops'.*plain, words"):
        INPUT.views("crops")


def test_an_item_that_is_not_a_text_is_refused():
    with pytest.raises(FungiError, match="a text was expected, found a int"):
        INPUT.views("plain").prepare(3)


def test_long_texts_are_truncated_and_counted_and_keep_their_last_token():
    views = INPUT.views("plain")
    batch = views.collate([views.prepare(text) for text in (words(600), words(510), words(3))])
    assert batch["input_ids"].shape == (3, 1, 512)
    assert batch["input_ids"][0, 0, -1] == 2  # the special token at the end of a text
    list(views.groups(batch, 8))
    list(views.groups(batch, 8))
    assert views.remarks() == ["2 texts were longer than 512 tokens and were cut"]
    assert views.remarks() == []


def test_groups_contain_texts_of_similar_length_with_little_padding():
    views = INPUT.views("plain")
    lengths = [5, 40, 1, 39, 6, 2]
    batch = views.collate([views.prepare(words(count)) for count in lengths])
    tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}
    groups = list(groups_of_similar_length(tokens, 2))
    assert [sorted(lengths[row] for row in rows) for rows, _ in groups] == [[1, 2], [5, 6], [39, 40]]
    assert [part["input_ids"].shape[2] for _, part in groups] == [4, 8, 42]
    for rows, part in groups:
        for row, ids, mask in zip(rows.tolist(), part["input_ids"], part["attention_mask"], strict=True):
            assert torch.equal(ids[mask == 1], batch["input_ids"][row][batch["attention_mask"][row] == 1])


def test_a_group_ends_if_padding_would_cost_more_than_a_forward_pass():
    views = INPUT.views("plain")
    batch = views.collate([views.prepare(words(count)) for count in (1, 1, 1, 1, 300)])
    assert [rows.tolist() for rows, _ in views.groups(batch, 64)] == [[0, 1, 2, 3], [4]]
    assert [rows.tolist() for rows, _ in views.groups(batch, 1024)] == [[0, 1, 2, 3, 4]]  # like on a GPU


def test_padding_uses_the_padding_token_of_the_backbone():
    tokens = INPUT.tokenizer.get().encode(["a b", ""], 512)
    batch = pad_batch([[tokens[0]], [tokens[1]]], pad=7)
    assert batch["input_ids"][1, 0].tolist() == [1, 2, 7, 7]
    assert batch["attention_mask"][1, 0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("size", [4, 9, 8192])
def test_hashed_words_are_token_ids_after_the_special_tokens(size):
    (tokens,) = HashedWords(size=size).encode([words(500)], 1000)
    inner = tokens.ids[1:-1]
    assert [tokens.ids[0], tokens.ids[-1]] == [1, 2]
    assert min(inner) >= 3
    assert max(inner) < size
    # 500 different words reach all ids of a small vocabulary.
    assert size > 100 or set(inner) == set(range(3, size))


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("He said (yes) .", "He said (yes )."),
        ("(a) b", "( a) b"),
        ("see [1] , [2].", "see [1 ], [2 ]."),
        ("wait... what ?!", "wait. .. what?!"),
        ("5 % ( or { 6 } ) ;", "5% (or {6} );"),
        ("end )", "end )"),
        ("a ( [ b ] ) c", "a ([ b] ) c"),
        ("x <y> : z !", "x <y >: z!"),
    ],
)
def test_spaces_around_marks_and_brackets_equal_those_of_the_published_code(text: str, published: str) -> None:
    """The expected texts are the output of version 1.1.11 of the library that the published code uses.

    A comparison of 20,000 random texts is in the log.
    """
    assert join_words([piece for piece in re.split(r"(\W)", text) if piece.strip()]) == published


@pytest.mark.parametrize(
    ("deleted", "published"),
    [((0,), "Bees hum, I think"), ((0, 1), "Bees hum, I think"), ((1, 4), "The hum, think"), ((2, 5), "The bees, I")],
)
def test_the_second_word_is_capitalised_if_the_first_word_is_deleted(deleted: tuple[int, ...], published: str) -> None:
    assert without_words(["The", "bees", "hum", ",", "I", "think"], deleted) == published


@pytest.mark.parametrize(("first", "second"), [("USA", "bees"), ("3", "bees"), ("the", "bees"), ("iPhone", "bees")])
def test_the_second_word_is_not_capitalised_after_a_first_word_in_other_letters(first: str, second: str) -> None:
    assert without_words([first, second, "hum"], (0,)) == f"{second} hum"


def test_marks_beyond_ascii_are_deleted_like_words() -> None:
    assert {delete_count("“ yes", 0.1) for _ in range(60)} == {"“", "yes"}
