"""Measure the cost of checksums when rows are read: `python scripts/benchmark.py checksums --rows 100000 --width 768`.

The benchmark writes a feature file and a bank of patches twice: with checksums, and without. It reads both versions in
turns, window by window, from the page cache. It prints the ratio of processor time, and the seconds that checksums add
per gigabyte. A process checks the rows of a bank only when it reads them for the first time; the benchmark measures
this first time.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import torch

from benchmarks._rounds import in_turns, ratio
from fungi.store.banks import Bank, BankManifest, open_bank
from fungi.store.reading import open_array
from fungi.store.skeleton import new_skeleton

CPU = torch.device("cpu")
WINDOW = 4096
"""Number of rows that are read at once, and number of rows of a block of the bank."""


def main(arguments: list[str] | None = None) -> int:
    """Measure the cost and print it."""
    parser = argparse.ArgumentParser(prog="benchmark.py checksums", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    values = np.random.default_rng(0).standard_normal((options.rows, options.width), dtype=np.float32)
    print(f"{options.rows} rows of {options.width} float32 ({values.nbytes / 1e9:.2f} GB), windows of {WINDOW} rows")
    with tempfile.TemporaryDirectory() as folder:
        for name, write, read in (("feature file", _write_files, _read_file), ("bank", _write_banks, _read_bank)):
            jobs: dict[str, Callable[[], None]] = {
                kind: partial(read, path) for kind, path in write(Path(folder), values).items()
            }
            seconds = in_turns(jobs, options.rounds, CPU)
            checked, unchecked = seconds["checked"], seconds["unchecked"]
            added = (median(checked) - median(unchecked)) / (values.nbytes / 1e9)
            print(f"{name}: {median(checked):.2f} s with checksums, {median(unchecked):.2f} s without")
            print(f"  ratio {ratio(checked, unchecked)}, {added:.2f} s more per GB")
    return 0


def _write_files(folder: Path, values: np.ndarray) -> dict[str, Path]:
    """Write the values with and without checksums, and return kind -> file."""
    checked, unchecked = folder / "checked.h5", folder / "unchecked.h5"
    with new_skeleton() as skeleton, checked.open("wb") as file:
        skeleton.add("x", values.shape, values.dtype)
        skeleton.append_rows(file, "x", values)
    skeleton.write_headers(checked)
    with h5py.File(unchecked, "w") as file:
        file["x"] = values
    return {"checked": checked, "unchecked": unchecked}


def _read_file(path: Path) -> None:
    array = open_array(path, "x")
    for start in range(0, array.rows, WINDOW):
        array.read(start, start + WINDOW)


def _write_banks(folder: Path, values: np.ndarray) -> dict[str, Path]:
    """Write the values with and without checksums, and return kind -> folder of the bank."""
    ends = (*range(WINDOW, len(values), WINDOW), len(values))
    manifest = BankManifest(values.shape[1], 1, "float32", ends, {})
    banks = {kind: Bank.create(folder / kind, manifest) for kind in ("checked", "unchecked")}
    for bank in banks.values():
        for block in bank.missing():
            rows = values[slice(*bank.span(block))]
            bank.write(block, rows, np.zeros((len(rows), 1), dtype=np.int64))
    return {kind: bank.folder for kind, bank in banks.items()}


def _read_bank(folder: Path) -> None:
    """Read all rows of a bank. In the folder `unchecked`, no checksum is computed."""
    bank = open_bank(folder)
    if folder.name == "unchecked":
        for checked in bank._checked.values():
            checked[:] = True  # a bank does not check a block again
    for _ in bank.windows(WINDOW):
        pass
