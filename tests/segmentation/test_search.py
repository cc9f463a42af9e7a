"""Search in a bank: exact search equals brute force, and the recall and memory of approximate search."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from fungi.errors import FungiError
from fungi.search import backends
from fungi.search.libraries import TreeSettings
from fungi.search.neighbours import recall
from fungi.search.stored import BankSearch
from fungi.store.banks import Bank, PatchRows
from tests.segmentation.tiny import CPU, filled_bank


def vectors(rows: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    """Return random vectors of norm 1, `[rows width]`."""
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize(("rows", "tile_bytes"), [(50, 1 << 28), (5000, 1 << 28), (5000, 300_000), (4999, 5_000_000)])
def test_exact_search_equals_brute_force_for_every_tile_size(
    rows: int, tile_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "QUERIES_PER_TILE", 7)
    keys, queries = vectors(rows), vectors(20, seed=1)
    keys[-3:] = queries[:3]  # the last columns, which are an incomplete group, are neighbours
    scores, indices = BankSearch(filled_bank(tmp_path, keys.numpy()), CPU, tile_bytes=tile_bytes)(queries, 9)
    products = queries.double() @ keys.double().T
    expected = products.topk(9, dim=1)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(scores.double(), expected.values, rtol=0, atol=1e-6)


def test_a_float16_bank_is_searched_with_its_rounded_values(tmp_path: Path) -> None:
    keys, queries = vectors(400), vectors(5, seed=1)
    _, indices = BankSearch(filled_bank(tmp_path, keys.numpy(), dtype="float16"), CPU)(queries, 3)
    assert torch.equal(indices, (queries @ keys.half().float().T).topk(3, dim=1).indices)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("rows", [300, 3000])
def test_faiss_and_scann_have_a_recall_above_90_percent(rows: int, tmp_path: Path) -> None:
    """Few leaves exist and not all are searched, so a wrong tree or metric would reduce the recall."""
    bank, queries = filled_bank(tmp_path, vectors(rows).numpy()), vectors(40, seed=1)
    truth = BankSearch(bank, CPU)(queries, 5)
    tree = TreeSettings(leaves=16, searched=12, reordered=120)
    for search in (BankSearch(bank, CPU, name, k=5, tree=tree) for name in ("faiss", "scann")):
        scores, indices = search(queries, 5)
        assert recall(indices, truth[1]) > 0.9
        equal = indices[:, 0] == truth[1][:, 0]
        torch.testing.assert_close(scores[equal, 0], truth[0][equal, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("backend", ["faiss", "scann"])
def test_approximate_search_returns_no_row_twice(backend: str, tmp_path: Path) -> None:
    """Only one leaf of about 40 rows is searched for 90 neighbours."""
    keys, queries = vectors(700), vectors(20, seed=1)
    tree = TreeSettings(leaves=16, searched=1, reordered=120)
    scores, rows = BankSearch(filled_bank(tmp_path, keys.numpy()), CPU, backend, k=90, tree=tree)(queries, 90)
    assert all(len(set(neighbours)) == 90 for neighbours in rows.tolist())
    torch.testing.assert_close(scores, (queries.unsqueeze(1) * keys[rows]).sum(dim=2), rtol=1e-4, atol=1e-4)


def test_fewer_patches_than_neighbours_are_refused(tmp_path: Path) -> None:
    bank = filled_bank(tmp_path, vectors(3).numpy())
    for backend in ("exact", "faiss", "scann"):
        with pytest.raises(FungiError, match="k = 4 is too large: the bank has only 3 patches"):
            BankSearch(bank, CPU, backend, k=2, tree=TreeSettings())(vectors(1), 4)


class CountedReads(PatchRows):
    """Patches that count the bytes that a search reads."""

    read = 0

    def windows(self, size: int):
        for start, window in super().windows(size):
            self.read += window.nbytes
            yield start, window


@pytest.mark.also_with_two_threads
def test_a_bank_that_fits_into_memory_is_read_once_and_gives_the_same_neighbours() -> None:
    rows, limit = vectors(20_000, 8), 100 << 20
    in_memory, streamed = CountedReads(rows.numpy()), CountedReads(rows.numpy())
    searches = BankSearch(in_memory, CPU, tile_bytes=limit), BankSearch(streamed, CPU, tile_bytes=1 << 20)
    assert [search.is_in_memory for search in searches] == [True, False]
    for seed in range(3):
        (scores, indices), (truth, expected) = (search(vectors(64, 8, seed=seed), 9) for search in searches)
        assert torch.equal(indices, expected)
        torch.testing.assert_close(scores, truth)
    size = rows.numpy().nbytes
    assert (in_memory.read, streamed.read) == (size, 3 * size)


MEASURE = """
import re, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from fungi.search.stored import BankSearch
from fungi.store.banks import Bank, read_manifest

def peak():  # getrusage would include the parent process
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

folder, (limit, count, k) = Path(sys.argv[1]), map(int, sys.argv[2:])
bank = Bank(folder, read_manifest(folder))
queries = torch.randn(count, bank.dim)
BankSearch(bank, torch.device("cpu"), tile_bytes=1 << 16)(queries[:512], k)  # libraries allocate memory once
before = peak()
scores, rows = BankSearch(bank, torch.device("cpu"), tile_bytes=limit)(queries, k)
bank.labels_of(rows[:1024].numpy())  # the labels for one image
print(peak() - before, bank.rows * bank.dim * 4, scores.nbytes + rows.nbytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "width", "queries", "k"),
    [(120_000, 256, 64, 5), (15_000, 64, 8 * 1024, 30)],
    ids=["a bank ten times the limit", "the queries of a block of images"],
)
def test_exact_search_stays_within_its_limit(rows: int, width: int, queries: int, k: int, tmp_path: Path) -> None:
    """The limit is 12 MB without queries and results. The test measures the growth of the peak memory of a process."""
    limit = 12 << 20
    filled_bank(tmp_path, vectors(rows, width, seed=2).numpy())
    command = [sys.executable, "-c", MEASURE, str(tmp_path), *map(str, (limit, queries, k))]
    # Freed memory is returned at once. Otherwise the peak would include memory that the C library keeps.
    environment = {
        **os.environ,
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    growth, size, results = map(int, process.stdout.split())
    is_large_bank = rows == 120_000
    assert size > 9.5 * limit or not is_large_bank
    assert growth < 1.1 * limit + results


def test_rows_can_be_read_in_any_order_and_shape(tmp_path: Path) -> None:
    features, labels = vectors(100).numpy(), np.arange(300).reshape(100, 3)
    bank: Bank = filled_bank(tmp_path, features, labels)
    rows = np.array([[7, 99, 7], [0, 50, 3]])
    np.testing.assert_array_equal(bank.labels_of(rows), labels[rows])
    np.testing.assert_array_equal(bank.features_of(rows), features[rows])
