"""A grid with one backbone and one dataset in two shards: its feature file, blocks, attempts and progress."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fungi.commands import COMMANDS
from fungi.grid.declaration import Grid
from fungi.grid.elements import GridCall, elements_of
from fungi.grid.progress import ExpectedFiles, Progress, progress_of
from fungi.grid.queue import Queue
from fungi.grid.records import Attempt, Records
from fungi.store.blocks import BlockFolder, Manifest
from fungi.store.layout import Layout
from fungi.store.provenance import Provenance
from tests.evaluation.feature_folder import PROVENANCE as ANY_PROVENANCE

PROVENANCE = replace(ANY_PROVENANCE, feature="kl")
CALL = GridCall("extract-gradients", ("--objective", "kl"), features=("kl",))


def file_of(grid: Grid) -> Path:
    """Return the feature file of the grid: the KL gradients of the test split."""
    return Layout(grid.root).gradients("digits", "digits-vit", "kl", "test")


def begin_blocks(grid: Grid, done: list[int], settings: dict | None = None) -> None:
    """Create the folder of five blocks of two rows, and write the blocks `done`."""
    facts = dict.fromkeys(("dataset_fingerprint", "weights_hash", "weights_source", "input", "profile", "dtype"), "x")
    provenance = Provenance(
        **facts, feature="kl", dataset="digits", split="test", rows=10, backbone="digits-vit", seed=42, device="cpu"
    )
    provenance = replace(provenance, settings=settings or {})
    manifest = Manifest(str(file_of(grid).relative_to(grid.root)), provenance, layers={}, block_size=2)
    blocks = BlockFolder.create(Layout(grid.root).blocks(file_of(grid), manifest.key), manifest)
    for span in manifest.spans():
        if span.index in done:
            blocks.write(span, {"kl": np.zeros((len(span), 3), dtype=np.float32)})


def progress_in(grid: Grid, queue: Queue | None = None) -> list[Progress]:
    """Return the progress of both shards. queue: by default a queue that is not known."""
    expected = {element: ExpectedFiles([file_of(grid)]) for element in elements_of(grid, CALL)}
    return progress_of(grid, CALL, expected, queue or Queue())


def record(grid: Grid, index: int, **fields) -> None:
    """Write the record of an attempt on another machine. index: index of the shard, from 0."""
    attempt = replace(Attempt(host="elsewhere", pid=1), **fields)
    Records(grid.root, CALL).write(elements_of(grid, CALL)[index], attempt)


def status(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run `fungi status`, and return its output."""
    assert COMMANDS["status"].main(words) == 0
    return capsys.readouterr().out
