"""What makes a reader jump: private functions of few lines that are called once, short files, tensors without axes.

python scripts/crumbs.py [ROOM]      names them, room by room; a candidate is not yet a fault
"""

import ast
import sys
from collections import Counter
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "src" / "fungi"
FEW_LINES, SHORT_FILE = 4, 60
ARRAYS = ("Tensor", "torch.Tensor", "np.ndarray")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> list[Function]:
    """Return all functions of a file, methods among them."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def body_lines(function: Function) -> int:
    """Return lines of the body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1 if body else 0


def crumbs(tree: ast.AST) -> list[Function]:
    """Private undecorated functions of few lines that their file names once."""
    used = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    used += Counter(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return [
        function
        for function in functions(tree)
        if function.name.startswith("_") and not function.name.startswith("__") and not function.decorator_list
        if body_lines(function) <= FEW_LINES and used[function.name] == 1
    ]


def on_arrays(tree: ast.Module) -> tuple[int, list[Function]]:
    """Public functions that take or give arrays: how many, and those of which say no axes."""
    plain, counted = [], 0
    places = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for function in [node for place in places for node in place.body if isinstance(node, ast.FunctionDef)]:
        if function.name.startswith("_"):
            continue
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        hints = [ast.unparse(hint) for hint in [*(one.annotation for one in arguments), function.returns] if hint]
        if any("Tensor" in hint or "ndarray" in hint for hint in hints):
            counted += 1
            plain += [function] if any(_without_axes(hint) for hint in hints) else []
    return counted, plain


def _without_axes(hint: str) -> bool:
    """Return whether an array stands in a hint on its own, not as the first part of `Float[Tensor, "n d"]`."""
    tree = ast.parse(hint)
    parts = [
        node.slice.elts
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        if isinstance(node.slice, ast.Tuple)
    ]
    told = {id(first) for first, *rest in parts if len(rest) == 1 and isinstance(rest[0], ast.Constant)}
    return any(
        ast.unparse(node) in ARRAYS and id(node) not in told for node in ast.walk(tree) if isinstance(node, ast.expr)
    )


def main(rooms: list[str]) -> None:
    """Print candidates and, at the end, a line per room."""
    table: dict[str, Counter[str]] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES).parts
        room, text = parts[0] if len(parts) > 1 else ".", path.read_text(encoding="utf-8")
        if rooms and room not in rooms:
            continue
        tree, lines = ast.parse(text), text.count("\n")
        found, (counted, plain) = crumbs(tree), on_arrays(tree)
        short = 1 < lines < SHORT_FILE
        for function in found:
            print(f"{path}:{function.lineno}: {function.name} ({body_lines(function)} lines)")
        for function in plain:
            print(f"{path}:{function.lineno}: {function.name} without axes")
        if short:
            print(f"{path}: {lines} lines")
        table.setdefault(room, Counter()).update(
            lines=lines, crumbs=len(found), short=int(short), arrays=counted, plain=len(plain)
        )
    total: Counter[str] = Counter()
    for counts in table.values():
        total.update(counts)
    print(f"{'room':<14}{'lines':>7}{'crumbs':>8}{'short files':>13}{'on arrays':>11}{'without axes':>14}")
    for room, counts in [*table.items(), ("all", total)]:
        numbers = (counts["lines"], counts["crumbs"], counts["short"], counts["arrays"], counts["plain"])
        print("{:<14}{:>7}{:>8}{:>13}{:>11}{:>14}".format(room, *numbers))


if __name__ == "__main__":
    main(sys.argv[1:])
