"""How a large grid is looked after: `python scripts/benchmark.py grid --backbones 40 --datasets 20 --shards 16`.

Makes a root in which every element of the extraction failed with a log of its own, as after a night in which a file
system was lost, on data of the user's own. Prints processor time and lines of
`fungi status`, and how often `fungi submit` calls sbatch, with the time that planning takes. Needs no SLURM: the queue
is empty, and nothing is submitted. `--code FOLDER` runs another checkout's code in place of this one's.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmark.py grid", description=__doc__)
    parser.add_argument("--backbones", type=int, default=40)
    parser.add_argument("--datasets", type=int, default=20)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--code", type=Path, default=PROJECT, help="checkout whose code is measured")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "features"
        grid_file = _declare(Path(folder), root, options)
        elements = _fail(root, options)
        print(f"{options.backbones} backbones x {options.datasets} datasets x 2 splits x {options.shards} shards")
        seconds, lines = _run(options.code, Path(folder), ["status", "--grid", str(grid_file)])
        print(f"status: {seconds:.1f} s of processor time, {len(lines)} lines; {elements} elements failed")
        seconds, lines = _run(options.code, Path(folder), ["submit", "--dry-run", "--grid", str(grid_file)])
        print(f"submit: {seconds:.1f} s of processor time, {sum(' sbatch ' in line for line in lines)} calls of sbatch")
    return 0


def _declare(folder: Path, root: Path, options: argparse.Namespace) -> Path:
    """Datasets are class folders of one picture each."""
    from fungi.backbones.base import BACKBONES

    datasets = []
    for number in range(options.datasets):
        place = folder / "data" / f"set{number}"
        for split in ("train", "test"):
            (place / split / "class").mkdir(parents=True)
            (place / split / "class" / "0.png").touch()
        datasets.append(f"set{number}=folder:{place}")
    backbones = [name for name in BACKBONES if BACKBONES[name].modality == "vision"][: options.backbones]
    path = folder / "grid.toml"
    lines = [f"backbones = {json.dumps(backbones)}", f"datasets = {json.dumps(datasets)}"]
    path.write_text("\n".join([*lines, f"root = {json.dumps(str(root))}", f"shards = {options.shards}", ""]))
    return path


def _fail(root: Path, options: argparse.Namespace) -> int:
    """Write records of failed extractions, as `run-elements` writes them; return their number."""
    from fungi.grid.calls import call_of_job
    from fungi.grid.declaration import declared_grid
    from fungi.grid.elements import elements
    from fungi.grid.job_files import read_job_file
    from fungi.grid.records import ENDED, Attempt

    grid = declared_grid({"FUNGI_GRID": str(root.parent / "grid.toml")})
    call = call_of_job(read_job_file(PROJECT, "grads_all_multi"), grid)
    (root / "logs").mkdir(parents=True)
    folder = root / "progress" / call.key
    folder.mkdir(parents=True)
    for index, element in enumerate(points := elements(grid, call)):
        log = root / "logs" / f"grads_all_multi-7_{index}.out"
        log.write_text("starting\nextract_gradients.py: /scratch is not there.\n")
        attempt = Attempt(state=ENDED, status=2, job=f"7_{index}", log=str(log), root=str(root))
        (folder / f"{element.key}.json").write_text(json.dumps(asdict(attempt), indent=1))
    return len(points)


def _run(code: Path, folder: Path, words: list[str]) -> tuple[float, list[str]]:
    """Processor time of a command, and the lines that it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(code / "src"), "FUNGI_PROJECT": str(code), "PATH": str(folder)}
    command = [sys.executable, "-m", "fungi", *words]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout.splitlines()
