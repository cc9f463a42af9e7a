"""Functions that write the blocks of a small feature file without running a stage."""

from pathlib import Path

import numpy as np

from fungi.store.blocks import BlockFolder, Manifest
from fungi.store.layout import Layout
from fungi.store.provenance import LayerProvenance, Provenance

ROWS, WIDTH, BLOCK = 40, 500, 8  # rows and columns of the file, and rows of a block
LAYER = LayerProvenance(
    layer="blocks.3:attn", bias=True, projection_hash="p", projection_kind="binary", projection_seed=1
)
VALUES = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)


def create_blocks(root: Path) -> tuple[BlockFolder, Path]:
    """Create the folder of the blocks. Return the folder, and the path of the feature file."""
    path = Layout(root).gradients("pictures", "digits-vit", "kl", "train")
    facts = dict.fromkeys(("dataset_fingerprint", "weights_hash", "weights_source", "input", "profile", "dtype"), "x")
    provenance = Provenance(
        feature="kl", dataset="pictures", split="train", rows=ROWS, backbone="digits-vit", seed=1, device="cpu", **facts
    )
    manifest = Manifest(str(path.relative_to(root)), provenance, layers={"attn": LAYER}, block_size=BLOCK)
    return BlockFolder.create(Layout(root).blocks(path, manifest.key), manifest), path


def fill(blocks: BlockFolder) -> None:
    """Write all missing blocks."""
    for span in blocks.missing():
        blocks.write(span, {"attn": VALUES[span.start : span.stop]})


def files_below(root: Path) -> set[str]:
    """Return the paths of all files below a root, also of hidden ones, relative to the root."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
