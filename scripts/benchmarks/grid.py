"""Measure the commands that watch a large grid: `benchmark.py grid --backbones 40 --datasets 20 --shards 16`.

The benchmark writes two roots of the user's own datasets. Below the first root, nothing has run yet. Below the second
root, every element of the extraction has failed and has its own log, as after the loss of a file system. The benchmark
prints the processor time and the number of lines of `fungi status` for both roots. Then it prints the processor time of
`fungi submit`, and how often this command would call sbatch. The benchmark needs no SLURM: the queue is empty, and
nothing is submitted. `--code CHECKOUT` runs the code of another checkout. `--base CHECKOUT` runs the code of both
checkouts in turns and prints the ratio.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks._rounds import ratio

PROJECT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Measure the commands and print the results."""
    parser = argparse.ArgumentParser(prog="benchmark.py grid", description=__doc__)
    parser.add_argument("--backbones", type=int, default=40)
    parser.add_argument("--datasets", type=int, default=20)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--code", type=Path, default=PROJECT, help="checkout whose code is measured")
    parser.add_argument("--base", type=Path, help="checkout with the code to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    print(f"{options.backbones} backbones x {options.datasets} datasets x 2 splits x {options.shards} shards")
    with tempfile.TemporaryDirectory() as folder:
        idle, failed = Path(folder) / "idle", Path(folder) / "failed"
        files = {
            grid_folder: _write_grid(grid_folder, grid_folder / "features", options) for grid_folder in (idle, failed)
        }
        (idle / "features").mkdir()
        elements = _write_failures(failed / "features")
        for title, grid_folder in (("nothing has run yet", idle), (f"{elements} elements failed", failed)):
            lines = _measure(f"status, {title}", ["status", "--grid", str(files[grid_folder])], grid_folder, options)
            print(f"  {len(lines)} lines")
        lines = _measure("submit", ["submit", "--dry-run", "--grid", str(files[failed])], failed, options)
        print(f"  {sum(' sbatch ' in line for line in lines)} calls of sbatch")
    return 0


def _measure(title: str, words: list[str], folder: Path, options: argparse.Namespace) -> list[str]:
    """Print the processor time of a command, and return the lines that it prints."""
    codes = [options.code, *([options.base] if options.base else [])]
    seconds: dict[Path, list[float]] = {code: [] for code in codes}
    lines = {}
    for _ in range(options.rounds):
        for code in codes:
            processor_time, lines[code] = _run(code, folder, words)
            seconds[code].append(processor_time)
    print(f"{title}: {statistics.median(seconds[options.code]):.2f} s of processor time")
    if options.base:
        median = statistics.median(seconds[options.base])
        print(f"  {median:.2f} s with {options.base}: ratio {ratio(seconds[options.code], seconds[options.base])}")
    return lines[options.code]


def _write_grid(folder: Path, root: Path, options: argparse.Namespace) -> Path:
    """Write a declaration of a grid, and datasets with one picture per split. Return the file of the declaration."""
    from fungi.backbones.base import BACKBONES

    datasets = []
    for number in range(options.datasets):
        dataset_folder = folder / "data" / f"set{number}"
        for split in ("train", "test"):
            (dataset_folder / split / "class").mkdir(parents=True)
            (dataset_folder / split / "class" / "0.png").touch()
        datasets.append(f"set{number}=folder:{dataset_folder}")
    backbones = [name for name in BACKBONES if BACKBONES[name].modality == "vision"][: options.backbones]
    path = folder / "grid.toml"
    lines = [f"backbones = {json.dumps(backbones)}", f"datasets = {json.dumps(datasets)}"]
    path.write_text("\n".join([*lines, f"root = {json.dumps(str(root))}", f"shards = {options.shards}", ""]))
    return path


def _write_failures(root: Path) -> int:
    """Write records of failed extractions in the format of `run-elements`, and return their number."""
    from fungi.grid.calls import call_of_job
    from fungi.grid.declaration import declared_grid
    from fungi.grid.elements import elements_of
    from fungi.grid.job_files import read_job_file
    from fungi.grid.records import ENDED, Attempt

    grid = declared_grid({"FUNGI_GRID": str(root.parent / "grid.toml")})
    call = call_of_job(read_job_file(PROJECT, "grads_all_multi"), grid)
    (root / "logs").mkdir(parents=True)
    folder = root / "progress" / call.key
    folder.mkdir(parents=True)
    grid_elements = elements_of(grid, call)
    for index, element in enumerate(grid_elements):
        log = root / "logs" / f"grads_all_multi-7_{index}.out"
        log.write_text("starting\nextract_gradients.py: /scratch is not there.\n")
        attempt = Attempt(state=ENDED, status=2, job=f"7_{index}", log=str(log), root=str(root))
        (folder / f"{element.key}.json").write_text(json.dumps(asdict(attempt), indent=1))
    return len(grid_elements)


def _run(code: Path, folder: Path, words: list[str]) -> tuple[float, list[str]]:
    """Run a command, and return its processor time and the lines that it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(code / "src"), "FUNGI_PROJECT": str(code), "PATH": str(folder)}
    command = [sys.executable, "-m", "fungi", *words]
    process = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(process.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, process.stdout.splitlines()
