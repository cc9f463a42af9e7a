"""The memory of an evaluation depends on the block size, not on the number of rows (aim: ImageNet in 24 GB)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
GIB = 2**30

# The program runs in a separate process, because the recorded peak of resident memory never falls.
MEASURE = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, {scripts!r})
from benchmarks.evaluation import EvaluationBenchmark, knn_settings, write_features
from fungi.scoring.knn_concat import run
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
sizes = dict(train_rows={rows}, test_rows=200, width=64, pca_dim=32, memory_gb=0, block_rows=2000)
settings = EvaluationBenchmark(**sizes, device="cpu")
write_features(Path({root!r}), settings)
before = peak()
run(knn_settings(Path({root!r}), settings))
print(json.dumps([before, peak()]))
"""


def memory_growth(root: Path, rows: int) -> int:
    """Return by how many bytes an evaluation with this number of train rows raises the peak of resident memory."""
    root.mkdir()
    code = MEASURE.format(scripts=str(SCRIPTS), rows=rows, root=str(root))
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    before, after = json.loads(process.stdout.splitlines()[-1])
    return after - before


@pytest.mark.slow
def test_the_memory_of_a_streamed_evaluation_does_not_depend_on_the_number_of_rows(tmp_path):
    few_rows, many_rows = memory_growth(tmp_path / "few", 4_000), memory_growth(tmp_path / "many", 34_000)
    assert many_rows - few_rows < 10e6  # the other 30,000 rows of 4 x 64 float32 numbers are 31 MB


@pytest.fixture
def memory_by_purpose():
    """Return the function that computes the memory of an evaluation from the sizes of its arrays."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        from benchmarks.evaluation import memory_by_purpose

        yield memory_by_purpose
    finally:
        sys.path.remove(str(SCRIPTS))


def test_imagenet_fits_into_24_gb_by_design(memory_by_purpose):
    imagenet = {"train_rows": 1_281_167, "test_rows": 50_000, "dims": [768] * 4}
    parts = memory_by_purpose(**imagenet, pca_dim=512, block_rows=8192, memory_bytes=4 * GIB)
    assert sum(parts.values()) < 6 * GIB
    without_pca = memory_by_purpose(**imagenet, pca_dim=10**6, block_rows=8192, memory_bytes=4 * GIB)
    assert sum(without_pca.values()) < 8 * GIB


def test_with_streamed_features_only_labels_grow_with_train_rows(memory_by_purpose):
    small, large = (
        memory_by_purpose(rows, test_rows=1000, dims=[384] * 4, pca_dim=384, block_rows=8192, memory_bytes=0)
        for rows in (10**6, 10**7)
    )
    assert {name for name in small if small[name] != large[name]} == {"labels (int64)"}
