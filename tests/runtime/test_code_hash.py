"""The hash of a module depends on the code that it imports, and on nothing else."""

from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from fungi.runtime import code_hash as module
from fungi.runtime.code_hash import code_hash, imported_files
from fungi.store.code_version import EXTRACTION

# Source files of the test package. `own` of a registry is the function for a user's own data or model (`Registry`).
FILES = {
    "__init__.py": "",
    "scoring/__init__.py": "from fungi.scoring.package_level import X",
    "scoring/package_level.py": "X = 1",
    "scoring/work.py": '"""Docstring."""\nfrom fungi import top\nfrom fungi.scoring.deep import f\nK = 20\n',
    "scoring/deep.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fungi.only_types import T\n\n"
        "def f():\n    '''Docstring.'''\n    import fungi.late  # a comment\n"
        "    return import_module('fungi.by_name')\n"
    ),
    "top.py": "THINGS = Registry('thing', 'fungi.things', own='fungi.own_thing:make')",
    "late.py": "A = 1",
    "by_name.py": "A = 1",
    "own_thing.py": "A = 1",
    "things/__init__.py": "",
    "things/one.py": "A = 1",
    "only_types.py": "T = int",
    "report.py": "A = 1",
}
IMPORTED = [name for name in FILES if name not in ("__init__.py", "only_types.py", "report.py")]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a package with the files in `FILES`, and return its folder."""
    root = tmp_path / "fungi"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(module, "PACKAGE", root)
    yield root
    clear_caches()


def clear_caches() -> None:
    code_hash.cache_clear()
    module._hash_and_imports.cache_clear()


def hash_now() -> str:
    """Return the hash of `scoring/work.py`, computed again."""
    clear_caches()
    return code_hash("fungi.scoring.work")


@pytest.mark.parametrize("name", IMPORTED)
def test_a_new_constant_in_an_imported_file_changes_the_hash(name: str, package: Path) -> None:
    before = hash_now()
    (package / name).write_text(FILES[name] + "\nADDED = 2\n")
    assert hash_now() != before


# `__init__.py` of the root package does not count, because every new version number would otherwise change all hashes.
@pytest.mark.parametrize("name", ["only_types.py", "report.py", "__init__.py"])
def test_files_that_are_not_imported_and_the_root_package_do_not_change_the_hash(name: str, package: Path) -> None:
    before = hash_now()
    (package / name).write_text(FILES[name] + "\nADDED = 2\n")
    (package / "new.py").write_text("A = 1")
    assert hash_now() == before


def test_comments_docstrings_and_layout_do_not_change_the_hash(package: Path) -> None:
    before = hash_now()
    work, deep = package / "scoring" / "work.py", package / "scoring" / "deep.py"
    work.write_text(
        FILES["scoring/work.py"].replace("Docstring", "Other words").replace("K = 20", "K = (\n    20  # k\n)")
    )
    deep.write_text(FILES["scoring/deep.py"].replace("Docstring", "Words").replace("# a comment", "# another comment"))
    assert hash_now() == before
    work.write_text(FILES["scoring/work.py"].replace("K = 20", "K = 21"))
    assert hash_now() != before


def test_a_new_entry_of_a_registry_changes_the_hash(package: Path) -> None:
    before = hash_now()
    (package / "things" / "two.py").write_text("A = 1")
    assert hash_now() != before


def test_the_hash_of_extraction_covers_the_code_that_computes_features_but_no_commands_or_reports() -> None:
    packages = {name.split(".")[1] for name in imported_files(EXTRACTION)}
    assert {"gradients", "objectives", "views", "backbones", "data", "extraction", "store"} <= packages
    users_of_extraction = {
        "commands",
        "cli",
        "reproduction",
        "similar",
        "wrapper",
        "library",
        "grid",
        "demos",
        "report",
    }
    assert not packages & (
        users_of_extraction | {"results", "scoring", "segmentation", "ablations", "in_context", "pretraining"}
    )


def test_the_hash_of_extraction_covers_everything_that_the_command_extract_imports() -> None:
    """`EXTRACTION` is the module of `extract-gradients`. The command `extract` only writes embeddings."""
    extract = COMMANDS["extract"].module
    assert set(imported_files(extract)) - {extract} <= set(imported_files(EXTRACTION))


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("segment", ["fungi.segmentation.scoring", "fungi.evaluators.segmentation", "fungi.gradients.engine"]),
        ("in-context", ["fungi.in_context.prompts", "fungi.evaluators.in_context"]),
        ("ablate", ["fungi.ablations.catalogue", "fungi.gradients.engine", "fungi.evaluators.knn"]),
        ("linear", ["fungi.evaluators.logistic", "fungi.scoring.linear_scorer", "fungi.combine.pca"]),
    ],
)
def test_the_hash_of_a_score_covers_the_code_that_computes_the_score(command: str, files: list[str]) -> None:
    settings_type = COMMANDS[command].settings_type
    # `computed_in` is the module that computes the scores; if empty, the module of the settings (`ResultSettings`).
    imported = imported_files(settings_type.computed_in or settings_type.__module__)
    assert set(files) <= set(imported)
    assert not any(name.startswith(("fungi.report", "fungi.grid", "fungi.cli")) for name in imported)
