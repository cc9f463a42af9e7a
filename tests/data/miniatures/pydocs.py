"""Docstrings of Python: a tiny standard library with repeated, shared, short and nested docstrings."""

import hashlib
import sysconfig
from pathlib import Path

import pytest

from fungi.data.sets import pydocs
from tests.data.miniatures.miniature import Miniature, Row

SHARED = "A docstring of two modules."


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    library = data_dir.parent / "library"
    patch.setattr(sysconfig, "get_path", lambda name: str(library))
    patch.setattr(pydocs, "docstrings", pydocs.docstrings.__wrapped__)
    rows = []
    for label, (module, source) in enumerate(pydocs.SOURCES.items()):
        file = source if source.endswith(".py") else f"{source}/core.py"
        (library / file).parent.mkdir(parents=True, exist_ok=True)
        (library / file).write_text(_source(module))
        for number in range(8):
            rows.append((f"{file}:Thing{number}", f"The {module} thing of number {number}.", label))
            rows.append((f"{file}:Thing{number}:act", f"Let {module} act {number} times, or more.", label))
    return Miniature(_expected_splits(rows), class_names=list(pydocs.SOURCES))


def _source(module: str) -> str:
    """Return the code of a module: docstrings that are skipped, and classes with docstrings that become rows."""
    skipped = f'"""{SHARED}"""\ndef short():\n    """Too short."""\n'
    classes = [
        f'class Thing{number}:\n    """The {module} thing\n    of number {number}.\n\n    More about it.\n    """\n'
        f'    async def act(self):\n        """Let {module} act {number} times, or more."""\n'
        f'    def again(self):\n        """Let {module} act {number} times, or more."""\n'
        for number in range(8)
    ]
    return skipped + "".join(classes)


def _expected_splits(rows: list[tuple[str, str, int]]) -> dict[str, list[Row]]:
    """Return the rows of each split. rows: name, text and label. Hashes of the names give the order and the split."""

    def hash_fraction(name: str) -> float:
        """Return a number from 0 to 1 that depends only on the name."""
        return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64

    rows = sorted(rows, key=lambda row: hash_fraction("order " + row[0]))
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    for name, text, label in rows:
        text_hash = hashlib.sha256(text.encode()).hexdigest()[:8]
        splits["test" if hash_fraction(name) < 0.3 else "train"].append(Row(f"{name}#{text_hash}", label))
    return splits
