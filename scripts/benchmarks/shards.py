"""Measure parallel shards on a real SLURM: `python scripts/benchmark.py shards --shards 1 2 4`.

The benchmark starts the SLURM of the tests with as many simulated nodes as shards, and submits the job file of DINO as
an array. It prints the seconds from the start of the first element to the end of the last, with the time to load
libraries. Each element has one thread. All elements share this machine, so its number of cores limits the gain.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))  # the class for the cluster is in the tests

from tests.slurm.conftest import Cluster  # noqa: E402  (can be imported only after the line above)
from tests.slurm.sandbox import Sandbox, install  # noqa: E402  (the same)


def main(arguments: list[str] | None = None) -> int:
    """Measure the shards and print the results."""
    parser = argparse.ArgumentParser(prog="benchmark.py shards", description=__doc__)
    parser.add_argument("--shards", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--job", default="jobs/grads_dino_multi.job")
    parser.add_argument("--split", default="train")
    options = parser.parse_args(arguments)
    install()
    print(f"{options.job}, digits {options.split}, {len(os.sched_getaffinity(0))} cores, one thread per element")
    first_seconds = 0.0
    with Sandbox(nodes=max(options.shards)) as sandbox, tempfile.TemporaryDirectory() as folder:
        for shards in options.shards:
            root = Path(folder) / str(shards)
            seconds = _seconds(Cluster(sandbox), options, shards, root)
            first_seconds = first_seconds or seconds
            print(f"{shards} shards: {seconds:6.1f} s, {first_seconds / seconds:.2f} times as fast", flush=True)
    return 0


def _seconds(cluster: Cluster, options: argparse.Namespace, shards: int, root: Path) -> float:
    """Run an array of shards, and return the seconds from the first start to the last end in the records."""
    grid = {"FUNGI_ROOT": str(root), "FUNGI_SPLITS": options.split, "FUNGI_SHARDS": str(shards)}
    flags = {"FUNGI_FLAGS_EXTRACT_GRADIENTS": "--block-size 64"}
    words = (f"--output={root}/%A_%a.out", f"--array=0-{shards - 1}", options.job)
    root.mkdir()  # SLURM does not create the folder of its logs
    states = cluster.wait(cluster.sbatch(*words, **grid, **flags))
    if set(states) != {"COMPLETED"}:
        logs = "".join(path.read_text(encoding="utf-8") for path in root.glob("*.out"))
        raise SystemExit(f"{states}\n{logs}")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (root / "progress").glob("*/*.json")]
    return max(record["ended"] for record in records) - min(record["started"] for record in records)
