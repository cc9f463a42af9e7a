"""`scripts/check_words.py` reports violations, and reports none in the source, the scripts and the tests."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_words.py"
SPEC = importlib.util.spec_from_file_location("check_words", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
check_words = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_words)


def messages(tmp_path: Path, source: str) -> list[str]:
    """Return the messages of the check for a file with this source."""
    (tmp_path / "file.py").write_text(source)
    return [message for _, message in check_words.violations(tmp_path / "file.py")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("found = 1", "the name 'found' does not say what it holds"),
        ("def f(given): ...", "the name 'given' does not say what it holds"),
        ("[one for one in ()]", "the name 'one' does not say what it holds"),
        ("for told in (): ...", "the name 'told' does not say what it holds"),
        ("birth_record = 1", "retired word: use provenance"),
        ("class Maker: ...", "retired word: use code_version"),
        ('def f():\n    """The rows."""', "the docstring of f starts with 'The', not with a verb"),
        ('async def f():\n    """Of a file, its rows."""', "the docstring of f starts with 'Of', not with a verb"),
    ],
)
def test_violations_are_reported(tmp_path, source, message):
    (reported,) = messages(tmp_path, source)
    assert message in reported


@pytest.mark.parametrize(
    "source",
    [
        "indices = 1",
        "sweep_epochs = 1",  # `sweep` is a retired word, but this name is in the list ALLOWED of the script
        "print(found)",
        'def f():\n    """Return the rows."""',
        "def f(): ...",
        '@property\ndef f():\n    """The rows."""',
        'class Rows:\n    """The rows of a split."""',
    ],
)
def test_allowed_source_is_not_reported(tmp_path, source):
    assert messages(tmp_path, source) == []


def test_the_project_has_no_violations():
    files = [file for folder in check_words.CHECKED for file in sorted(folder.rglob("*.py"))]
    assert [text for file in files for _, text in check_words.violations(file)] == []
