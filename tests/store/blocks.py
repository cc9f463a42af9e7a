"""A feature file of a few rows, in blocks, without any stage."""

from pathlib import Path

import numpy as np

from fungi.store.blocks import BlockFolder, Manifest
from fungi.store.layout import Layout
from fungi.store.provenance import LayerProvenance, Provenance

ROWS, WIDTH, BLOCK = 40, 500, 8
LAYER = LayerProvenance(
    layer="blocks.3:attn", bias=True, projection_hash="p", projection_kind="binary", projection_seed=1
)
VALUES = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)


def planned(root: Path) -> tuple[BlockFolder, Path]:
    """The block folder, begun, and the path of the file to be."""
    path = Layout(root).gradients("pictures", "digits-vit", "kl", "train")
    facts = dict.fromkeys(("dataset_fingerprint", "weights_hash", "weights_source", "input", "profile", "dtype"), "x")
    provenance = Provenance(
        feature="kl", dataset="pictures", split="train", rows=ROWS, backbone="digits-vit", seed=1, device="cpu", **facts
    )
    manifest = Manifest(str(path.relative_to(root)), provenance, {"attn": LAYER}, BLOCK)
    return BlockFolder.create(Layout(root).blocks(path, manifest.key), manifest), path


def fill(blocks: BlockFolder) -> None:
    """Write the blocks that are missing."""
    for span in blocks.missing():
        blocks.write(span, {"attn": VALUES[span.start : span.stop]})


def files_below(root: Path) -> set[str]:
    """All that is there, hidden or not, relative to the root."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
