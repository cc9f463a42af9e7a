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
from fungi.views.tokens import TokenBatch, groups_of_similar_length, pad_batch

Prepared = list[Tokens]
"""Tokens of each view of a text."""

FEWEST, MOST = 1, 10
"""Smallest and largest number of deleted words per text with the rule `count`."""
MARKS, LEFT_BRACKETS, RIGHT_BRACKETS = frozenset(".,:;?!%"), frozenset("[({<"), frozenset("])}>")
"""Punctuation marks, for the rules of spaces in `join_words`."""


class _TextViews:
    """Base class of the views of texts. The class tokenises texts, pads them, and groups them by length.

    _truncated: number of truncated views in each batch since the last call of `remarks`.
    """

    input: TextInput
    kind: str
    n_views: int
    _truncated: list[int]

    @property
    def identity(self) -> str:
        """Text that is equal for generators of the same views."""
        return repr(self)

    def texts(self, item: str) -> list[str]:
        """Return the views of a text as texts."""
        raise NotImplementedError

    def prepare(self, item: Any) -> Prepared:
        """Return the tokens of each view of a text. Raises FungiError if the item is not a text."""
        if not isinstance(item, str):
            raise FungiError(f"a text was expected, found a {type(item).__name__}. Does the dataset contain texts?")
        return self.input.tokenizer.get().encode(self.texts(item), self.input.longest)

    def collate(self, prepared: Sequence[Prepared]) -> TokenBatch:
        """Return a padded batch."""
        return pad_batch(prepared, self.input.tokenizer.get().pad)

    def groups(self, batch: TokenBatch, size: int) -> Iterator[tuple[Int64[Tensor, " rows"], TokenBatch]]:
        """Yield the parts of a batch that are encoded together, and count the truncated views."""
        self._truncated.append(int(batch["truncated"].sum()))
        return groups_of_similar_length({name: batch[name] for name in ("input_ids", "attention_mask")}, size)

    def remarks(self) -> list[str]:
        """Return a sentence about the number of truncated views since the last call, if there are any."""
        truncated = sum(self._truncated)
        self._truncated.clear()
        views = "texts" if self.n_views == 1 else "views of texts"
        limit = min(self.input.longest, getattr(self.input.tokenizer.get(), "longest", self.input.longest))
        return [f"{truncated} {views} were longer than {limit} tokens and were cut"] if truncated else []

    def render(self, batch: TokenBatch) -> dict[str, Any]:
        """Flatten the views: `[b v t] -> [b*v t]`."""
        return {name: values.flatten(0, 1) for name, values in batch.items()}


@dataclass(frozen=True, kw_only=True)
class WholeText(_TextViews):
    """One view: the unchanged text."""

    input: TextInput
    _truncated: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    kind = "plain"
    n_views = 1

    def texts(self, item: str) -> list[str]:
        """Return the text."""
        return [item]


@dataclass(frozen=True, kw_only=True)
class DeletedWords(_TextViews):
    """Copies of a text from which random words are deleted. The unchanged text is not a view.

    deletion: rule of deletion. `independent` deletes each word with `probability`; `count` deletes the share
        `probability` of the words, as the published code does. Empty: the rule of the backbone input, which depends on
        the profile.
    skipped: number of random copies that are drawn and dropped before the first view.
    stream: see `HasStream`.
    """

    input: TextInput
    n_views: int = 12
    deletion: str = ""
    probability: float = 0.1
    stream: str = ""
    skipped: int = 0
    _truncated: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

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
        """Draw the copies from Python's global stream, which the caller seeds for this sample."""
        copies = [RULES[self.rule](item, self.probability) for _ in range(self.skipped + self.n_views)]
        return copies[self.skipped :]


def delete_independently(text: str, probability: float) -> str:
    """Delete each word, with the white space before it, with a probability. At least one word remains."""
    words = re.findall(r"\s*\S+", text)
    remaining = [word for word in words if random.random() >= probability]
    if not words:
        return text
    return "".join(remaining or [random.choice(words)])


def delete_count(text: str, share: float) -> str:
    """Delete `ceil(share * words)` words, at least 1 and at most 10, as nlpaug does, which the published code uses.

    Punctuation marks count as words, but ASCII marks are never deleted. A text does not change if it has fewer than two
    words, or only ASCII marks.
    """
    words = [piece for piece in re.split(r"(\W)", text) if piece.strip()]
    candidates = [index for index, word in enumerate(words) if word not in string.punctuation]
    if len(words) < 2 or not candidates:
        return text
    # Without rounding, a product that should be a whole number may be a little larger, and ceil would add 1.
    count = min(max(ceil(round(share * len(words), 9)), FEWEST), MOST, len(candidates))
    return without_words(words, random.sample(candidates, count))


def without_words(words: Sequence[str], indices: Sequence[int]) -> str:
    """Return the text of words and marks, without the words and marks at `indices`.

    As in nlpaug, if the first word is deleted, the second word is not deleted and takes over the capital letter.
    """
    deleted, changed = set(indices), list(words)
    if 0 in deleted:
        deleted.discard(1)
        is_capitalised = words[0][0].isupper() and not any(letter.isupper() for letter in words[0][1:])
        if is_capitalised and words[1].islower():
            changed[1] = words[1].capitalize()
    return join_words([word for index, word in enumerate(changed) if index not in deleted])


def join_words(words: list[str]) -> str:
    """Join words and marks with single spaces, and remove the spaces that nlpaug removes.

    These are, in this order, the space before a mark, after a left bracket, and before a right bracket. A space is
    removed only if the mark has spaces on both sides. If two marks follow each other, the second mark keeps its space.
    The space before a mark at the end of the text is always removed.
    """
    # has_space[i]: whether there is a space before word i. The last entry is for the end of the text.
    has_space = [False] + [True] * (len(words) - 1) + [False]
    for marks, offset in ((MARKS, 0), (LEFT_BRACKETS, 1), (RIGHT_BRACKETS, 0)):
        index = 0
        while index < len(words):
            is_removed = words[index] in marks and has_space[index] and has_space[index + 1]
            if is_removed:
                has_space[index + offset] = False
            index += 2 if is_removed else 1
        if marks is MARKS and words[-1] in MARKS:
            has_space[-2] = False
    return "".join(" " * space + word for space, word in zip(has_space, words, strict=False))


RULES = {"independent": delete_independently, "count": delete_count}
