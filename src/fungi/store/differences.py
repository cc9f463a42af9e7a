"""Describe the differences between two records for people: only the causes, with shortened hashes."""

import re
from collections.abc import Mapping
from typing import Any

_ARGUMENT = re.compile(r"(\w+)=(\([^()]*\)|[^,()]+)")
_CONSEQUENCES = ("input", "weights_hash", "support_hash", "dataset_fingerprint", "projection_hash")
"""Entries that follow from other entries. They are named only if no other entry differs."""
_HASH = re.compile(r"[0-9a-f]{24,}")
ABSENT = "absent"
"""Text for an entry that a record does not have."""


def arguments_of(text: str) -> dict[str, str]:
    """Return the arguments, by name, in a text such as `Views(size=224, crops=(1, 2))`."""
    return dict(_ARGUMENT.findall(text))


def differing_parts(old: Any, new: Any) -> tuple[Any, Any]:
    """Return the differing parts of two values.

    These are the differing entries of dictionaries, the differing arguments of texts such as `Views(size=224)`, and the
    values themselves in other cases.
    """
    if isinstance(old, str) and isinstance(new, str) and arguments_of(old) and arguments_of(new):
        before, after = differing_parts(arguments_of(old), arguments_of(new))
        return _as_arguments(before), _as_arguments(after)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old, new
    # An absent entry differs from an entry that is None.
    names = [name for name in {**old, **new} if old.get(name) != new.get(name) or (name in old) != (name in new)]
    return {name: old[name] for name in names if name in old}, {name: new[name] for name in names if name in new}


def _as_arguments(values: Mapping[str, Any]) -> str:
    """Return `name=value, ...`. No arguments mean that only the other text has differing arguments."""
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "nothing else"


def difference_in_words(old_record: Mapping[str, Any], new_record: Mapping[str, Any]) -> str:
    """Return the differences of two nested records, e.g. `profile: clean -> published; temperature: 3 -> 15`."""
    old, new = _flat(old_record), _flat(new_record)
    differing = [name for name in {**old, **new} if old.get(name, ABSENT) != new.get(name, ABSENT)]
    causes = [name for name in differing if name.rpartition(".")[2] not in _CONSEQUENCES] or differing
    changes = []
    for name in causes:
        before, after = map(shortened, differing_parts(old.get(name, ABSENT), new.get(name, ABSENT)))
        changes.append(f"{name.removeprefix('objective_settings.').replace('_', ' ')}: {before} -> {after}")
    return "; ".join(changes)


def shortened(value: Any) -> Any:
    """Return the first twelve digits of a hash; return other values unchanged."""
    return value[:12] if isinstance(value, str) and _HASH.fullmatch(value) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one flat dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
