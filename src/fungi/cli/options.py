"""`--set OBJECTIVE.OPTION=VALUE`: settings of objectives and views on the command line."""

import ast
from typing import Any

from fungi.errors import FungiError


def parse_options(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """`("simclr.temperature=0.1", ...)` -> `{"simclr": {"temperature": 0.1}}`; values as Python literals or text."""
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        objective, dot, option = key.partition(".")
        if not equals or not dot:
            raise FungiError(f"--set {text!r} is not OBJECTIVE.OPTION=VALUE, as in simclr.temperature=0.1.")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        options.setdefault(objective, {})[option] = parsed
    return options
