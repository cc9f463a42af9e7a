"""`fungi list`: the names of datasets, backbones, objectives and commands."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from fungi.backbones.base import BACKBONES
from fungi.commands import COMMANDS
from fungi.objectives import OBJECTIVES
from fungi.results.text import aligned
from fungi.settings import setting

DESCRIPTION = """Print the names of all datasets, backbones, objectives and commands.

  fungi list
  fungi list datasets                 (short for --only datasets)

The backbones have three sizes: E of the embedding, p of the projected gradient, G of the gradient."""


@dataclass(frozen=True, kw_only=True)
class ListSettings:
    """Settings of `fungi list`."""

    only: Literal["all", "datasets", "backbones", "objectives", "commands"] = setting(
        "all", "kind of names to print", first_word=True
    )


def run(settings: ListSettings) -> None:
    """Print the tables."""
    tables = {"datasets": _datasets, "backbones": _backbones, "objectives": _objectives, "commands": _commands}
    for title, rows in tables.items():
        if settings.only in ("all", title):
            print(aligned(list(rows())) + "\n")


# Each function yields the column titles, then the rows of its table.


def _datasets() -> Iterator[tuple[str, ...]]:
    from fungi.data.base import DATASETS

    yield ("dataset", "modality", "classes", "rows per split", "metric", "title")
    for name in DATASETS:
        spec = DATASETS[name]
        sizes = ", ".join(f"{split} {size}" for split, size in spec.sizes.items())
        yield name, spec.modality, str(spec.classes or "-"), sizes, spec.metric, spec.title


def _backbones() -> Iterator[tuple[str, ...]]:
    yield ("backbone", "modality", "E", "p", "G", "gradient source", "label", "notes")
    for name in BACKBONES:
        spec = BACKBONES[name]
        sizes = (str(size) for size in (spec.embedding_dim, spec.projection_dim, spec.gradient_dim))
        yield name, spec.modality, *sizes, spec.layer, spec.label, spec.notes


def _objectives() -> Iterator[tuple[str, ...]]:
    yield ("objective", "what it does")
    for name in OBJECTIVES:
        summary = (import_module(OBJECTIVES[name].__module__).__doc__ or " ").splitlines()[0]
        yield name, re.sub(r" \(spec .*?\)", "", summary)  # without the source, which is for readers of the code


def _commands() -> Iterator[tuple[str, ...]]:
    yield ("command", "stage of the grid", "file", "what it does")
    for command in COMMANDS.values():
        yield command.name, command.stage or "-", command.file or "-", command.help
