"""FUNGI: Features from UNsupervised GradIents.

One package per step of the method; imports only point rightwards:

    data -> views -> backbones -> objectives -> gradients -> store -> combine -> evaluators -> results -> report

Common ground for all of them: `axes` (the legend of axis letters), `errors`, `registry`, `settings`, `runtime`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fungi.wrapper import FUNGIWrapper as FUNGIWrapper

__version__ = "0.3.0"


def __getattr__(name: str) -> Any:
    """`from fungi import FUNGIWrapper`, and torch is imported only then: commands start without it."""
    if name == "FUNGIWrapper":
        from fungi.wrapper import FUNGIWrapper

        return FUNGIWrapper
    raise AttributeError(f"module 'fungi' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what the package offers, `FUNGIWrapper` included, without importing torch."""
    return sorted([*globals(), "FUNGIWrapper"])
