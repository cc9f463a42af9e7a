"""One loss per file: latents `[b v ...]` -> one loss per sample `[b]`; the engine sums.

A file's name is the objective's name, so that the enumeration is known without importing torch.
"""

from typing import Any

from fungi.registry import Registry

EMBEDDINGS = "embeddings"
"""Name of the feature that is made without an objective, and of its array."""
OBJECTIVES: Registry[Any] = Registry("objective", "fungi.objectives", lazy=True, common=("base", "binding"))
