"""What a run will cost, said before it starts."""

from collections.abc import Sequence

from fungi.backbones.base import BackboneSpec
from fungi.extraction.pipeline import Feature
from fungi.gradients import core


def cost_of(spec: BackboneSpec, rows: int, features: Sequence[Feature]) -> str:
    """Forwards, operations where they are known, and size of the files, of `rows` rows."""
    forwards = rows * core.forwards_per_sample(features)
    widths = [
        sum(projector.matrix.projection_dim for projector in feature.engine.projectors.values())
        if feature.objective
        else spec.embedding_dim
        for feature in features
    ]
    work = f" of {spec.flops / 1e9:.3g} GFLOP = {forwards * spec.flops / 1e12:.3g} TFLOP" if spec.flops else ""
    return f"{rows:,} rows, {forwards:,} forwards{work}; {rows * sum(widths) * 4 / 1e6:.1f} MB of features"
