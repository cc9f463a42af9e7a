"""Shards side by side on a real SLURM: `python scripts/benchmark.py shards --shards 1 2 4`.

Starts the tests' own SLURM with a pretended node per shard, submits the job file of DINO as an array, and prints the
seconds from the start of the first element to the end of the last, loading of libraries included. Each element has one
thread; all share this machine, so that no more than its cores can be gained.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))  # the cluster lives with the tests

from tests.slurm.conftest import Cluster  # noqa: E402  (found only after the line above)
from tests.slurm.sandbox import Sandbox, install  # noqa: E402  (the same)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmark.py shards", description=__doc__)
    parser.add_argument("--shards", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--job", default="jobs/grads_dino_multi.job")
    parser.add_argument("--split", default="train")
    options = parser.parse_args(arguments)
    install()
    print(f"{options.job}, digits {options.split}, {len(os.sched_getaffinity(0))} cores, one thread per element")
    alone = 0.0
    with Sandbox(nodes=max(options.shards)) as sandbox, tempfile.TemporaryDirectory() as folder:
        for shards in options.shards:
            root = Path(folder) / str(shards)
            seconds = _seconds(Cluster(sandbox), options, shards, root)
            alone = alone or seconds
            print(f"{shards} shards: {seconds:6.1f} s, {alone / seconds:.2f} times as fast", flush=True)
    return 0


def _seconds(cluster: Cluster, options: argparse.Namespace, shards: int, root: Path) -> float:
    """From the first start to the last end, as the elements recorded them."""
    grid = {"FUNGI_ROOT": str(root), "FUNGI_SPLITS": options.split, "FUNGI_SHARDS": str(shards)}
    flags = {"FUNGI_FLAGS_EXTRACT_GRADIENTS": "--block-size 64"}
    words = (f"--output={root}/%A_%a.out", f"--array=0-{shards - 1}", options.job)
    root.mkdir()  # SLURM makes no folders for its logs
    states = cluster.wait(cluster.sbatch(*words, **grid, **flags))
    if set(states) != {"COMPLETED"}:
        logs = "".join(path.read_text(encoding="utf-8") for path in root.glob("*.out"))
        raise SystemExit(f"{states}\n{logs}")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (root / "progress").glob("*/*.json")]
    return max(record["ended"] for record in records) - min(record["started"] for record in records)
