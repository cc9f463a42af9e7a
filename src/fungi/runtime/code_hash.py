"""Hash the code that a result depends on: a module and everything that it imports, without comments and docstrings.

The code of a module includes every file of this package that the module imports, directly or through other files. The
import may be at the top, inside a function, by name (`import_module("fungi.x")`) or by a registry, which imports all
modules of a package. Imports under `if TYPE_CHECKING` do not count.
"""

import ast
import gc
import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
_PACKAGE_NAME = PACKAGE.name
_IMPORT_BY_NAME = ("import_module", "Registry")
"""Functions whose arguments name modules, as `package.module` or `package.module:function`."""
_NODES_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def code_hash(module: str) -> str:
    """Return a hash (twelve hexadecimal digits) of a module and of everything that it imports from this package.

    Any change of the code, such as another constant, changes the hash. Comments, docstrings, the layout of the source
    and files that are not imported do not change it.
    """
    digest = hashlib.sha256()
    for name, path in sorted(imported_files(module).items()):
        hash_of_file, _ = _hash_and_imports(path)
        digest.update(f"{name}\0".encode() + hash_of_file)
    return digest.hexdigest()[:12]


def imported_files(module: str) -> dict[str, Path]:
    """Return the module and everything that it imports from this package, as name -> file."""
    files: dict[str, Path] = {}
    pending = [module]
    with _without_garbage_collection():
        while pending:
            name = pending.pop()
            path = _file_of(name)
            if path is None or name in files or name == _PACKAGE_NAME:
                continue
            files[name] = path
            pending.append(name.rpartition(".")[0])  # importing a module runs the __init__.py of its packages
            _, imports = _hash_and_imports(path)
            for imported, with_submodules in imports:
                pending += [imported, *(_submodules(imported) if with_submodules else ())]
    return files


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Switch the garbage collector off inside the `with` statement.

    Syntax trees are many small objects without cycles, and the search for cycles takes twice as long as parsing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _file_of(module: str) -> Path | None:
    """Return the file of a module of this package, or of a script outside this package; None if it has no file."""
    if module.partition(".")[0] != _PACKAGE_NAME:
        spec = importlib.util.find_spec(module) if module else None
        return Path(spec.origin) if spec and spec.origin else None
    folder = PACKAGE.joinpath(*module.split(".")[1:])
    return next((path for path in (folder.with_suffix(".py"), folder / "__init__.py") if path.is_file()), None)


def _submodules(package: str) -> list[str]:
    """Return the modules in the folder of a package, which a registry imports."""
    folder = PACKAGE.joinpath(*package.split(".")[1:])
    return [f"{package}.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"]


@cache
def _hash_and_imports(path: Path) -> tuple[bytes, frozenset[tuple[str, bool]]]:
    """Return the hash of the syntax tree of a file, and the imports from this package: (name, with all submodules)."""
    parts: list[str] = []
    imports: set[tuple[str, bool]] = set()
    _collect(ast.parse(path.read_bytes()), parts, imports)
    return hashlib.sha256("\0".join(parts).encode()).digest(), frozenset(imports)


def _collect(node: Any, parts: list[str], imports: set[tuple[str, bool]]) -> None:
    """Append the parts of a syntax tree to `parts`, and add the imports in the tree to `imports`.

    The parts are in order, without positions and docstrings. This function is about three times as fast as `ast.dump`
    and `ast.walk`.
    """
    node_type = node.__class__
    parts.append(node_type.__name__)
    if node_type is ast.ImportFrom or node_type is ast.Import or node_type is ast.Call:
        imports.update(_imports_of(node))
    elif node_type is ast.If and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    for name in node._fields:
        if name == "ctx":  # the place of the node in the tree determines its context
            continue
        value: Any = getattr(node, name, None)
        if value.__class__ is list:
            parts.append(f"[{name}")
            if name == "body" and isinstance(node, _NODES_WITH_DOCSTRING) and _is_docstring(value):
                value = value[1:]
            for entry in value:
                if isinstance(entry, ast.AST):
                    _collect(entry, parts, imports)
                else:
                    parts.append(repr(entry))
            parts.append("]")
        elif isinstance(value, ast.AST):
            _collect(value, parts, imports)
        else:
            parts.append(repr(value))


def _is_docstring(body: list[ast.stmt]) -> bool:
    first = body[0] if body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _imports_of(node: Any) -> Iterator[tuple[str, bool]]:
    """Yield the imports from this package in an import or a call: (name, with all submodules)."""
    if isinstance(node, ast.ImportFrom):
        if node.module and node.module.partition(".")[0] == _PACKAGE_NAME:
            yield node.module, False
            yield from ((f"{node.module}.{alias.name}", False) for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from ((alias.name, False) for alias in node.names if alias.name.partition(".")[0] == _PACKAGE_NAME)
    elif getattr(node.func, "attr", getattr(node.func, "id", "")) in _IMPORT_BY_NAME:
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            text = argument.value if isinstance(argument, ast.Constant) else None
            if isinstance(text, str) and text.partition(".")[0] == _PACKAGE_NAME:
                yield text.partition(":")[0], True
