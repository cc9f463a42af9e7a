"""Names of result files. Every unusual setting that determines a number is part of the name.

Each field of a settings class states what it affects (`fungi.settings.setting`). Results that differ in such a setting
get different names, so that no result overwrites another.
"""

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from fungi.settings import Effect, as_json

_MAX_VALUE_LENGTH, _MAX_NAME_LENGTH = 32, 120
"""Largest numbers of characters of a value and of a name."""


def settings_that_affect(settings: Any, *effects: Effect) -> dict[str, Any]:
    """Return the settings that affect one of `effects`, as JSON."""
    names = {field.name for field in fields(settings) if field.metadata["affects"] in effects}
    return {name: value for name, value in as_json(settings).items() if name in names}


def unusual_values(settings: Any, leave_out: Collection[str]) -> dict[str, Any]:
    """Return the settings that affect values and differ from the defaults, as JSON, for the headings of tables.

    leave_out: names of settings to omit.
    """
    defaults = {field.name: json.loads(json.dumps(field.default, default=str)) for field in fields(settings)}
    return {
        name: value
        for name, value in settings_that_affect(settings, "values").items()
        if name not in leave_out and value != defaults[name]
    }


def result_name(task: str, settings: Any, leave_out: Collection[str]) -> str:
    """Return the name of a result: the task, and a text for each setting of the identity that differs from its default.

    One hash replaces all long values and paths. A name that is too long for a file system is cut and ends in a hash.
    leave_out: names of settings to omit.
    """
    texts, hashed = [], []
    for field in fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if field.metadata["affects"] == "nothing" or name in leave_out or value == field.default:
            continue
        text = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
        word = field.metadata["word_in_file_name"]
        word = name.replace("_", "-") if word is None else word
        if isinstance(value, bool):
            texts.append(word if value else f"no-{word}")
        # The settings for targets and datasets are paths of files, also without a slash.
        elif "/" in text or len(text) > _MAX_VALUE_LENGTH or "targets" in name or "datasets" in name:
            hashed.append(f"{name}={text}")
        else:
            texts.append(f"{word}{text}")
    parts = [re.sub(r"[^\w.+=@-]+", "-", text) for text in texts]
    if hashed:
        parts.append(short_hash(" ".join(hashed)))
    return short_name("-".join([task, *parts]), _MAX_NAME_LENGTH)


def short_name(name: str, max_length: int) -> str:
    """Return a name of at most `max_length` characters; a longer name is cut and ends in a hash of the full name."""
    length_of_ending = 9  # a hyphen and the eight digits of the hash
    return name if len(name) <= max_length else f"{name[: max_length - length_of_ending]}-{short_hash(name)}"


def short_hash(text: str) -> str:
    """Return a hash of eight hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
