"""Flip single bits in blocks and feature files, and count the flips that no check notices.

    python scripts/flip_test.py --flips 500

Half of the flips change a block, which is then assembled into a file. The other half change a finished file, which is
then read: every array, the labels, the provenance, the names of samples and classes. Each flip is tried in its own
process and has one of five results:

- noticed: the program refuses the file or block.
- harmless: the program reads the values that were written.
- silent: the program reads other values. This must never happen.
- crash: a signal ends the process. This must never happen.
- another error: the program fails without an explanation. This must never happen.

500 flips take about a minute on two cores.
"""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fungi.errors import FungiError
from fungi.runtime.command import run_command
from fungi.settings import SEEDS, setting
from fungi.store.assembly import assemble
from fungi.store.blocks import BlockFolder, Manifest
from fungi.store.layout import Layout
from fungi.store.provenance import LayerProvenance, Provenance
from fungi.store.reading import open_array, provenance_of, read_class_names, read_sample_ids, read_targets

LAYER = LayerProvenance(layer="l", bias=True, projection_hash="p", projection_kind="binary", projection_seed=1)
FACTS = dict.fromkeys(("dataset_fingerprint", "weights_hash", "weights_source", "input", "profile", "dtype"), "x" * 64)
PROVENANCE = Provenance(feature="kl", dataset="d", split="train", rows=64, backbone="b", seed=1, device="cpu", **FACTS)
WIDTH, BLOCK = 24, 16
"""Number of entries of a feature, and number of rows of a block."""
VALUES = np.random.default_rng(0).standard_normal((PROVENANCE.rows, WIDTH)).astype(np.float32)
NOTICED, HARMLESS, SILENT, CRASH, OTHER_ERROR = "noticed", "harmless", "silent", "crash", "another error"


@dataclass(frozen=True, kw_only=True)
class FlipSettings:
    """Settings of `flip_test.py`: the number of flips, and the seed of their places."""

    flips: int = setting(500, "number of flips", within=(1, 10**6))
    seed: int = setting(0, "seed of the places of the flips", within=SEEDS)


def write_blocks(root: Path, feature: str) -> tuple[BlockFolder, Path]:
    """Write all blocks of a feature file. Return the folder of the blocks, and the path of the file."""
    path = Layout(root).features(feature, "d", "b", "train")
    layers = {} if feature == "embeddings" else {"attn": LAYER}
    names = ("cat", "dog") if feature == "embeddings" else ()
    manifest = Manifest(str(path.relative_to(root)), replace(PROVENANCE, feature=feature), layers, BLOCK, names)
    blocks = BlockFolder.create(Layout(root).blocks(path, manifest.key), manifest)
    for span in manifest.spans():
        rows = slice(span.start, span.stop)
        if layers:
            blocks.write(span, {"attn": VALUES[rows]})
        else:
            labels = np.arange(span.start, span.stop, dtype=np.uint32) % 2
            ids = [f"images/{row:05d}.png" for row in range(span.start, span.stop)]
            blocks.write(span, {"embeddings": VALUES[rows], "targets": labels}, ids)
    return blocks, path


def content(path: Path) -> list[Any]:
    """Return everything that the program can read from a feature file."""
    feature = path.name.removesuffix(".h5").removesuffix("-train")  # train.h5 has embeddings, kl-train.h5 has gradients
    array = open_array(path, "attn" if feature == "kl" else "embeddings")
    values: list[Any] = [array.read(start, start + 10).tobytes() for start in range(0, array.rows, 10)]
    if feature != "kl":
        values += [read_targets(path).tolist(), read_sample_ids(path), read_class_names(path)]
    return [*values, array.layer, provenance_of(path)]


def outcome(attempt: Callable[[], bool]) -> str:
    """Call `attempt` in a forked process, and return the result of the flip.

    attempt: function that returns whether the program reads the same values as before the flip.
    """
    pid = os.fork()
    if not pid:
        status = 3  # stays if an error other than FungiError ends the attempt
        try:
            status = 0 if attempt() else 1
        except FungiError:
            status = 2
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    results = {0: HARMLESS, 1: SILENT, 2: NOTICED}
    return CRASH if os.WIFSIGNALED(status) else results.get(os.WEXITSTATUS(status), OTHER_ERROR)


def flip_bit(path: Path, draws: np.random.Generator) -> bytes:
    """Flip one bit of a file, and return the content from before the flip."""
    before = path.read_bytes()
    damaged = bytearray(before)
    damaged[draws.integers(len(damaged))] ^= 1 << int(draws.integers(8))
    path.write_bytes(damaged)
    return before


def run(settings: FlipSettings) -> None:
    """Flip bits and print the results. Raises FungiError if a flip was silent or crashed the process."""
    draws = np.random.default_rng(settings.seed)
    tallies = {"block": Counter[str](), "finished file": Counter[str]()}
    with tempfile.TemporaryDirectory(prefix="fungi-flips-") as folder:
        features = ("embeddings", "kl")
        finished = {name: write_blocks(Path(folder) / "finished", name) for name in features}
        for blocks, path in finished.values():
            assemble(blocks, path)
        pending = {name: write_blocks(Path(folder) / "pending", name) for name in features}
        expected = {name: content(path) for name, (_, path) in finished.items()}
        for number in range(settings.flips):
            name = features[number // 2 % 2]  # block and file of the first feature, then those of the second
            if number % 2:
                path, kind = finished[name][1], "finished file"
                before = flip_bit(path, draws)
                result = outcome(partial(_reads_as_expected, path, expected[name]))
            else:
                block_files = sorted(pending[name][0].folder.glob("*.safetensors"))
                path, kind = block_files[draws.integers(PROVENANCE.rows // BLOCK)], "block"
                before = flip_bit(path, draws)
                result = outcome(partial(_assembles_as_expected, pending[name], Path(folder) / "try", expected[name]))
                shutil.rmtree(Path(folder) / "try", ignore_errors=True)
            path.write_bytes(before)
            tallies[kind][result] += 1
    for kind, tally in tallies.items():
        print(f"{kind}: " + ", ".join(f"{count} {result}" for result, count in tally.most_common()))
    total = sum(tallies.values(), Counter[str]())
    unnoticed = total[HARMLESS] + total[SILENT]
    print(f"{settings.flips} flips, {unnoticed} unnoticed, of which {total[SILENT]} changed the values that were read")
    if failures := total[SILENT] + total[CRASH] + total[OTHER_ERROR]:
        raise FungiError(
            f"{failures} flips were silent, crashed the process, or ended in an error without an explanation."
        )


def _reads_as_expected(path: Path, expected: list[Any]) -> bool:
    return content(path) == expected


def _assembles_as_expected(pending: tuple[BlockFolder, Path], root: Path, expected: list[Any]) -> bool:
    """Assemble a copy of the blocks below `root`, and return whether the file has the expected content."""
    blocks, path = pending
    pending_root = next(parent for parent in path.parents if parent.name == "pending")
    shutil.copytree(pending_root, root)
    copied_path = root / path.relative_to(pending_root)
    assemble(BlockFolder.open(root / blocks.folder.relative_to(pending_root)), copied_path)
    return content(copied_path) == expected


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(FlipSettings, run, program="flip_test.py", description=__doc__ or "", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
