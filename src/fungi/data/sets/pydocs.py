"""`pydocs`: first paragraphs of docstrings of Python's standard library; the label is the module.

These are real English texts that come with every Python. They are read from the source files, so no module is imported.
The split of a docstring depends only on its name, so existing docstrings stay in their split in a new release of
Python. The fingerprint shows whether two machines have the same texts.
"""

import ast
import hashlib
import inspect
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.text_tables import text_samples
from fungi.errors import MissingFilesError

SOURCES = {
    "asyncio": "asyncio",
    "decimal": "_pydecimal.py",
    "email": "email",
    "http": "http",
    "importlib": "importlib",
    "logging": "logging",
    "mailbox": "mailbox.py",
    "multiprocessing": "multiprocessing",
    "unittest": "unittest",
    "xml": "xml",
}
"""Class -> its file or folder in the standard library. Every Python has these files, and they contain Python code."""

TEST_SHARE = 0.3
PER_MODULE = 130  # every module has more docstrings, so all classes have the same number of rows
SHORTEST = 3  # smallest number of words; shorter texts such as "See above." have no content


class Docstring(NamedTuple):
    """First paragraph of a docstring. module: key of `SOURCES`. name: path of the file, and names inside the file."""

    module: str
    name: str
    text: str


def _open(data_dir: Path, split: str) -> Samples:
    rows = [row for row in docstrings() if (_hash_fraction(row.name) < TEST_SHARE) == (split == "test")]
    modules = list(SOURCES)
    return text_samples(
        [row.text for row in rows],
        [modules.index(row.module) for row in rows],
        [row.name for row in rows],
        class_names=modules,
    )


@cache
def docstrings() -> list[Docstring]:
    """Return `PER_MODULE` docstrings per module, without duplicates, sorted by a hash of their names.

    The order mixes the modules. The relative order of two docstrings is the same in all versions of Python. A text that
    occurs in several modules is left out.
    """
    first_by_text: dict[str, Docstring] = {}
    modules_of_text: dict[str, set[str]] = {}
    for module, path in SOURCES.items():
        for name, text in _read(path):
            modules_of_text.setdefault(text, set()).add(module)
            first_by_text.setdefault(text, Docstring(module, name, text))
    unique = [docstring for text, docstring in first_by_text.items() if len(modules_of_text[text]) == 1]
    unique.sort(key=lambda docstring: _hash_fraction("order " + docstring.name))
    selected_names: set[str] = set()
    for module in SOURCES:
        selected_names.update([docstring.name for docstring in unique if docstring.module == module][:PER_MODULE])
    return [docstring for docstring in unique if docstring.name in selected_names]


def _read(source: str) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, text) of the docstrings in a file or folder of the standard library.

    Raises MissingFilesError if there are no source files.
    """
    library = Path(sysconfig.get_path("stdlib"))
    root = library / source
    files = [root] if root.is_file() else sorted(root.rglob("*.py"))
    if not files:
        raise MissingFilesError(
            f"dataset 'pydocs': this Python has no source files at {root}. Use a Python with its source files."
        )
    for file in files:
        path = file.relative_to(library)
        if "test" not in path.parts:
            yield from _docstrings_of(ast.parse(file.read_text(encoding="utf-8")), path.as_posix())


def _docstrings_of(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, first paragraph) of the docstrings in a node with the qualified name `name`."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        paragraph = " ".join(inspect.cleandoc(text).partition("\n\n")[0].split()) if text else ""
        if len(paragraph.split()) >= SHORTEST:
            yield name, paragraph
    for child in ast.iter_child_nodes(node):
        child_name = getattr(child, "name", "") if isinstance(child, ast.stmt) else ""
        yield from _docstrings_of(child, f"{name}:{child_name}" if child_name else name)


def _hash_fraction(name: str) -> float:
    """Return a number from 0 to 1 that depends only on a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


register_dataset(
    name="pydocs",
    title="Docstrings of Python's standard library",
    classes=len(SOURCES),
    sizes={"train": None, "test": None},
    modality="text",
    open=_open,
    is_in_paper=False,
    notes="included in Python: needs no download",
)
