"""Compare the finished parts of files before and after a kill, for `scripts/kill_test.py`."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from fungi.backbones.checkpoints import read_content
from fungi.store.banks import MANIFEST, Bank, read_manifest

STEP_SEPARATOR = " after step "
"""Text between the name of a checkpoint and its step."""


def finished(root: Path) -> dict[str, str]:
    """Return name -> content or hash of every finished part of the files below a root.

    The parts of a result file are its combinations. The parts of a log are its epochs, those of a feature file are its
    arrays, and those of a bank are its blocks. Any other file is one part.
    """
    contents = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or any(part.startswith(".") for part in Path(name).parts):
            continue
        if path.suffix == ".json" and name.startswith("result"):
            results = json.loads(path.read_text(encoding="utf-8"))["results"]
            contents |= {f"{name}:{key}": json.dumps(scores, sort_keys=True) for key, scores in results.items()}
        elif path.name == "log.txt":
            lines = path.read_text(encoding="utf-8").splitlines()
            epochs = [json.loads(line) | {"images_per_second": 0} for line in lines]  # the speed is never the same
            contents |= {f"{name}:{number:06d}": json.dumps(epoch) for number, epoch in enumerate(epochs)}
        elif path.name.startswith("checkpoint"):
            step, digest = _state_of_run(path)
            contents[f"{name}{STEP_SEPARATOR}{step:06d}"] = digest
        elif path.name == MANIFEST:
            blocks = _blocks_of_bank(path.parent)
            contents |= {f"{path.parent.relative_to(root)}:{block}": digest for block, digest in blocks}
        elif path.suffix == ".bin":
            continue  # the values of a bank, which are filled block by block and hashed with its manifest
        elif path.suffix == ".h5":
            with h5py.File(path) as file:
                for key, array in file.items():
                    values = array[()]
                    content = repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
                    contents[f"{name}:{key}"] = hashlib.sha256(content).hexdigest()
        else:
            contents[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return contents


def _state_of_run(path: Path) -> tuple[int, str]:
    """Return the step of a run of pretraining or fine-tuning, and a hash of the weights of its networks."""
    content = read_content(path)
    weights = {part: content[part] for part in ("model", "student", "teacher") if part in content}
    digest = hashlib.sha256()
    for part, state in weights.items():
        for name, tensor in state.items():
            digest.update(f"{part}.{name}".encode() + tensor.numpy().tobytes())
    return content["fungi"]["step"] if "fungi" in content else len(content["history"]), digest.hexdigest()


def _blocks_of_bank(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, hash) of each written block of a bank."""
    bank = Bank(folder, read_manifest(folder))
    for block in set(range(len(bank.manifest.ends))) - set(bank.missing()):
        rows = np.arange(*bank.span(block))
        yield block, hashlib.sha256(bank.features_of(rows).tobytes() + bank.labels_of(rows).tobytes()).hexdigest()


def missing_from(after: dict[str, str], before: dict[str, str]) -> list[str]:
    """Return the names in `before` that are missing in `after` or have another content there.

    A block that was assembled into a feature file is not missing. A checkpoint that a later checkpoint replaced is not
    missing either.
    """
    lost = []
    for name, content in before.items():
        feature_file = Path(name).parent.parent.as_posix().removeprefix("blocks/") + ".h5"
        is_assembled = name.startswith("blocks/") and any(key.startswith(f"{feature_file}:") for key in after)
        checkpoint, separator, _ = name.partition(STEP_SEPARATOR)
        steps = [key for key in after if separator and key.startswith(checkpoint + separator)]
        is_replaced = any(key > name for key in steps)
        if after.get(name) != content and not (is_assembled or is_replaced):
            lost.append(name)
    return lost
