"""`kill -9` at any moment loses at most the block in flight: the same command again gives the same bytes of data."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stages.conftest import arrays, assert_same_files

KILLS = 30
FLAGS = ("--dataset", "pictures", "--device", "cpu", "--objective", "kl", "dino", "--with-embeddings")


def _command(root: Path, pictures: Path) -> list[str]:
    where = ("--root", str(root), "--data-dir", str(pictures), "--block-size", "1", "--batch-size", "1")
    return [sys.executable, "-m", "fungi", "extract-gradients", *FLAGS, *where]


@pytest.mark.slow
def test_kills_at_random_moments_do_not_show_in_the_files(pictures: Path, tmp_path: Path) -> None:
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    start = time.monotonic()
    subprocess.run(_command(plain, pictures), check=True, capture_output=True)
    whole = time.monotonic() - start
    assert len(arrays(plain)) == 8  # two splits of embeddings, targets, KL and DINO

    moments = random.Random(0)
    survived = 0
    for _ in range(KILLS):
        # The work is in the last part of a run (start-up is most of it): aim there, but not only there.
        delay = moments.uniform(0.3, 1.0) * whole
        process = subprocess.Popen(_command(killed, pictures), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=delay)
            survived += 1
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if survived and len(arrays(killed)) == len(arrays(plain)):
            _start_over(killed)  # a finished run would be kept: there would be nothing left to kill
    subprocess.run(_command(killed, pictures), check=True, capture_output=True)
    assert survived < KILLS
    assert_same_files(killed, plain)


def _start_over(root: Path) -> None:
    """Take one feature file away, so that the next run has work to do."""
    min((root / "gradients").rglob("*.h5")).unlink()
