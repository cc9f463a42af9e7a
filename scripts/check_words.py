"""Check that names and docstrings use the words of the glossary (CONTRIBUTING.md). `make check` runs it.

    python scripts/check_words.py                 # every violation, exit status 1 if there is any
    python scripts/check_words.py --count         # number of violations per folder

ruff's rule D401 asks that docstrings of functions are in the imperative. This check adds the rules that ruff does not
have. A text after each table of rules gives the reason.
"""

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CHECKED = [PROJECT / "src" / "fungi", PROJECT / "scripts", PROJECT / "tests"]
"""The folders that are checked by default."""

VAGUE_NAMES = {"found", "made", "given", "one", "told", "wanted", "whole", "asked", "heeded", "done_so", "whatever"}
"""Names that do not say what the value is. A result is named by the noun for its content: `indices`, `scores`."""

RETIRED_WORDS = {
    "birth": "provenance",
    "births": "provenances",
    "maker": "code_version",
    "makers": "code_versions",
    "judge": "evaluation_version",
    "quirk": "deviation",
    "quirks": "deviations",
    "likeness": "similarity, or decision_score",
    "peelings": "without_wrappers",
    "sweep": "remove_orphans",
    "epitaph": "reason",
    "litter": "orphans",
}
"""Words of earlier versions -> words of the glossary. `sweep_epochs` is allowed: "lambda sweep" is a standard term."""

FIRST_WORDS = {
    *("Of", "By", "In", "On", "At", "From", "With", "Without", "As", "Under", "Within", "While", "Through", "Beside"),
    *("What", "How", "Where", "Whose", "Who", "Why", "Which", "That", "This", "These", "It", "They", "Its", "Their"),
    *("One", "All", "Every", "Each", "Both", "Some", "Several", "Nothing", "Everything", "Two", "The", "A", "An"),
    *("FungiError", "FungiError,", "Whether", "Mean", "Rows", "Features", "None."),
}
"""First words of fragments. A docstring of a function starts with a verb, such as `Return`, that says what it does."""

SENTENCE_WORDS = {
    *("The", "A", "An", "This", "These", "It", "They", "Its", "Their", "Rows", "Features"),
    *("One", "All", "Every", "Each", "Both", "Some", "Several", "Nothing", "Everything", "Two"),
    *("In", "On", "At", "With", "Without", "While", "From"),
}
"""First words that are allowed in docstrings of tests. Such a docstring is a sentence about the law in the name."""

RETIRED_PHRASES = {
    r"\b(?:anew|thereof|aloud)\b": "again, of it, in a message: many readers do not know the rare words",
    r"\bbrought (?:to|back)\b": "scaled to, set to: the phrase does not name the operation",
    r"\b(?:is|are) no multiples? of\b": "is not a multiple of: `no` before a noun turns the sentence around",
    r"\b\w*Error\s+where\b": "Raises FungiError if: a condition starts with `if`, a place with `where`",
}
"""Regular expressions of phrases that docstrings must not have -> the better words, and the reason."""

ALLOWED = {"sweep_epochs"}
"""Names that may have a retired word."""


def violations(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, message) for every violation in a Python file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name, line in _bound_names(node):
            if name in VAGUE_NAMES:
                yield line, f"the name {name!r} does not say what it holds"
            for word in name.lower().split("_"):
                if word in RETIRED_WORDS and name not in ALLOWED:
                    yield line, f"the name {name!r} has a retired word: use {RETIRED_WORDS[word]}"
        yield from _retired_phrases(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_property(node):
            words = (ast.get_docstring(node) or "").split()
            allowed = SENTENCE_WORDS if node.name.startswith("test_") else set()
            if words and words[0] in FIRST_WORDS - allowed:
                yield node.lineno, f"the docstring of {node.name} starts with {words[0]!r}, not with a verb"


def _retired_phrases(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, message) for every retired phrase in the docstring of a node."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        for phrase, advice in RETIRED_PHRASES.items():
            if match := re.search(phrase, ast.get_docstring(node) or ""):
                yield getattr(node, "lineno", 1), f"a docstring has {match.group()!r}. Better: {advice}"


def _bound_names(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the names that a node gives to values, functions and classes, with their lines."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, node.lineno
    elif isinstance(node, ast.arg):
        yield node.arg, node.lineno
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, node.lineno


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "") for part in node.decorator_list}
    return bool(names & {"property", "cached_property", "setter", "overload"})


def main() -> int:
    """Print the violations, or their number per folder. Return 1 if there are any, otherwise 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "paths", nargs="*", type=Path, default=CHECKED, help="files or folders (default: src, scripts, tests)"
    )
    parser.add_argument("--count", action="store_true", help="print the number of violations per folder")
    options = parser.parse_args()
    files: set[Path] = set()
    for path in options.paths:
        files |= {path} if path.is_file() else set(path.rglob("*.py"))
    counts: Counter[str] = Counter()
    for file in sorted(files):
        for line, message in sorted(violations(file)):
            counts[file.parent.name] += 1
            if not options.count:
                print(f"{file}:{line}: {message}")
    if options.count:
        print("\n".join(f"{count:>5}  {folder}" for folder, count in counts.most_common()))
    return int(bool(counts))


if __name__ == "__main__":
    sys.exit(main())
