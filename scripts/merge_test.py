"""Run many merges at once over one root, and count those that fail (must be none).

    python scripts/merge_test.py --merges 200 --at-once 4

A root is filled with the blocks of several small files, then `--at-once` merges are started on it together, each in a
process of its own; as often as it takes for `--merges` of them. Each must end well, and each file must have the rows of
its blocks. 200 merges take about a minute on two cores.
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
FACTS = dict.fromkeys(("dataset_fingerprint", "weights_hash", "weights_source", "input", "profile", "dtype"), "x")
PLAIN = Provenance(feature="kl", dataset="d", split="train", rows=64, backbone="b", seed=1, device="cpu", **FACTS)
WIDTH, BLOCK = 32, 2


@dataclass(frozen=True, kw_only=True)
class MergeTestSettings:
    """How many merges, and how many together."""

    merges: int = setting(200, "merges in all", within=(1, 10**6))
    at_once: int = setting(4, "merges that run together on one root", within=(1, 64))
    files: int = setting(12, "feature files of each root", within=(1, 1000))


def fill(root: Path, files: int) -> None:
    """Write all blocks of some feature files, every file of a dataset of its own."""
    layout = Layout(root)
    for number in range(files):
        provenance = replace(PLAIN, dataset=f"d{number}")
        path = layout.gradients(provenance.dataset, "b", "kl", "train")
        manifest = Manifest(str(path.relative_to(root)), provenance, {"attn": LAYER}, BLOCK)
        blocks = BlockFolder.create(layout.blocks(path, manifest.key), manifest)
        for span in manifest.spans():
            blocks.write(span, {"attn": np.full((len(span), WIDTH), number, dtype=np.float32)})


def merge_in_fork(root: Path, log: Path) -> int:
    """Start a merge in a forked process; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        with log.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
            status = COMMANDS["merge"].main(["--root", str(root)])
    except BaseException as error:
        log.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        os._exit(status)


def run(settings: MergeTestSettings) -> None:
    """Run the merges. FungiError where one failed, or a file is not as its blocks are."""
    import fungi.store.assembly  # noqa: F401  loaded once, so that the forked processes begin together

    failures: Counter[str] = Counter()
    merges = 0
    with tempfile.TemporaryDirectory(prefix="fungi-merges-") as folder:
        full, root = Path(folder) / "full", Path(folder) / "root"
        fill(full, settings.files)
        while merges < settings.merges:
            shutil.copytree(full, root)
            logs = {merge_in_fork(root, log): log for log in (Path(folder) / str(i) for i in range(settings.at_once))}
            for pid, log in logs.items():
                if os.waitpid(pid, 0)[1]:
                    said = log.read_text(encoding="utf-8").splitlines() or ["no word"]
                    failures[said[-1].replace(str(root), "ROOT")[:120]] += 1
            merges += len(logs)
            for number in range(settings.files):
                values = open_array(Layout(root).gradients(f"d{number}", "b", "kl", "train"), "attn").read(
                    0, PLAIN.rows
                )
                if not (values == number).all():
                    failures["a file is not as its blocks are"] += 1
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
