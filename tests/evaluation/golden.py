"""Reference features and results of the published evaluation code."""

import json
from pathlib import Path

FEATURES = Path(__file__).parents[1] / "golden" / "features"
RETRIEVAL = Path(__file__).parents[1] / "golden" / "retrieval"
GRADIENTS = ("kl", "dino", "simclr")


def reference_result(name: str) -> dict:
    """Return a result file of the published code."""
    return json.loads((FEATURES / f"{name}.json").read_text())


def file_flags(splits: tuple[str, ...] = ("train", "test")) -> list[str]:
    """Return the flags of the published code that select the reference files."""
    flags = []
    for split in splits:
        embeddings = str(FEATURES / f"embeddings-{split}.h5")
        flags += [f"--{split}-targets", embeddings, f"--{split}-embeddings-datasets", embeddings, f"--{split}-datasets"]
        flags += [f"{FEATURES / f'{name}-{split}.h5'}:attn_proj" for name in GRADIENTS]
    return flags
