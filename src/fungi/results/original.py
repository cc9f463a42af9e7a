"""Result files of the original harness (spec vision 8), read as if they were ours.

logs/<backbone>/<dataset>.json, logs/<backbone>/<n>-shots/<dataset>.json, logs/linear/<backbone>/...
{"args": {...}, "metrics": {"train.h5;kl-train.h5": {"accuracy": [0.5], ...}}, "test_targets": [...]}
"""

import re
from pathlib import Path
from typing import Any

from fungi.combine.names import in_order, name_of
from fungi.store.layout import EMBEDDINGS

_SPLITS = ("train", "valid", "test", "query")


def is_original(content: Any) -> bool:
    """Whether a JSON file is of the original harness."""
    return isinstance(content, dict) and isinstance(content.get("args"), dict) and "metrics" in content


def from_original(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The content in our form. Features carry no provenances there, so that nothing is known of their profile."""
    folders = path.parts[path.parts.index("logs") + 1 : -1] if "logs" in path.parts else path.parts[-2:-1]
    shots = next((int(found[1]) for name in folders if (found := re.fullmatch(r"(\d+)-shots", name))), None)
    names = [name for name in folders if name != "linear" and not name.endswith("-shots")]
    results = {
        # Numbers are kept in lists of one entry there.
        _combination(files): {name: v[0] if isinstance(v, list) and v else v for name, v in scores.items()}
        for files, scores in content["metrics"].items()
    }
    retrieval = any("mAP-M" in scores for scores in results.values())
    settings = {
        "dataset": path.stem,
        "backbone": names[-1] if names else "",
        "shots": shots,
        "k": content["args"].get("k", 20),
        "pca_dim": content["args"].get("pca_dim"),
    }
    return {
        "task": "retrieval" if retrieval else "linear" if "linear" in folders else "knn",
        "settings": settings,
        "unusual": {},
        "provenance": {"features": []},
        "test_targets": content.get("test_targets", []),
        "results": results,
    }


def _combination(files: str) -> str:
    """Of the features in files: `train` and `embeddings-train` are embeddings, `kl-train` is KL."""
    stems = [Path(file.partition(":")[0]).stem for file in files.split(";")]
    return name_of(in_order([re.sub(rf"-?({'|'.join(_SPLITS)})$", "", stem) or EMBEDDINGS for stem in stems]))
