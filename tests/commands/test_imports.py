"""The rooms stand in the order of the method, and imports point one way: late ones and those for types alone, too."""

import ast
from pathlib import Path

import pytest

import fungi

SOURCES = Path(fungi.__file__).parent
GROUND = ("errors", "values", "registry", "settings", "runtime", "axes", "profiles")
METHOD = (
    *("data", "views", "search", "backbones", "objectives", "gradients"),
    *("store", "combine", "evaluators", "results"),
)
TOWERS = ("extraction", "pretraining", "scoring", "segmentation", "ablations", "in_context", "importing")
DOORS = ("report", "commands", "grid", "demos", "reproduction", "cli", "library", "similar", "explain", "__main__")
ROOMS = (*GROUND, *METHOD, *TOWERS, *DOORS)
LIBRARY = ("config", "wrapper")
"""Files at the top that belong to the library."""


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCES.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    room = module.split(".")[1]
    return "library" if room in LIBRARY else room


def imported(path: Path, modules: set[str]) -> set[str]:
    """Modules of the package that a file imports, wherever in it that happens."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are written in full"
            whole = {f"{node.module}.{name.name}" for name in node.names}
            found |= (whole & modules) | ({node.module} if whole - modules else set())
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found |= {str(node.args[0].value)} if called in ("import_module", "__import__") else set()
    return (found & modules) - {"fungi", module_of(path)}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    paths = {module_of(path): path for path in sorted(SOURCES.rglob("*.py"))}
    return {module: imported(path, set(paths)) for module, path in paths.items() if module != "fungi"}


def test_every_room_has_its_place_in_the_order(graph: dict[str, set[str]]) -> None:
    assert {room_of(module) for module in graph} == set(ROOMS)


def test_imports_point_one_way(graph: dict[str, set[str]]) -> None:
    back = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if ROOMS.index(room_of(other)) > ROOMS.index(room_of(module))
    ]
    assert not back, "\n".join(back)


def test_pretraining_and_transfer_share_a_loop_and_nothing_else(graph: dict[str, set[str]]) -> None:
    rooms = {name: f"fungi.pretraining.{name}." for name in ("udi", "transfer")}
    across = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        for room in rooms.values()
        if module.startswith("fungi.pretraining.") and other.startswith(room) and not module.startswith(room)
    ]
    assert not across, "\n".join(across)


def test_no_modules_import_each_other_in_a_circle(graph: dict[str, set[str]]) -> None:
    """Taking away what imports nothing that is left, over and over, leaves nothing but circles."""
    left = dict(graph)
    while leaves := [module for module, others in left.items() if not others & set(left)]:
        for module in leaves:
            del left[module]
    assert not left, f"in circles, or on the way to one: {sorted(left)}"


def test_the_law_sees_late_imports_and_those_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fungi").mkdir()
    path = tmp_path / "fungi" / "a.py"
    path.write_text("def f():\n    from fungi import b\n    import_module('fungi.c')\n    import fungi.d\n")
    monkeypatch.setattr("tests.commands.test_imports.SOURCES", tmp_path / "fungi")
    assert imported(path, {"fungi", "fungi.b", "fungi.c", "fungi.d"}) == {"fungi.b", "fungi.c", "fungi.d"}
