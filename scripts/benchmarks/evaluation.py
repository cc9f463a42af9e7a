"""Measure kNN over all combinations of features: memory, and the ratio of the time to that of the published way.

    python scripts/benchmark.py evaluation                        about 4 minutes on 2 cores: ours and the published way
    python scripts/benchmark.py evaluation --no-published --train-rows 1000000 --test-rows 1000 --width 32 --pca-dim 64

The published way follows the protocol in simple code: for each combination, concatenate the features, fit the full-SVD
PCA of scikit-learn, and classify with its kNN. Our evaluation and the published way read the same files of random
clusters, and have to make the same predictions.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from fungi.combine.names import all_combinations, name_of
from fungi.runtime.command import run_command
from fungi.runtime.device import choose_device
from fungi.scoring.knn_concat import KnnSettings, run
from fungi.settings import setting
from fungi.store.layout import Layout

FEATURES = ("embeddings", "kl", "dino", "simclr")
DATASET, BACKBONE = "synthetic", "synthetic"
WRITTEN_ROWS = 20_000
"""Number of rows of a feature file that are drawn and written at once."""
SLOT_BYTES = 3 * (4 + 8)
"""Bytes per neighbour of a query: distance (float32) and row (int64), three times while two rankings are merged."""


@dataclass(frozen=True, kw_only=True)
class EvaluationBenchmark:
    """Flags of `scripts/benchmark.py evaluation`."""

    train_rows: int = setting(10_000, "number of rows to fit on", aliases=("--rows",))
    test_rows: int = setting(2_500, "number of rows to score")
    width: int = setting(384, "width of each of the four features")
    classes: int = setting(100, "number of classes")
    pca_dim: int = setting(384, "number of principal components")
    k: int = setting(20, "number of neighbours")
    published: bool = setting(True, "also run the published way, and compare")
    memory_gb: float = setting(4.0, "largest size of features that stay in memory; 0 always reads them in blocks")
    block_rows: int = setting(8192, "number of rows of the feature files that are in memory at once")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")


def measure(settings: EvaluationBenchmark) -> None:
    """Write the files, run both ways, and print time, ratio and memory."""
    print(describe_machine(settings))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_features(root, settings)
        print_expected_memory(settings)
        before = peak_memory()
        ours, our_time = timed(lambda: run(knn_settings(root, settings)))
        print(f"ours: {len(ours['results'])} combinations in {our_time}")
        print(
            f"peak memory of the process: {peak_memory() / 2**20:,.0f} MiB ({before / 2**20:,.0f} MiB before the run)"
        )
        if settings.published:
            published, published_time = timed(lambda: published_way(root, settings))
            our_predictions = {name: ours["results"][name]["predictions"] for name in published}
            equal = sum(published[name] == our_predictions[name] for name in published)
            differing = sum(differences(published[name], our_predictions[name]) for name in published)
            print(f"published way: {len(published)} combinations in {published_time}")
            elapsed, processor = (
                published_time.elapsed / our_time.elapsed,
                published_time.processor / our_time.processor,
            )
            print(f"ratio: {elapsed:.1f} times faster; {processor:.1f} times less processor time")
            print(f"equal predictions: {equal} of {len(published)} combinations; {differing} single predictions differ")


def describe_machine(settings: EvaluationBenchmark) -> str:
    """Return a line with the cores, threads, load, device and sizes."""
    load, *_ = os.getloadavg()  # of the last minute
    return (
        f"{len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads,"
        f" load average {load:.1f} at the start, torch {torch.__version__}, device {choose_device(settings.device)};"
        f" {settings.train_rows:,} train x {settings.test_rows:,} test rows,"
        f" {len(FEATURES)} features of {settings.width}, PCA {settings.pca_dim}, k {settings.k}"
    )


def knn_settings(root: Path, settings: EvaluationBenchmark) -> KnnSettings:
    """Return the settings of `knn_concat.py` for this benchmark."""
    return KnnSettings(
        dataset=DATASET,
        backbone=BACKBONE,
        root=(root,),
        pca_dim=settings.pca_dim,
        k=settings.k,
        memory_gb=settings.memory_gb,
        block_rows=settings.block_rows,
        device=settings.device,
    )


def print_expected_memory(settings: EvaluationBenchmark) -> None:
    """Print the largest memory that the run is designed to need, one line per purpose."""
    print("memory by design:")
    parts = memory_by_purpose(
        settings.train_rows,
        settings.test_rows,
        [settings.width] * len(FEATURES),
        settings.pca_dim,
        block_rows=settings.block_rows,
        memory_bytes=int(settings.memory_gb * 2**30),
        k=settings.k,
    )
    for name, size in parts.items():
        print(f"  {size / 2**20:10,.0f} MiB  {name}")
    print(f"  {sum(parts.values()) / 2**20:10,.0f} MiB  together, at most")


def memory_by_purpose(
    train_rows: int,
    test_rows: int,
    dims: Sequence[int],
    pca_dim: int,
    *,
    block_rows: int,
    memory_bytes: int,
    k: int = 20,
) -> dict[str, int]:
    """Return purpose -> bytes that a kNN evaluation of all combinations has in memory at once.

    If the features do not fit into `memory_bytes`, only the memory of the labels grows with the train rows.
    """
    width, single, double = sum(dims), 4, 8  # bytes of a number in single and double precision
    reduced = min(pca_dim, width)
    train_bytes, test_bytes = train_rows * width * single, test_rows * width * single
    train_fits, test_fits = train_bytes <= memory_bytes, test_bytes <= memory_bytes
    query_tile = min(2048, test_rows)
    block = min(block_rows, train_rows)
    return {
        "train features in memory (float32)": train_bytes if train_fits else 0,
        "reduced train rows of one combination (float32)": train_rows * reduced * single if train_fits else 0,
        "test features in memory (float32)": test_bytes if test_fits else 0,
        "labels (int64)": (train_rows + test_rows) * double,
        "one block of rows: as read, in float64, normalised": block * width * (2 * single + 2 * double),
        "Gram matrix, a sub-block of it, its eigenvectors and workspace (float64)": 5 * width * width * double,
        "reduced test rows of one combination (float32)": test_rows * reduced * single,
        "tile of distances, and the nearest neighbours": query_tile * block * single + test_rows * (k + 1) * SLOT_BYTES,
    }


def write_features(root: Path, settings: EvaluationBenchmark) -> None:
    """Write feature files of random clusters, some rows at a time."""
    layout = Layout(root)
    generator = np.random.default_rng(0)
    centres = {name: generator.normal(size=(settings.classes, settings.width)) for name in FEATURES}
    for split, rows in (("train", settings.train_rows), ("test", settings.test_rows)):
        targets = generator.integers(0, settings.classes, rows)
        for name in FEATURES:
            path = layout.features(name, DATASET, BACKBONE, split)
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                array = file.create_dataset(_array_name(name), (rows, settings.width), dtype="float32")
                for start in range(0, rows, WRITTEN_ROWS):
                    labels = targets[start : start + WRITTEN_ROWS]
                    noise = generator.normal(size=(len(labels), settings.width))
                    array[start : start + len(labels)] = centres[name][labels] + 4 * noise
                if name == "embeddings":
                    file["targets"] = targets.astype(np.uint32)


def published_way(root: Path, settings: EvaluationBenchmark) -> dict[str, list[int]]:
    """Return combination -> predictions, computed by the published protocol, only with scikit-learn."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier

    features = {split: _read_normalized(root, split) for split in ("train", "test")}
    with h5py.File(Layout(root).embeddings(DATASET, BACKBONE, "train")) as file:
        targets = file["targets"][:]
    predictions = {}
    for names in all_combinations(FEATURES):
        train, test = (
            np.concatenate([features[split][name] for name in names], axis=-1) for split in ("train", "test")
        )
        if settings.pca_dim < min(train.shape):
            pca = PCA(n_components=settings.pca_dim, svd_solver="full", random_state=42).fit(train)
            train, test = pca.transform(train), pca.transform(test)
        classifier = KNeighborsClassifier(n_neighbors=settings.k).fit(train, targets)
        predictions[name_of(names)] = classifier.predict(test).tolist()
        print(f"  published way: {name_of(names)}", file=sys.stderr)
    return predictions


