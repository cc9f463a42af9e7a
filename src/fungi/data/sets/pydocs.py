"""`pydocs`: first paragraphs of the docstrings in Python's standard library, labelled by the module they come from.

Real English text that every Python brings along. It is read from the source files, nothing is imported. A docstring's
split follows from its name alone, so that what a patch release adds or edits moves no other row; the fingerprint tells
whether two machines have the same texts.
"""

import ast
import hashlib
import inspect
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

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
"""Class -> its file or folder in the standard library: modules written in Python, in every distribution of it."""

TEST_SHARE = 0.3
PER_MODULE = 130  # fewer than the smallest module has, so that all classes have as many rows
SHORTEST = 3  # words; shorter ones ("See above.") say nothing

Docstring = tuple[str, str, str]
"""Module, qualified name, text."""


def _open(data_dir: Path, split: str) -> Samples:
    rows = [found for found in docstrings() if (_share(found[1]) < TEST_SHARE) == (split == "test")]
    names = list(SOURCES)
    return text_samples(
        [text for _, _, text in rows],
        [names.index(module) for module, _, _ in rows],
        [name for _, name, _ in rows],
        class_names=names,
    )


@cache
def docstrings() -> list[Docstring]:
    """Docstrings without repetitions, in an order that mixes the modules and never changes for two that stay.

    Of each module the first ones in that order, as many of all. A text that occurs in several modules belongs to none
    and is left out.
    """
    first: dict[str, Docstring] = {}
    modules: dict[str, set[str]] = {}
    for module, place in SOURCES.items():
        for name, text in _read(place):
            modules.setdefault(text, set()).add(module)
            first.setdefault(text, (module, name, text))
    kept = [found for text, found in first.items() if len(modules[text]) == 1]
    kept.sort(key=lambda found: _share("order " + found[1]))
    places = {module: [name for of, name, _ in kept if of == module][:PER_MODULE] for module in SOURCES}
    return [found for found in kept if found[1] in places[found[0]]]


def _read(place: str) -> Iterator[tuple[str, str]]:
    """Qualified names and texts below a file or folder of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    root = library / place
    files = [root] if root.is_file() else sorted(root.rglob("*.py"))
    if not files:
        raise MissingFilesError(
            f"dataset 'pydocs': this Python has no source files at {root}. Use a Python that brings its sources."
        )
    for file in files:
        inner = file.relative_to(library)
        if "test" not in inner.parts:
            yield from _docstrings_of(ast.parse(file.read_text(encoding="utf-8")), inner.as_posix())


def _docstrings_of(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        paragraph = " ".join(inspect.cleandoc(text).partition("\n\n")[0].split()) if text else ""
        if len(paragraph.split()) >= SHORTEST:
            yield name, paragraph
    for child in ast.iter_child_nodes(node):
        inner = getattr(child, "name", "") if isinstance(child, ast.stmt) else ""
        yield from _docstrings_of(child, f"{name}:{inner}" if inner else name)


def _share(name: str) -> float:
    """Return a number in 0..1 that follows from a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


register_dataset(
    name="pydocs",
    title="Docstrings of Python's standard library",
    classes=len(SOURCES),
    sizes={"train": None, "test": None},
    modality="text",
    open=_open,
    published=False,
    notes="carried inside Python: needs no download",
)
