"""Tables as text: columns of one width, and numbers with their deviation."""

from collections.abc import Sequence


def plus_minus(value: float | int, deviation: float | None = None, width: int = 0) -> str:
    """`76.5 ± 0.4`, or `76.5` where there is no deviation. width: of the value, blanks before it."""
    return f"{value:{width}.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of one width, with two blanks between them."""
    return "\n".join("  ".join(line).rstrip() for line in _padded(lines))


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A markdown table with aligned columns."""
    head, *body = _padded([header, *cells])
    lines = [head, ["-" * len(text) for text in head], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _padded(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
