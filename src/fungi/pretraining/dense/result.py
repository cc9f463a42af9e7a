"""`result.json` of a dense evaluation."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fungi.backbones.loading import Backbone
from fungi.pretraining.dense.settings import DenseSettings
from fungi.pretraining.processes import World
from fungi.runtime.files import write_text_atomically
from fungi.runtime.log import logger
from fungi.settings import as_json


def write_result(
    settings: DenseSettings, backbone: Backbone, history: Sequence[Mapping[str, int | float]], world: World
) -> dict[str, Any]:
    """Return settings, provenance and the scores after the last epoch; the first process writes them."""
    content = {
        "settings": as_json(settings),
        "provenance": {"weights": backbone.weights_source, "weights_hash": backbone.weights_hash},
        "results": {name: value for name, value in history[-1].items() if name not in ("epoch", "loss")},
    }
    if world.leads:
        path = settings.output_dir / "result.json"
        write_text_atomically(path, json.dumps(content, indent=1))
        logger.info(f"wrote {path}")
    return content
