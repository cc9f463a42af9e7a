"""Per-sample gradients of chosen layers, and their random projection.

The extractors of the library can be imported from here: `<Objective>GradientsExtractor` for each objective. Each class
is created at its first import.
"""

from importlib import import_module
from typing import Any

_SUFFIX = "GradientsExtractor"


def __getattr__(name: str) -> Any:
    if name.endswith(_SUFFIX):
        objective = import_module("fungi.objectives.base").called(name.removesuffix(_SUFFIX))
        if objective is not None:
            return import_module("fungi.gradients.objective_extractors").extractor_of(objective)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
