"""Per-sample gradients of chosen layers, and their random projection.

The extractors of the library can be imported from here; they are loaded when asked for.
"""

from importlib import import_module
from typing import Any

_EXTRACTORS = (
    "KLGradientsExtractor",
    "DINOGradientsExtractor",
    "SimCLRGradientsExtractor",
    "DeepClusterGradientsExtractor",
    "IBOTGradientsExtractor",
)


def __getattr__(name: str) -> Any:
    if name in _EXTRACTORS:
        return getattr(import_module("fungi.gradients.objective_extractors"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
