"""Run many merges in parallel over the same root, and count those that fail (there must be none).

    python scripts/merge_test.py --merges 200 --at-once 4

The script writes the blocks of several small files below a root. Then it starts `--at-once` merges of this root
together, each in its own process. The script repeats these steps until `--merges` merges have run. Each merge must
succeed, and each file must have the rows of its blocks. 200 merges take about a minute on two cores.
"""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.runtime.command import run_command
from fungi.settings import setting
from fungi.store.blocks import BlockFolder, Manifest
from fungi.store.layout import Layout
from fungi.store.provenance import LayerProvenance, Provenance
from fungi.store.reading import open_array

LAYER = LayerProvenance(layer="l", bias=True, projection_hash="p", projection_kind="binary", projection_seed=1)
# The values of the provenance have no effect on a merge, so short texts stand for them.
FACTS = dict.fromkeys(("dataset_fingerprint", "weights_hash", "weights_source", "input", "profile", "dtype"), "x")
PROVENANCE = Provenance(feature="kl", dataset="d", split="train", rows=64, backbone="b", seed=1, device="cpu", **FACTS)
WIDTH, BLOCK = 32, 2
"""Number of entries of a feature, and number of rows of a block."""


@dataclass(frozen=True, kw_only=True)
class MergeTestSettings:
    """Settings of `merge_test.py`."""

    merges: int = setting(200, "number of merges", within=(1, 10**6))
    at_once: int = setting(4, "number of merges that run in parallel on one root", within=(1, 64))
    files: int = setting(12, "number of feature files in each root", within=(1, 1000))


def fill(root: Path, files: int) -> None:
    """Write all blocks of some feature files. Each file belongs to another dataset."""
    layout = Layout(root)
    for number in range(files):
        provenance = replace(PROVENANCE, dataset=f"d{number}")
        path = layout.gradients(provenance.dataset, "b", "kl", "train")
        manifest = Manifest(str(path.relative_to(root)), provenance, {"attn": LAYER}, BLOCK)
        blocks = BlockFolder.create(layout.blocks(path, manifest.key), manifest)
        for span in manifest.spans():
            blocks.write(span, {"attn": np.full((len(span), WIDTH), number, dtype=np.float32)})


def merge_in_fork(root: Path, log: Path) -> int:
    """Start a merge in a forked process, and return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 70  # of a process that ends with an unexpected error
    try:
        with log.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
            status = COMMANDS["merge"].main(["--root", str(root)])
    except BaseException as error:
        log.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        os._exit(status)


def run(settings: MergeTestSettings) -> None:
    """Run the merges and print the failures. Raises FungiError if a merge failed, or a file differs from its blocks."""
    import fungi.store.assembly  # noqa: F401  imported before the forks, so that the merges begin at the same moment

    failures: Counter[str] = Counter()
    merges = 0
    with tempfile.TemporaryDirectory(prefix="fungi-merges-") as folder:
        full, root = Path(folder) / "full", Path(folder) / "root"
        fill(full, settings.files)
        while merges < settings.merges:
            shutil.copytree(full, root)
            log_files = [Path(folder) / str(number) for number in range(settings.at_once)]
            logs = {merge_in_fork(root, log): log for log in log_files}
            for pid, log in logs.items():
                _, status = os.waitpid(pid, 0)
                if status != 0:
                    lines = log.read_text(encoding="utf-8").splitlines() or ["no message"]
                    failures[lines[-1].replace(str(root), "ROOT")[:120]] += 1
            merges += len(logs)
            for number in range(settings.files):
                path = Layout(root).gradients(f"d{number}", "b", "kl", "train")
                values = open_array(path, "attn").read(0, PROVENANCE.rows)
                if not (values == number).all():
                    failures["a file differs from its blocks"] += 1
            shutil.rmtree(root)
    for text, count in failures.most_common(8):
        print(f"{count} x {text}")
    print(f"{merges} merges, {settings.at_once} at once, {failures.total()} failures")
    if failures:
        raise FungiError(f"{failures.total()} failures of {merges} merges.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(MergeTestSettings, run, program="merge_test.py", description=__doc__ or "", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
