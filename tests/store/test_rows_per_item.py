"""A sample can have several feature vectors, e.g. one per patch; the arrays are then `[n k d]`."""

from pathlib import Path

import h5py
import numpy as np

from fungi.store.assembly import assemble
from fungi.store.blocks import BlockFolder, Manifest
from fungi.store.provenance import Provenance


def test_vectors_of_samples_do_not_depend_on_the_order_in_which_blocks_are_written(tmp_path: Path) -> None:
    facts = dict.fromkeys(("dataset_fingerprint", "weights_hash", "weights_source", "input", "profile", "dtype"), "x")
    provenance = Provenance(
        **facts, feature="kl", dataset="d", split="train", rows=7, backbone="b", seed=1, device="cpu"
    )
    values = np.arange(7 * 4 * 3, dtype=np.float32).reshape(7, 4, 3)  # [n k d]: 7 samples, 4 vectors per sample
    blocks = BlockFolder.create(tmp_path / "blocks", Manifest("file.h5", provenance, layers={}, block_size=2))
    for span in reversed(blocks.missing()):
        blocks.write(span, {"patches": values[span.start : span.stop]})
    assemble(blocks, tmp_path / "file.h5")
    with h5py.File(tmp_path / "file.h5") as file:
        np.testing.assert_array_equal(file["patches"][:], values)
