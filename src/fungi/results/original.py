"""Read result files of the original harness (spec vision 8), and convert them to our form.

The original harness is the experiment code of the authors. Its files have these paths and this form:

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
    """Return whether the content of a JSON file has the form of the original harness."""
    return isinstance(content, dict) and isinstance(content.get("args"), dict) and "metrics" in content


def from_original(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the content in our form. The content has no provenances, so the profile of the features is unknown."""
    folders = path.parts[path.parts.index("logs") + 1 : -1] if "logs" in path.parts else path.parts[-2:-1]
    shots = next((int(match[1]) for name in folders if (match := re.fullmatch(r"(\d+)-shots", name))), None)
    names = [name for name in folders if name != "linear" and not name.endswith("-shots")]
    results = {
        # The original harness keeps each number in a list of one entry.
        _combination(files): {
            name: value[0] if isinstance(value, list) and value else value for name, value in scores.items()
        }
        for files, scores in content["metrics"].items()
    }
    is_retrieval = any("mAP-M" in scores for scores in results.values())
    settings = {
        "dataset": path.stem,
        "backbone": names[-1] if names else "",
        "shots": shots,
        "k": content["args"].get("k", 20),
        "pca_dim": content["args"].get("pca_dim"),
    }
    return {
        "task": "retrieval" if is_retrieval else "linear" if "linear" in folders else "knn",
        "settings": settings,
        "unusual": {},
        "provenance": {"features": []},
        "test_targets": content.get("test_targets", []),
        "results": results,
    }


def _combination(files: str) -> str:
    """Return the name of the combination of feature files: `embeddings+kl` for `train.h5;kl-train.h5`."""
    stems = [Path(file.partition(":")[0]).stem for file in files.split(";")]
    return name_of(in_order([re.sub(rf"-?({'|'.join(_SPLITS)})$", "", stem) or EMBEDDINGS for stem in stems]))
