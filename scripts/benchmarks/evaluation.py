"""kNN over all combinations of features: time against the published way, and memory against the accounting.

    python scripts/benchmark.py evaluation                         about 4 minutes on 2 cores: both ways, ratio
    python scripts/benchmark.py evaluation --no-published --train-rows 1000000 --test-rows 1000 --width 32 --pca-dim 64

The published way, as a plain reading of the protocol: for each combination concatenate, fit scikit-learn's full-SVD
PCA, classify with scikit-learn's kNN. Both see the same files, made of random clusters, and have to predict the same.
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
WRITTEN_AT_ONCE = 20_000


@dataclass(frozen=True, kw_only=True)
class EvaluationBenchmark:
    """Flags of `scripts/benchmark.py evaluation`."""

    train_rows: int = setting(10_000, "rows to fit on", aliases=("--rows",))
    test_rows: int = setting(2_500, "rows to score")
    width: int = setting(384, "size of each of the four blocks")
    classes: int = setting(100, "classes")
    pca_dim: int = setting(384, "components")
    k: int = setting(20, "neighbours")
    published: bool = setting(True, "run the published way, too, and compare")
    memory_gb: float = setting(4.0, "features stay in memory if they need no more than this; 0 streams them always")
    block_rows: int = setting(8192, "rows of the feature files held at once")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")


def measure(settings: EvaluationBenchmark) -> None:
    """Make the files, run both ways, print time, ratio and memory."""
    print(f"{describe_machine(settings)}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_features(root, settings)
        print_accounting(settings)
        before = peak_memory()
        ours, spent = timed(lambda: run(knn_settings(root, settings)))
        print(f"ours: {len(ours['results'])} combinations in {spent}")
        print(
            f"peak memory of the process: {peak_memory() / 2**20:,.0f} MiB ({before / 2**20:,.0f} MiB before the run)"
        )
        if settings.published:
            theirs, published_spent = timed(lambda: published_way(root, settings))
            same = sum(theirs[name] == ours["results"][name]["predictions"] for name in theirs)
            differing = sum(differences(theirs[name], ours["results"][name]["predictions"]) for name in theirs)
            print(f"published way: {len(theirs)} combinations in {published_spent}")
            wall, processor = published_spent.wall / spent.wall, published_spent.processor / spent.processor
            print(f"ratio: {wall:.1f} times faster; {processor:.1f} times less processor time")
            print(f"same predictions: {same} of {len(theirs)} combinations; {differing} single predictions differ")


def describe_machine(settings: EvaluationBenchmark) -> str:
    """Cores, threads, load of others, device."""
    load = os.getloadavg()[0]
    return (
        f"{len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads,"
        f" load average {load:.1f} at the start, torch {torch.__version__}, device {choose_device(settings.device)};"
        f" {settings.train_rows:,} train x {settings.test_rows:,} test rows,"
        f" {len(FEATURES)} blocks of {settings.width}, PCA {settings.pca_dim}, k {settings.k}"
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


def print_accounting(settings: EvaluationBenchmark) -> None:
    """Print what the run holds at once, by size."""
    print("memory by design:")
    parts = accounting(
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


def accounting(
    train_rows: int,
    test_rows: int,
    dims: Sequence[int],
    pca_dim: int,
    *,
    block_rows: int,
    memory_bytes: int,
    k: int = 20,
) -> dict[str, int]:
    """Return bytes held at once by a kNN evaluation of all combinations, by purpose.

    Nothing grows with the train rows but their labels, once the features no longer fit into `memory_bytes`.
    """
    width, single, double = sum(dims), 4, 8
    reduced = min(pca_dim, width)
    kept = [rows * width * single for rows in (train_rows, test_rows)]
    query_tile = min(2048, test_rows)
    block = min(block_rows, train_rows)
    return {
        "train features in memory (float32)": kept[0] if kept[0] <= memory_bytes else 0,
        "reduced train rows of one combination (float32)": train_rows * reduced * single
        if kept[0] <= memory_bytes
        else 0,
        "test features in memory (float32)": kept[1] if kept[1] <= memory_bytes else 0,
        "labels (int64)": (train_rows + test_rows) * double,
        "one block of rows: as read, in float64, normalised": block * width * (2 * single + 2 * double),
        "Gram matrix, a sub-block of it, its eigenvectors and workspace (float64)": 5 * width * width * double,
        "reduced test rows of one combination (float32)": test_rows * reduced * single,
        "tile of distances, and the nearest found so far": query_tile * block * single + test_rows * (k + 1) * 36,
    }


def write_features(root: Path, settings: EvaluationBenchmark) -> None:
    """Random clusters as feature files, written piece by piece."""
    layout = Layout(root)
    generator = np.random.default_rng(0)
    centres = {name: generator.normal(size=(settings.classes, settings.width)) for name in FEATURES}
    for split, rows in (("train", settings.train_rows), ("test", settings.test_rows)):
        targets = generator.integers(0, settings.classes, rows)
        for name in FEATURES:
            path = layout.features(name, DATASET, BACKBONE, split)
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                array = file.create_dataset(_key(name), (rows, settings.width), dtype="float32")
                for start in range(0, rows, WRITTEN_AT_ONCE):
                    part = targets[start : start + WRITTEN_AT_ONCE]
                    array[start : start + len(part)] = centres[name][part] + 4 * generator.normal(
                        size=(len(part), settings.width)
                    )
                if name == "embeddings":
                    file["targets"] = targets.astype(np.uint32)


def published_way(root: Path, settings: EvaluationBenchmark) -> dict[str, list[int]]:
    """Predictions by the published protocol in plain scikit-learn, one combination after the other."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier

    split = {split: _read_normalized(root, split) for split in ("train", "test")}
    with h5py.File(Layout(root).embeddings(DATASET, BACKBONE, "train")) as file:
        targets = file["targets"][:]
    predictions = {}
    for names in all_combinations(FEATURES):
        train, test = (np.concatenate([split[part][name] for name in names], axis=-1) for part in ("train", "test"))
        if settings.pca_dim < min(train.shape):
            pca = PCA(n_components=settings.pca_dim, svd_solver="full", random_state=42).fit(train)
            train, test = pca.transform(train), pca.transform(test)
        classifier = KNeighborsClassifier(n_neighbors=settings.k).fit(train, targets)
        predictions[name_of(names)] = classifier.predict(test).tolist()
        print(f"  published way: {name_of(names)}", file=sys.stderr)
    return predictions


def _read_normalized(root: Path, split: str) -> dict[str, np.ndarray]:
    found = {}
    for name in FEATURES:
        with h5py.File(Layout(root).features(name, DATASET, BACKBONE, split)) as file:
            found[name] = torch.nn.functional.normalize(torch.from_numpy(file[_key(name)][:]), dim=-1).numpy()
    return found


def _key(feature: str) -> str:
    return "embeddings" if feature == "embeddings" else "attn_proj"


def differences(first: list[int], second: list[int]) -> int:
    """Entries that differ."""
    return int(np.sum(np.array(first) != np.array(second)))


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of all cores together: the second says more where others use the machine, too."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.processor:.1f} s of processor time)"


def timed(work: Callable[[], Any]) -> tuple[Any, Spent]:
    """Return the result of some work, and what it took."""
    start, processor = time.perf_counter(), time.process_time()
    return work(), Spent(time.perf_counter() - start, time.process_time() - processor)


def peak_memory() -> int:
    """Most bytes that this process ever held in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `scripts/benchmark.py evaluation`."""
    return run_command(
        EvaluationBenchmark, measure, program="benchmark.py evaluation", description=__doc__ or "", arguments=arguments
    )
