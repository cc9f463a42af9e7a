"""A tiny standard library with repeated, shared, short and nested docstrings."""

import hashlib
import sysconfig
from pathlib import Path

import pytest

from fungi.data.sets import pydocs
from tests.data.makers.miniature import Miniature, Row

SHARED = "Said in two modules."


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    library = data_dir.parent / "library"
    patch.setattr(sysconfig, "get_path", lambda name: str(library))
    patch.setattr(pydocs, "docstrings", pydocs.docstrings.__wrapped__)
    rows = []
    for label, (module, place) in enumerate(pydocs.SOURCES.items()):
        file = place if place.endswith(".py") else f"{place}/core.py"
        (library / file).parent.mkdir(parents=True, exist_ok=True)
        (library / file).write_text(_source(module))
        for number in range(8):
            rows.append((f"{file}:Thing{number}", f"The {module} thing of number {number}.", label))
            rows.append((f"{file}:Thing{number}:act", f"Let {module} act {number} times, or more.", label))
    return Miniature(_expected(rows), class_names=list(pydocs.SOURCES))


def _source(module: str) -> str:
    head = f'"""{SHARED}"""\ndef short():\n    """Too short."""\n'
    things = [
        f'class Thing{number}:\n    """The {module} thing\n    of number {number}.\n\n    More about it.\n    """\n'
        f'    async def act(self):\n        """Let {module} act {number} times, or more."""\n'
        f'    def again(self):\n        """Let {module} act {number} times, or more."""\n'
        for number in range(8)
    ]
    return head + "".join(things)


def _expected(rows: list[tuple[str, str, int]]) -> dict[str, list[Row]]:
    def share(name: str) -> float:
        return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64

    rows = sorted(rows, key=lambda row: share("order " + row[0]))
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    for name, text, label in rows:
        text_hash = hashlib.sha256(text.encode()).hexdigest()[:8]
        splits["test" if share(name) < 0.3 else "train"].append(Row(f"{name}#{text_hash}", label))
    return splits
