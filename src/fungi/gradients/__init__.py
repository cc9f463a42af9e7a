"""Per-sample gradients of selected layers, and their random projection.

Each objective has an extractor class, `<Objective>GradientsExtractor`. The class can be imported from this package. It
is created at the first access.
"""

from importlib import import_module
from typing import Any

_SUFFIX = "GradientsExtractor"


def __getattr__(name: str) -> Any:
    if name.endswith(_SUFFIX):
        objective = import_module("fungi.objectives.base").objective_of_class(name.removesuffix(_SUFFIX))
        if objective is not None:
            return import_module("fungi.gradients.objective_extractors").extractor_of(objective)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
