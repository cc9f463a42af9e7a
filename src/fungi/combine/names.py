"""Names of features and of their combinations, in the canonical order of all results."""

from collections.abc import Iterable, Sequence
from itertools import combinations

from fungi.errors import FungiError, counted

CANONICAL_ORDER = ("embeddings", "kl", "dino", "simclr", "deepcluster", "ibot")

Combination = tuple[str, ...]


def in_order(features: Iterable[str]) -> Combination:
    """Return the features of `CANONICAL_ORDER` in this order, followed by other features in alphabetical order.

    Raises FungiError for a repeated feature.
    """
    names = list(features)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise FungiError(f"feature {repeated[0]!r} is repeated. Name each feature once.")
    canonical = [name for name in CANONICAL_ORDER if name in names]
    return tuple(canonical + sorted(set(names) - set(canonical)))


def name_of(combination: Sequence[str]) -> str:
    """Return the name of a combination in result files, e.g. `embeddings+kl`."""
    return "+".join(in_order(combination))


def all_combinations(features: Iterable[str]) -> list[Combination]:
    """Return all non-empty subsets of features, small subsets first (for kNN and retrieval)."""
    ordered = in_order(features)
    return [subset for size in range(1, len(ordered) + 1) for subset in combinations(ordered, size)]


def nested_chain(features: Iterable[str]) -> list[Combination]:
    """Return combinations: the first feature, the first two features, and so on (for linear probing)."""
    ordered = in_order(features)
    return [ordered[:size] for size in range(1, len(ordered) + 1)]


def named_class(label: int, class_names: Sequence[str] = ()) -> str:
    """Return a label for a message: `class 'cat'`, or `class 3` if its name is not known."""
    return f"class {class_names[label]!r}" if 0 <= label < len(class_names) else f"class {label}"


def counted_rows(count: int) -> str:
    """Return a number of train rows for a message: `1 train row`, `6 train rows`."""
    return counted(count, "train row")
