"""FUNGI: Features from UNsupervised GradIents.

Each step of the method is a package. A package imports only packages to its left:

    data -> views -> backbones -> objectives -> gradients -> store -> combine -> evaluators -> results -> report

All packages can import `axes` (the legend of axis letters), `errors`, `registry`, `settings` and `runtime`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fungi.wrapper import FUNGIWrapper as FUNGIWrapper

__version__ = "0.3.0"


def __getattr__(name: str) -> Any:
    """Import `FUNGIWrapper` at its first use. Its module imports torch, so commands would otherwise start slowly."""
    if name == "FUNGIWrapper":
        from fungi.wrapper import FUNGIWrapper

        return FUNGIWrapper
    raise AttributeError(f"module 'fungi' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names of the package, including `FUNGIWrapper`, without importing torch."""
    return sorted([*globals(), "FUNGIWrapper"])
