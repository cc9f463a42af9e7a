"""What one pass over a split has to compute: features, their blocks and their files."""

from dataclasses import dataclass, field
from pathlib import Path

from fungi.gradients import core
from fungi.objectives.binding import BoundObjective
from fungi.store.blocks import BlockFolder
from fungi.store.provenance import LayerProvenance


@dataclass(frozen=True)
class Feature(core.Feature):
    """One file to write: the embeddings (`objective` is None) or the gradients of one objective.

    precision: what the file says of the precision of the computation, where the dtype does not say all.
    """

    objective: BoundObjective | None = None
    layers: dict[str, LayerProvenance] = field(default_factory=dict)
    precision: str = ""

    @property
    def dtype_name(self) -> str:
        """Return `float32`, `bfloat16`, `float16`, or `tf32` for float32 with shortened products."""
        return self.precision or str(self.engine.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Work:
    """A feature of a split, its blocks, its file, and the blocks that are missing."""

    feature: Feature
    blocks: BlockFolder
    path: Path
    missing: frozenset[int]
