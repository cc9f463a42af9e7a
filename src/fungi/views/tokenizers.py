"""Tokenizers by name. The libraries of a tokenizer are imported when the tokenizer is first used."""

import os
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.network import only_on_disk


class Tokens(NamedTuple):
    """Token numbers of a text. truncated: whether the text was too long, so that `ids` is only a part of it."""

    ids: list[int]
    truncated: bool


@runtime_checkable
class Tokenizer(Protocol):
    """Converter of texts to tokens, including the special tokens of the backbone."""

    @property
    def pad(self) -> int:
        """Number of the padding token."""

    def encode(self, texts: Sequence[str], longest: int) -> list[Tokens]:
        """Return at most `longest` tokens of each text. A truncated text keeps the special tokens at its end."""


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer that is loaded once per process, when it is first used.

    name: name of the tokenizer in provenances. load: function that loads the tokenizer. place: repository or folder
    that the user gave on the command line; empty for registered backbones.
    """

    name: str
    load: Callable[[], Tokenizer] = field(repr=False, compare=False)
    place: str = field(default="", repr=False)

    def get(self) -> Tokenizer:
        """Return the tokenizer."""
        return _load_once(self)


@cache
def _load_once(source: TokenizerSource) -> Tokenizer:
    return source.load()


class HubTokenizer:
    """A fast tokenizer of `transformers`. Raises FungiError if the tokenizer does not fit the model.

    name: name of the tokenizer for errors. embedding_rows: number of rows of the model's table of word embeddings; 0 if
    it is not known.
    """

    def __init__(self, tokenizer: Any, name: str, embedding_rows: int = 0) -> None:
        if not getattr(tokenizer, "is_fast", False) or tokenizer.pad_token_id is None:
            raise FungiError(
                f"the tokenizer of {name} is not supported: it needs a tokenizer.json and a padding token."
            )
        largest = max(tokenizer.get_vocab().values(), default=0)
        if embedding_rows and largest >= embedding_rows:
            raise FungiError(
                f"the tokenizer of {name} has word numbers up to {largest}, but the model has only {embedding_rows} "
                "word embeddings. Put the tokenizer of the model into the folder of its weights."
            )
        self._tokenizer = tokenizer
        self.pad: int = tokenizer.pad_token_id
        self.longest: int = tokenizer.model_max_length

    def encode(self, texts: Sequence[str], longest: int) -> list[Tokens]:
        """Return the tokens of each text: at most `longest`, and at most as many as the model has positions."""
        limit = min(longest, self.longest)
        batch = self._tokenizer(list(texts), truncation=True, max_length=limit, padding=False)
        return [Tokens(encoding.ids, bool(encoding.overflowing)) for encoding in batch.encodings]


def hub_tokenizer(
    name: str, place: str = "", *, package_folder: Callable[[], Path] | None = None, embedding_rows: int = 0
) -> TokenizerSource:
    """Return the tokenizer of a repository of the Hugging Face hub (from its cache, if possible) or of a local folder.

    place: repository or folder, if it differs from the name. package_folder: function that returns the folder of a
    tokenizer inside a Python package; this folder is then read instead of `place`. embedding_rows: as in
    `HubTokenizer`.
    """
    return TokenizerSource(name, partial(_load_hub, place or name, package_folder, embedding_rows), place)


def _load_hub(place: str, package_folder: Callable[[], Path] | None, embedding_rows: int) -> HubTokenizer:
    """Return a tokenizer of `transformers`. Raises MissingFilesError if it can't be read.

    The arguments are those of `hub_tokenizer`. Messages name `place`.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # worker processes already run in parallel
    from transformers import AutoTokenizer

    source = str(package_folder()) if package_folder else place
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, use_fast=True, trust_remote_code=False, local_files_only=only_on_disk(source)
        )
        return HubTokenizer(tokenizer, place, embedding_rows)
    except FungiError:
        raise
    except Exception as error:  # the hub client raises nearly anything
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise MissingFilesError(
            f"the tokenizer of {place} is not on disk and can't be fetched ({cause}). Run `hf download {place}` on a "
            "machine with a network and copy its folder HF_HOME here, or use --backbone NAME=hf:FOLDER."
        ) from None


@dataclass(frozen=True)
class HashedWords:
    """Tokenizer that hashes the lower-case form of words and punctuation marks. It needs no vocabulary and no file.

    size: number of different tokens. A text becomes `[1, words..., 2]`; 0 is padding. Use this tokenizer only for
    networks with random weights, because they have not learned any words.
    """

    size: int = 8192
    pad: int = 0

    def encode(self, texts: Sequence[str], longest: int) -> list[Tokens]:
        """Return the tokens of each text."""
        words_of_texts = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts]
        most_words = longest - 2  # the first and the last token are special
        numbers_of_texts = [
            [3 + zlib.crc32(word.encode()) % (self.size - 3) for word in words]  # 0, 1 and 2 are special tokens
            for words in words_of_texts
        ]
        return [Tokens([1, *numbers[:most_words], 2], len(numbers) > most_words) for numbers in numbers_of_texts]
