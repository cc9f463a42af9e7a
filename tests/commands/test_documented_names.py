"""Names of Python objects in the documents exist."""

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "log.md")]
NOT_MODULES = ("def", "extract", "setup", "sif")
"""Words after `fungi.` that belong to files (`fungi.sif`) or to methods of a variable with the name `fungi`."""
_NAME = re.compile(r"\bfungi((?:\.[A-Za-z_]\w*)+)")


def _names(path: Path) -> list[str]:
    """Return the dotted names of a document, such as `config.KLConfig`, without the name of the package."""
    names = (name.removeprefix(".") for name in _NAME.findall(path.read_text(encoding="utf-8")))
    return sorted({name for name in names if name.partition(".")[0] not in NOT_MODULES})


NAMES = [(path.name, name) for path in DOCUMENTS for name in _names(path)]


def test_the_documents_name_functions() -> None:
    assert ("segmentation.md", "segmentation.dense.set_input_size") in NAMES


@pytest.mark.parametrize(("document", "name"), NAMES)
def test_a_name_in_a_document_exists(document: str, name: str) -> None:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(["fungi", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        reduce(getattr, parts[count:], module)
        return
    pytest.fail(f"docs/{document} names fungi.{name}, which does not exist")
