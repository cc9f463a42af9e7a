"""Convert result files of the published code (spec vision 8) to our form.

Its files have these paths and this form:

logs/<backbone>/<dataset>.json, logs/<backbone>/<n>-shots/<dataset>.json, logs/linear/<backbone>/...
{"args": {...}, "metrics": {"train.h5;kl-train.h5": {"accuracy": [0.5], ...}}, "test_targets": [...]}
"""

import re
from pathlib import Path
from typing import Any

from fungi.combine.names import in_order, name_of
from fungi.store.layout import EMBEDDINGS

_SPLITS = ("train", "valid", "test", "query")


def has_published_form(content: Any) -> bool:
    """Return whether the content of a JSON file has the form of the published code."""
    return isinstance(content, dict) and isinstance(content.get("args"), dict) and "metrics" in content


def convert_to_our_form(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the content in our form. The content has no provenances, so the profile of the features is unknown."""
    # Outside of a folder `logs`, only the last folder is read: the backbone or the number of shots.
    folders = path.parts[path.parts.index("logs") + 1 : -1] if "logs" in path.parts else path.parts[-2:-1]
    shots = next((int(match[1]) for name in folders if (match := re.fullmatch(r"(\d+)-shots", name))), None)
    backbones = [name for name in folders if name != "linear" and not name.endswith("-shots")]
    results = {
        _combination(files): {name: _number(value) for name, value in scores.items()}
        for files, scores in content["metrics"].items()
    }
    task = "linear" if "linear" in folders else "knn"
    if any("mAP-M" in scores for scores in results.values()):
        task = "retrieval"
    settings = {
        "dataset": path.stem,
        "backbone": backbones[-1] if backbones else "",
        "shots": shots,
        "k": content["args"].get("k", 20),
        "pca_dim": content["args"].get("pca_dim"),
    }
    return {
        "task": task,
        "settings": settings,
        "unusual": {},
        "provenance": {"features": []},
        "test_targets": content.get("test_targets", []),
        "results": results,
    }


def _number(value: Any) -> Any:
    """Return the number in a list of one number; the published code keeps each score in such a list."""
    return value[0] if isinstance(value, list) and value else value


def _combination(files: str) -> str:
    """Return the name of the combination of feature files: `embeddings+kl` for `train.h5;kl-train.h5`."""
    stems = [Path(file.partition(":")[0]).stem for file in files.split(";")]
    return name_of(in_order([re.sub(rf"-?({'|'.join(_SPLITS)})$", "", stem) or EMBEDDINGS for stem in stems]))
