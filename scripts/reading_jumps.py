"""List places where a reader has to jump: one-use private functions, short files, and tensors without axes.

python scripts/reading_jumps.py [PACKAGE ...]

The script lists the places by package. A listed place is not always a fault.
"""

import ast
import sys
from collections import Counter
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "src" / "fungi"
FEW_LINES, SHORT_FILE = 4, 60
"""Largest number of lines of a short function, and number of lines below which a file is short."""
ARRAYS = ("Tensor", "torch.Tensor", "np.ndarray")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> list[Function]:
    """Return all functions and methods of a file."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def body_lines(function: Function) -> int:
    """Return the number of lines of the body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1 if body else 0


def one_use_functions(tree: ast.AST) -> list[Function]:
    """Return the short private functions without decorators that their file uses only once."""
    uses = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    uses += Counter(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return [
        function
        for function in functions(tree)
        if function.name.startswith("_") and not function.name.startswith("__") and not function.decorator_list
        if body_lines(function) <= FEW_LINES and uses[function.name] == 1
    ]


def functions_on_arrays(tree: ast.Module) -> tuple[int, list[Function]]:
    """Return the number of public functions with arrays in their signature, and those whose arrays have no axes."""
    without_axes, count = [], 0
    scopes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for function in [node for scope in scopes for node in scope.body if isinstance(node, ast.FunctionDef)]:
        if function.name.startswith("_"):
            continue
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        annotations = [*(argument.annotation for argument in arguments), function.returns]
        hints = [ast.unparse(annotation) for annotation in annotations if annotation]
        if any("Tensor" in hint or "ndarray" in hint for hint in hints):
            count += 1
            if any(_has_array_without_axes(hint) for hint in hints):
                without_axes.append(function)
    return count, without_axes


def _has_array_without_axes(hint: str) -> bool:
    """Return whether a type hint has an array that is not the first part of a hint like `Float[Tensor, "n d"]`."""
    tree = ast.parse(hint)
    brackets = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    with_axes = set()  # nodes of arrays that a string follows within the brackets
    for content in brackets:
        if isinstance(content, ast.Tuple) and len(content.elts) == 2 and isinstance(content.elts[1], ast.Constant):
            with_axes.add(content.elts[0])
    arrays = [node for node in ast.walk(tree) if isinstance(node, ast.expr) and ast.unparse(node) in ARRAYS]
    return any(node not in with_axes for node in arrays)


def main(packages: list[str]) -> None:
    """Print the places in these packages, and then a row of counts per package. An empty list means all packages."""
    table: dict[str, Counter[str]] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES).parts
        package, text = parts[0] if len(parts) > 1 else ".", path.read_text(encoding="utf-8")
        if packages and package not in packages:
            continue
        tree, lines = ast.parse(text), text.count("\n")
        one_use, (on_arrays, without_axes) = one_use_functions(tree), functions_on_arrays(tree)
        short = 1 < lines < SHORT_FILE
        for function in one_use:
            print(f"{path}:{function.lineno}: {function.name} ({body_lines(function)} lines)")
        for function in without_axes:
            print(f"{path}:{function.lineno}: {function.name} without axes")
        if short:
            print(f"{path}: {lines} lines")
        table.setdefault(package, Counter()).update(
            lines=lines, one_use=len(one_use), short=int(short), arrays=on_arrays, without_axes=len(without_axes)
        )
    total: Counter[str] = Counter()
    for counts in table.values():
        total.update(counts)
    print(f"{'package':<14}{'lines':>7}{'one use':>9}{'short files':>13}{'on arrays':>11}{'without axes':>14}")
    for package, counts in [*table.items(), ("all", total)]:
        numbers = (counts["lines"], counts["one_use"], counts["short"], counts["arrays"], counts["without_axes"])
        print("{:<14}{:>7}{:>9}{:>13}{:>11}{:>14}".format(package, *numbers))


if __name__ == "__main__":
    main(sys.argv[1:])
