"""`fungi list`: the names that --dataset, --backbone and --objective take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fungi.cli.command import run_command
from fungi.settings import setting

DESCRIPTION = """Name what there is: `fungi list`, or one of `fungi list --only datasets`, `backbones`, `objectives`."""


@dataclass(frozen=True, kw_only=True)
class ListSettings:
    """What to name."""

    only: Literal["all", "datasets", "backbones", "objectives"] = setting("all", "name these alone")


def run(settings: ListSettings) -> None:
    """Print the tables."""
    tables = {"datasets": _datasets, "backbones": _backbones, "objectives": _objectives}
    for title, rows in tables.items():
        if settings.only in ("all", title):
            print(_aligned(list(rows())) + "\n")


def _datasets() -> Iterator[tuple[str, ...]]:
    from fungi.data.base import DATASETS

    yield ("dataset", "modality", "classes", "rows per split", "metric", "title")
    for name in DATASETS:
        spec = DATASETS[name]
        sizes = ", ".join(f"{split} {size}" for split, size in spec.sizes.items())
        yield name, spec.modality, str(spec.classes or "-"), sizes, spec.metric, spec.title


def _backbones() -> Iterator[tuple[str, ...]]:
    from fungi.backbones.base import BACKBONES

    yield ("backbone", "modality", "E", "p", "G", "gradient source", "label", "notes")
    for name in BACKBONES:
        spec = BACKBONES[name]
        sizes = (str(size) for size in (spec.embedding_dim, spec.projection_dim, spec.gradient_dim))
        yield name, spec.modality, *sizes, spec.layer, spec.label, spec.notes


def _objectives() -> Iterator[tuple[str, ...]]:
    from fungi.objectives import OBJECTIVES

    yield ("objective", "what it does")
    for name in OBJECTIVES:
        module = __import__(OBJECTIVES[name].__module__, fromlist=["__doc__"])
        yield name, (module.__doc__ or "").splitlines()[0]


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; `fungi list datasets` is short for `fungi list --only datasets`."""
    given = None if arguments is None else list(arguments)
    if given and not given[0].startswith("-"):
        given = ["--only", *given]
    return run_command(ListSettings, run, program="fungi list", description=DESCRIPTION, arguments=given)
