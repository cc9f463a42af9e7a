"""`scripts/benchmark.py gpu` runs on a CPU with small settings, and lists what it cannot measure there."""

import re
import sys
from pathlib import Path

import pytest
import torch

from fungi.errors import FungiError

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package `benchmarks` importable."""
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])


def slow_busy_share(intervals: list[tuple[int, int]], duration: int) -> float:
    """Return the share of the time in which at least one kernel runs, counted per unit of time."""
    return sum(any(start <= time < end for start, end in intervals) for time in range(duration)) / duration


@pytest.mark.parametrize("intervals", [[], [(0, 3)], [(5, 7), (0, 3), (2, 4)], [(0, 9), (1, 2), (8, 10)], [(2, 2)]])
def test_the_busy_share_counts_overlapping_kernels_once(intervals: list[tuple[int, int]]) -> None:
    from benchmarks._device_use import busy_share

    assert busy_share(intervals, 20) == pytest.approx(slow_busy_share(intervals, 20))


def test_a_folder_without_the_published_library_is_refused(tmp_path: Path) -> None:
    from benchmarks._peer import peer_package

    with pytest.raises(FungiError, match="no package with FUNGIWrapper"):
        peer_package(tmp_path)


SMALL_WORK = ("--backbone", "digits-vit", "--device", "cpu", "--objective", "kl", "--images", "2", "--rounds", "1")


def test_a_bfloat16_residual_stream_needs_a_computation_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import extraction, gpu

    with pytest.raises(FungiError, match="--residual-dtype bfloat16 needs --dtype bfloat16"):
        extraction.main([*SMALL_WORK, "--residual-dtype", "bfloat16"])
    # On a CPU, the benchmark of the GPU computes in float32.
    all_options = []
    monkeypatch.setattr(gpu, "_setup", lambda options: (all_options.append(options), sys.exit()))
    with pytest.raises(SystemExit):
        gpu.main([*SMALL_WORK, "--dtype", "bfloat16", "--residual-dtype", "bfloat16"])
    assert [(options.dtype, options.residual_dtype) for options in all_options] == [("float32", "float32")]


def test_the_cosine_to_float32_is_to_a_residual_stream_in_float32(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import extraction
    from fungi.backbones.bfloat16_block import Bfloat16Block
    from fungi.gradients.engine import GradientEngine

    models = []
    extract = GradientEngine.extract

    def extract_and_record(engine, *arguments):
        models.append((engine.dtype, isinstance(engine.model.blocks[0], Bfloat16Block)))
        return extract(engine, *arguments)

    monkeypatch.setattr(GradientEngine, "extract", extract_and_record)
    assert extraction.main([*SMALL_WORK, "--dtype", "bfloat16", "--residual-dtype", "bfloat16"]) == 0
    assert set(models) == {(torch.bfloat16, True), (torch.float32, False)}
    (cosine,) = re.findall(r"cosine to float32: kl gradient ([0-9.]+)", capsys.readouterr().out)
    assert 0.99 < float(cosine) < 1  # other heads, weights or projections would have a cosine near 0


@pytest.mark.slow
def test_a_cpu_runs_the_benchmark_of_the_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Compare with a peer: a package with the interface of the published library, which imports this library."""
    from benchmarks import gpu

    package = tmp_path / "src" / "peer_of_the_test"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "config.py").write_text("from fungi.config import *\n")
    (package / "wrapper.py").write_text(
        "import fungi.wrapper\nclass FUNGIWrapper(fungi.wrapper.FUNGIWrapper):\n    ...\n"
    )
    work = "--backbone digits-vit --objective kl --images 2 --rounds 1 --kernels 3 --files 0 --workers 0 1"
    assert gpu.main(["--device", "cpu", *work.split(), "--no-compiled", "--peer", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for line in ("device busy", "peak memory of the device at 64 views per forward", "upload"):
        assert f"{line}: not measured (needs CUDA)" in text
    kernels = text.partition("attention kernels:\n")[2].splitlines()[0]
    assert "attention" in kernels.rpartition(" x ")[2]
    assert "  0 workers: views prepared" in text
    assert "  1 workers: views prepared" in text
    assert "time of peer_of_the_test / ours, 2 decoded pictures: " in text
