"""Measure a report of many results: `python scripts/benchmark.py report --results 2000 --base CHECKOUT`.

The benchmark writes result files for pairs of a backbone and a dataset: kNN on all train rows, kNN on five rows per
class, and a linear probe. Each file has all combinations of four features, and the prediction for every test row. Then
the benchmark runs `fungi report` on the files and prints its processor time and its peak memory. `--code CHECKOUT` runs
the code of another checkout. `--base CHECKOUT` runs the code of both checkouts in turns and prints the ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from itertools import combinations, islice, product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._rounds import ratio

PROJECT = Path(__file__).resolve().parents[2]
FEATURES = ("embeddings", "kl", "dino", "simclr")
FACTS = dict.fromkeys(("weights_hash", "weights_source", "input", "dtype", "device"), "x" * 16)


def main(arguments: list[str] | None = None) -> int:
    """Measure the report and print the results."""
    parser = argparse.ArgumentParser(prog="benchmark.py report", description=__doc__)
    parser.add_argument("--results", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1000, help="number of predictions in each combination")
    parser.add_argument("--figures", type=int, default=0, help="number of figures in the report")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--code", type=Path, default=PROJECT, help="checkout whose code is measured")
    parser.add_argument("--base", type=Path, help="checkout with the code to compare with")
    options = parser.parse_args(arguments)
    codes = [options.code, *([options.base] if options.base else [])]
    seconds: dict[Path, list[float]] = {code: [] for code in codes}
    megabytes: dict[Path, list[float]] = {code: [] for code in codes}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "features"
        size = write_results(root, options.results, options.rows)
        print(f"{options.results} results with {options.rows} rows, {size / 1e6:.0f} MB of JSON")
        for number in range(options.rounds):
            for code in codes:
                processor_time, memory = _run(code, root, Path(folder) / f"report-{number}", options.figures)
                seconds[code].append(processor_time)
                megabytes[code].append(memory)
    for title, unit, values_by_code in (("processor time", "s", seconds), ("peak memory", "MB", megabytes)):
        values = values_by_code[options.code]
        print(f"{title}: {statistics.median(values):.1f} {unit}")
        if options.base:
            base_values = values_by_code[options.base]
            median = statistics.median(base_values)
            print(f"  {median:.1f} {unit} with {options.base}: ratio {ratio(values, base_values)}")
    return 0


def write_results(root: Path, count: int, rows: int) -> int:
    """Write result files below a root, and return the sum of their sizes in bytes.

    count: number of files. rows: number of test rows in each file.
    """
    from fungi.backbones.base import BACKBONES
    from fungi.data.base import DATASETS
    from fungi.store.layout import Layout
    from fungi.store.seal import checksum_of_record

    backbones = [name for name in BACKBONES if BACKBONES[name].modality == "vision"]
    datasets = [name for name in DATASETS if DATASETS[name].modality == "vision" and DATASETS[name].metric != "map"]
    draws, size = np.random.default_rng(0), 0
    datasets = [name for name in datasets if DATASETS[name].masks is None]
    cases = list(islice(product(("knn", "knn-5shot", "linear"), backbones, datasets), count))
    if len(cases) < count:
        raise SystemExit(f"there are {len(cases)} cases of task, backbone and dataset, not {count}")
    for task, backbone, dataset in cases:
        content = json.loads(json.dumps(_content(task, backbone, dataset, rows, draws), default=str))
        path = Layout(root).results(task, dataset, backbone)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | {"checksum": checksum_of_record(content)}) + "\n", encoding="utf-8")
        size += path.stat().st_size
    return size


def _content(task: str, backbone: str, dataset: str, rows: int, draws: np.random.Generator) -> dict[str, Any]:
    """Return the content of a result file of `fungi knn`. About three of four random predictions are correct."""
    targets = draws.integers(0, 37, rows)
    names = ["+".join(features) for size in range(1, 5) for features in combinations(FEATURES, size)]
    results = {}
    for name in names:
        predictions = np.where(draws.random(rows) < 0.75, targets, draws.integers(0, 37, rows))
        accuracy = float((predictions == targets).mean())
        results[name] = {"accuracy": accuracy, "mean-per-class-accuracy": accuracy, "predictions": predictions.tolist()}
    shots = 5 if task.endswith("shot") else None
    settings = {"k": 20, "pca_dim": 512, "shots": shots, "dataset": dataset, "backbone": backbone}
    return {
        "schema_version": 1,
        "task": task,
        "settings": settings,
        "unusual": {},
        "provenance": {"features": [_provenances(backbone, dataset, split_rows=rows)]},
        "warnings": [],
        "test_targets": targets.tolist(),
        "sample_ids": [f"images/{row:06d}.jpg" for row in range(rows)],
        "complete": True,
        "results": results,
    }


def _provenances(backbone: str, dataset: str, *, split_rows: int) -> dict[str, dict[str, Any]]:
    """Return the provenance of the feature files of a result, by split and feature."""
    from fungi.store.provenance import Provenance

    entries: dict[str, dict[str, Any]] = {}
    for split, feature in product(("train", "test"), FEATURES):
        provenance = Provenance(
            feature=feature,
            dataset=dataset,
            split=split,
            rows=split_rows,
            dataset_fingerprint=f"{dataset}-{split}",
            backbone=backbone,
            seed=42,
            profile="published",
            **FACTS,
        )
        entry = {"file": f"{feature}-{split}.h5", "array": feature, "provenance": asdict(provenance), "layer": None}
        entries.setdefault(split, {})[feature] = entry
    return entries


def _run(code: Path, root: Path, output: Path, figures: int) -> tuple[float, float]:
    """Run a report, and return its processor time in seconds and its peak memory in MB."""
    environment = {**os.environ, "PYTHONPATH": str(code / "src")}
    words = ["report", "--results", str(root), "--output", str(output), "--figures", str(figures)]
    process = subprocess.Popen(
        [sys.executable, "-m", "fungi", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    message = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(message.decode(errors="replace"))
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
