"""Describe the differences between two records for people: causes without their consequences, long texts shortened."""

import re
from collections.abc import Mapping
from typing import Any

_ARGUMENT = re.compile(r"(\w+)=(\([^()]*\)|[^,()]+)")
_FOLLOWS = ("input", "weights_hash", "support_hash", "dataset_fingerprint", "projection_hash")
"""Facts that follow from others. They are named only if no other fact differs."""
_HASH = re.compile(r"[0-9a-f]{24,}")
ABSENT = "absent"


def arguments_of(text: str) -> dict[str, str]:
    """Return the arguments in a text like `Views(size=224, crops=(1, 2))`, by name."""
    return dict(_ARGUMENT.findall(text))


def differing_parts(old: Any, new: Any) -> tuple[Any, Any]:
    """Return both values; of dictionaries only entries that differ, of texts like calls only arguments that differ."""
    if isinstance(old, str) and isinstance(new, str) and arguments_of(old) and arguments_of(new):
        before, after = differing_parts(arguments_of(old), arguments_of(new))
        return _as_arguments(before), _as_arguments(after)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old, new
    names = [name for name in {**old, **new} if old.get(name) != new.get(name) or (name in old) != (name in new)]
    return {name: old[name] for name in names if name in old}, {name: new[name] for name in names if name in new}


def _as_arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "nothing else"


def difference_in_words(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return the differences of two nested records, as in `profile: clean -> published; temperature: 3 -> 15`."""
    old, new = _flat(there), _flat(here)
    differing = [name for name in {**old, **new} if old.get(name, ABSENT) != new.get(name, ABSENT)]
    causes = [name for name in differing if name.rpartition(".")[2] not in _FOLLOWS] or differing
    changes = []
    for name in causes:
        before, after = map(shortened, differing_parts(old.get(name, ABSENT), new.get(name, ABSENT)))
        changes.append(f"{name.removeprefix('objective_settings.').replace('_', ' ')}: {before} -> {after}")
    return "; ".join(changes)


def shortened(value: Any) -> Any:
    """Return the beginning of a hash; anything else as it is."""
    return value[:12] if isinstance(value, str) and _HASH.fullmatch(value) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as a flat one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
