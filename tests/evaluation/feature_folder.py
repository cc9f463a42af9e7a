"""Write feature files with random values in the layout of the extraction stages."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from fungi.store.layout import Layout
from fungi.store.provenance import LayerProvenance, Provenance, write_layer_provenance, write_provenance

PROVENANCE = Provenance(
    feature="embeddings",
    dataset="digits",
    split="train",
    rows=0,
    dataset_fingerprint="rows-of-train",
    backbone="digits-vit",
    weights_hash="weights-a",
    weights_source="random",
    input="32px",
    profile="clean",
    seed=42,
    dtype="float32",
    device="cpu",
)
LAYER = LayerProvenance(
    layer="blocks.5.attn.proj", bias=True, projection_hash="projection-a", projection_kind="binary", projection_seed=42
)


def write_array(
    path: Path,
    key: str,
    values: np.ndarray,
    *,
    provenance: Provenance | None = None,
    layer: LayerProvenance | None = None,
    targets=None,
) -> Path:
    """Write one feature file, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        array = file.create_dataset(key, data=values.astype(np.float32))
        if targets is not None:
            file["targets"] = np.asarray(targets, dtype=np.uint32)
        if provenance is not None:
            write_provenance(file, replace(provenance, rows=len(values)))
        if layer is not None:
            write_layer_provenance(array, layer)
    return path


def clustered_features(
    rows: int, dim: int, classes: int, seed: int, noise: float = 0.8
) -> tuple[np.ndarray, np.ndarray]:
    """Return features `[rows dim]` around one random centre per class, and balanced labels `[rows]`.

    noise: standard deviation of each number. The centres have the standard deviation 1.
    """
    centres = np.random.default_rng(1).normal(size=(classes, dim))
    targets = np.arange(rows) % classes
    return centres[targets] + noise * np.random.default_rng(seed).normal(size=(rows, dim)), targets


def make_folder(
    root: Path,
    *,
    features: tuple[str, ...] = ("embeddings", "kl", "dino"),
    rows: dict[str, int] | None = None,
    dim: int = 12,
    classes: int = 4,
    seed: int = 0,
    dataset: str = "digits",
) -> Layout:
    """Write a root folder with all features of all splits, with matching provenances, and return its layout."""
    layout = Layout(root)
    for split, count in (rows or {"train": 120, "test": 60}).items():
        for index, feature in enumerate(features):
            # Every feature, split and seed has other random values.
            values, targets = clustered_features(count, dim, classes, seed=10 * seed + index + 100 * len(split))
            provenance = replace(
                PROVENANCE,
                feature=feature,
                dataset=dataset,
                split=split,
                dataset_fingerprint=f"rows-of-{split}",
                seed=PROVENANCE.seed + seed,
            )
            path = layout.features(feature, dataset, "digits-vit", split)
            if feature == "embeddings":
                write_array(path, "embeddings", values, provenance=provenance, targets=targets)
            else:
                write_array(path, "attn_proj", values * 1e-6, provenance=provenance, layer=LAYER)
    return layout
