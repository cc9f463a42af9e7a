"""The packages have the order of the method, and a module imports only modules of its own or of earlier packages.

This includes imports inside functions, and imports for type checks.
"""

import ast
from pathlib import Path

import pytest

import fungi

SOURCES = Path(fungi.__file__).parent
# All packages in their order, in four groups. A package imports only packages that come earlier.
BASE = ("errors", "values", "registry", "settings", "runtime", "axes", "profiles")
METHOD = (
    *("data", "views", "search", "backbones", "objectives", "gradients"),
    *("store", "combine", "evaluators", "results"),
)
TASKS = ("extraction", "pretraining", "scoring", "segmentation", "ablations", "in_context", "importing")
INTERFACES = ("report", "commands", "grid", "demos", "reproduction", "cli", "library", "similar", "explain", "__main__")
PACKAGES = (*BASE, *METHOD, *TASKS, *INTERFACES)
LIBRARY = ("config", "wrapper")
"""Files at the top that belong to the library."""


def module_of(path: Path) -> str:
    """Return the name of the module in a file."""
    parts = path.relative_to(SOURCES.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """Return the package of a module, as `PACKAGES` names it."""
    package = module.split(".")[1]
    return "library" if package in LIBRARY else package


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Return the modules that a file imports anywhere. modules: all modules of `fungi`."""
    imports = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imports |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} has a relative import"
            names = {f"{node.module}.{name.name}" for name in node.names}
            imports |= (names & modules) | ({node.module} if names - modules else set())
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            imports |= {str(node.args[0].value)} if function in ("import_module", "__import__") else set()
    return (imports & modules) - {"fungi", module_of(path)}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Return module -> the modules that it imports."""
    paths = {module_of(path): path for path in sorted(SOURCES.rglob("*.py"))}
    return {module: imported_modules(path, set(paths)) for module, path in paths.items() if module != "fungi"}


def test_every_package_is_in_the_list(graph: dict[str, set[str]]) -> None:
    assert {package_of(module) for module in graph} == set(PACKAGES)


def test_no_module_imports_a_module_of_a_later_package(graph: dict[str, set[str]]) -> None:
    wrong_imports = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if PACKAGES.index(package_of(other)) > PACKAGES.index(package_of(module))
    ]
    assert not wrong_imports, "\n".join(wrong_imports)


def test_only_udi_imports_udi_and_only_transfer_imports_transfer(graph: dict[str, set[str]]) -> None:
    imports_of_pretraining = {name: others for name, others in graph.items() if name.startswith("fungi.pretraining.")}
    wrong_imports = []
    for package in ("fungi.pretraining.udi.", "fungi.pretraining.transfer."):
        for module, others in imports_of_pretraining.items():
            if not module.startswith(package):
                wrong_imports += [f"{module} imports {other}" for other in others if other.startswith(package)]
    assert not wrong_imports, "\n".join(wrong_imports)


def test_no_imports_are_circular(graph: dict[str, set[str]]) -> None:
    """Remove modules without imports repeatedly. Only circles, and modules that import circles, remain."""
    remaining = dict(graph)
    while leaves := [module for module, others in remaining.items() if not others & set(remaining)]:
        for module in leaves:
            del remaining[module]
    assert not remaining, f"modules in circles, or that import a circle: {sorted(remaining)}"


def test_the_law_includes_imports_inside_functions_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fungi").mkdir()
    path = tmp_path / "fungi" / "a.py"
    path.write_text("def f():\n    from fungi import b\n    import_module('fungi.c')\n    import fungi.d\n")
    monkeypatch.setattr("tests.commands.test_imports.SOURCES", tmp_path / "fungi")
    assert imported_modules(path, {"fungi", "fungi.b", "fungi.c", "fungi.d"}) == {"fungi.b", "fungi.c", "fungi.d"}
