"""What sets two records apart, for people: the cause before what follows from it, and of long texts what differs."""

import re
from collections.abc import Mapping
from typing import Any

_ARGUMENT = re.compile(r"(\w+)=(\([^()]*\)|[^,()]+)")
_FOLLOWS = ("input", "weights_hash", "support_hash", "dataset_fingerprint", "projection_hash")
"""Told where nothing that somebody sets differs."""
_HASH = re.compile(r"[0-9a-f]{24,}")
ABSENT = "absent"


def arguments_of(text: str) -> dict[str, str]:
    """`Views(size=224, crops=(1, 2))` -> its arguments."""
    return dict(_ARGUMENT.findall(text))


def differing_parts(one: Any, other: Any) -> tuple[Any, Any]:
    """Return both values; of dictionaries the entries that differ, of texts like calls the arguments that do."""
    if isinstance(one, str) and isinstance(other, str) and arguments_of(one) and arguments_of(other):
        old, new = differing_parts(arguments_of(one), arguments_of(other))
        return _as_arguments(old), _as_arguments(new)
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return one, other
    names = [name for name in {**one, **other} if one.get(name) != other.get(name) or (name in one) != (name in other)]
    return {name: one[name] for name in names if name in one}, {name: other[name] for name in names if name in other}


def _as_arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "nothing else"


def difference_in_words(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """`profile: clean -> published; temperature: 3 -> 15` of two nested records that are not equal."""
    old, new = _flat(there), _flat(here)
    differing = [name for name in {**old, **new} if old.get(name, ABSENT) != new.get(name, ABSENT)]
    causes = [name for name in differing if name.rpartition(".")[2] not in _FOLLOWS] or differing
    changes = []
    for name in causes:
        one, other = map(shortened, differing_parts(old.get(name, ABSENT), new.get(name, ABSENT)))
        changes.append(f"{name.removeprefix('objective_settings.').replace('_', ' ')}: {one} -> {other}")
    return "; ".join(changes)


def shortened(value: Any) -> Any:
    """Return the beginning of a hash; anything else as it is."""
    return value[:12] if isinstance(value, str) and _HASH.fullmatch(value) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
