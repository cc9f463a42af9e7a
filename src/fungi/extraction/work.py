"""The features that one pass over a split computes, with their blocks and files."""

from dataclasses import dataclass, field
from pathlib import Path

from fungi.gradients import core
from fungi.objectives.binding import BoundObjective
from fungi.store.blocks import BlockFolder
from fungi.store.provenance import LayerProvenance


@dataclass(frozen=True)
class Feature(core.Feature):
    """A feature to extract into a file: the embeddings (`objective` is None) or the gradients of one objective.

    layers: name of an array in the file -> provenance of its target layer; empty for the embeddings.
    precision: precision that the file states instead of the dtype, e.g. `tf32`; empty for the dtype.
    """

    objective: BoundObjective | None = None
    layers: dict[str, LayerProvenance] = field(default_factory=dict)
    precision: str = ""

    @property
    def dtype_name(self) -> str:
        """Return `float32`, `bfloat16`, `float16` or `tf32`."""
        return self.precision or str(self.engine.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Work:
    """A feature of a split with its blocks, its file and the indices of its missing blocks."""

    feature: Feature
    blocks: BlockFolder
    path: Path
    missing: frozenset[int]