def _read_normalized(root: Path, split: str) -> dict[str, np.ndarray]:
    """Return feature -> its normalised rows in a split."""
    features = {}
    for name in FEATURES:
        with h5py.File(Layout(root).features(name, DATASET, BACKBONE, split)) as file:
            rows = torch.from_numpy(file[_array_name(name)][:])
        features[name] = torch.nn.functional.normalize(rows, dim=-1).numpy()
    return features


def _array_name(feature: str) -> str:
    return "embeddings" if feature == "embeddings" else "attn_proj"


def differences(first: list[int], second: list[int]) -> int:
    """Return the number of predictions that differ."""
    return int(np.sum(np.array(first) != np.array(second)))


@dataclass(frozen=True)
class Duration:
    """Elapsed seconds, and seconds of processor time on all cores. Other processes change only the elapsed seconds."""

    elapsed: float
    processor: float

    def __str__(self) -> str:
        return f"{self.elapsed:.1f} s ({self.processor:.1f} s of processor time)"


def timed(work: Callable[[], Any]) -> tuple[Any, Duration]:
    """Call a function, and return its result and its duration."""
    start, processor = time.perf_counter(), time.process_time()
    return work(), Duration(time.perf_counter() - start, time.process_time() - processor)


def peak_memory() -> int:
    """Return the largest number of bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status."""
    return run_command(
        EvaluationBenchmark, measure, program="benchmark.py evaluation", description=__doc__ or "", arguments=arguments
    )
