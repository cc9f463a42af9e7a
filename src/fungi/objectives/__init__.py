"""Self-supervised objectives, one per file. Each objective maps latents `[b v ...]` to one loss per sample `[b]`.

The name of the file is the name of the objective, so listing the objectives does not import torch.
"""

from typing import Any

from fungi.registry import Registry

EMBEDDINGS = "embeddings"
"""Name of the feature that has no objective, and of its array in files."""
OBJECTIVES: Registry[Any] = Registry("objective", "fungi.objectives", lazy=True, common=("base", "binding"))
