"""The views of a text: the text itself, and copies from which words are deleted (spec text 3)."""

import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from fungi.errors import FungiError
from fungi.views.text import TextInput
from fungi.views.tokenizers import Tokens
from fungi.views.tokens import TokenBatch, groups_of_like_length, pad_together

Prepared = list[Tokens]
"""The tokens of each view of a text."""

FEWEST, MOST = 1, 10
"""Deletions per text under the rule `count`."""
MARKS, LEFT_BRACKETS, RIGHT_BRACKETS = frozenset(".,:;?!%"), frozenset("[({<"), frozenset("])}>")


class _Tokenised:
    """Tokens, padding and groups of similar length for all views of texts."""

    input: TextInput
    kind: str
    n_views: int
    _cut: list[int]

    @property
    def identity(self) -> str:
        """Equal for generators of the same views."""
        return repr(self)

    def texts(self, item: str) -> list[str]:
        """Return the views as texts."""
        raise NotImplementedError

    def prepare(self, item: Any) -> Prepared:
        """Return the tokens of each view of a text."""
        if not isinstance(item, str):
            raise FungiError(f"a text was expected, found a {type(item).__name__}. Is the dataset one of texts?")
        return self.input.tokenizer.get().encode(self.texts(item), self.input.longest)

    def collate(self, prepared: Sequence[Prepared]) -> TokenBatch:
        """Pad a batch."""
        return pad_together(prepared, self.input.tokenizer.get().pad)

    def groups(self, batch: TokenBatch, size: int) -> Iterator[tuple[Int64[Tensor, " g"], TokenBatch]]:
        """Yield the parts of a batch that are encoded together, and count the views that were cut."""
        self._cut.append(int(batch["cut"].sum()))
        return groups_of_like_length({name: batch[name] for name in ("input_ids", "attention_mask")}, size)

    def remarks(self) -> list[str]:
        """Return how many views were cut since the last call."""
        cut = sum(self._cut)
        self._cut.clear()
        views = "texts" if self.n_views == 1 else "views of texts"
        limit = min(self.input.longest, getattr(self.input.tokenizer.get(), "longest", self.input.longest))
        return [f"{cut} {views} were longer than {limit} tokens and were cut"] if cut else []

    def render(self, batch: TokenBatch) -> dict[str, Any]:
        """`[b v t] -> [b*v t]`."""
        return {name: values.flatten(0, 1) for name, values in batch.items()}


@dataclass(frozen=True, kw_only=True)
class WholeText(_Tokenised):
    """One view: the text as it is."""

    input: TextInput
    _cut: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    kind = "plain"
    n_views = 1

    def texts(self, item: str) -> list[str]:
        """Return the text."""
        return [item]


@dataclass(frozen=True, kw_only=True)
class DeletedWords(_Tokenised):
    """Copies of a text with words deleted at random; the text itself is none of them.

    deletion: `independent` deletes each word with the given probability; `count` deletes a fixed share of the words, as
        the published code did; the backbone's input (and so the profile) decides where it is not given.
    skipped: number of draws that are dropped before the first copy.
    """

    input: TextInput
    n_views: int = 12
    deletion: str = ""
    probability: float = 0.1
    stream: str = ""
    skipped: int = 0
    _cut: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    kind = "words"

    def __post_init__(self) -> None:
        if self.n_views < 2:
            raise FungiError(f"{self.n_views} views per text can't attract each other: n_views has to be at least 2.")
        if self.rule not in RULES:
            raise FungiError(f"deletion {self.rule!r} is not known. Use {' or '.join(RULES)}.")
        if not 0 <= self.probability < 1:
            raise FungiError(f"probability {self.probability} of deleting a word is not in 0..1.")

    @property
    def rule(self) -> str:
        """The rule of deletion."""
        return self.deletion or self.input.deletion

    def texts(self, item: str) -> list[str]:
        """Draw the copies from Python's global stream (seeded by the caller for this sample)."""
        drawn = [RULES[self.rule](item, self.probability) for _ in range(self.skipped + self.n_views)]
        return drawn[self.skipped :]


def delete_independently(text: str, probability: float) -> str:
    """Delete each word (between white space) with some probability, but keep one at least; the rest is unchanged."""
    words = re.findall(r"\s*\S+", text)
    kept = [word for word in words if random.random() >= probability]
    if not words:
        return text
    return "".join(kept or [random.choice(words)])


def delete_count(text: str, share: float) -> str:
    """Delete `ceil(share * words)` words, at least 1 and at most 10 (the rule of the published code's library).

    Punctuation marks count as words, but those of ASCII are never deleted. A text with fewer than two words, or with
    nothing but such marks, does not change.
    """
    words = [piece for piece in re.split(r"(\W)", text) if piece.strip()]
    candidates = [place for place, word in enumerate(words) if word not in string.punctuation]
    if len(words) < 2 or not candidates:
        return text
    # Rounded first: products with a share may be a little above a whole number.
    count = min(max(ceil(round(share * len(words), 9)), FEWEST), MOST, len(candidates))
    return without(words, random.sample(candidates, count))


def without(words: Sequence[str], places: Sequence[int]) -> str:
    """Return the text of the words and marks, without those at `places`.

    If the first word is deleted, the second one is kept and takes over its capital letter, as in the published code's
    library.
    """
    gone, kept = set(places), list(words)
    if 0 in gone:
        gone.discard(1)
        capitalised = words[0][0].isupper() and not any(letter.isupper() for letter in words[0][1:])
        if capitalised and words[1].islower():
            kept[1] = words[1].capitalize()
    return spaced([word for place, word in enumerate(kept) if place not in gone])


def spaced(words: list[str]) -> str:
    """Join words and marks with single spaces, and remove the spaces that the published code's library removes.

    In this order: the space before a mark, after a left bracket, and before a right bracket. A space is removed only if
    the mark has spaces on both sides. Of two marks in a row, the second one keeps its space. A mark at the end always
    loses it.
    """
    space = [False] + [True] * (len(words) - 1) + [False]  # before each word, and behind the last
    for kind, behind in ((MARKS, 0), (LEFT_BRACKETS, 1), (RIGHT_BRACKETS, 0)):
        place = 0
        while place < len(words):
            loses_space = words[place] in kind and space[place] and space[place + 1]
            if loses_space:
                space[place + behind] = False
            place += 2 if loses_space else 1
        if kind is MARKS and words[-1] in MARKS:
            space[-2] = False
    return "".join(" " * before + word for before, word in zip(space, words, strict=False))


RULES = {"independent": delete_independently, "count": delete_count}
