"""Shard: the part of the blocks that one element of a job array computes."""

from dataclasses import dataclass

from fungi.errors import FungiError

MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """Part I of N equal parts of the work: blocks I, I+N, I+2N, ... Parts and blocks are counted from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard for a text such as `2/8`. Raises FungiError for other texts."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise FungiError(f"--shard {text!r} is not I/N with I from 1 to N, e.g. 1/4, 2/4, 3/4, 4/4.")
        if int(count) > MOST_SHARDS:
            raise FungiError(f"--shard {text!r}: there are at most {MOST_SHARDS} shards.")
        return cls(int(index), int(count))

    def takes(self, block: int) -> bool:
        """Return whether a block (counted from 0) belongs to this shard."""
        return block % self.count == self.index - 1
