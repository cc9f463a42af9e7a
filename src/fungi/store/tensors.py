"""Small files of tensors (safetensors) with labels and a checksum, for indexes and scores of blocks."""

import json
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
from jaxtyping import Shaped

from fungi.store.seal import bytes_of, compare_checksums

CHECKSUM = "checksum"
"""Name of the label with the checksum."""


def checksum_of_tensors(tensors: Mapping[str, Shaped[np.ndarray, "..."]], labels: Mapping[str, str]) -> str:
    """Return the CRC-32, as eight hexadecimal digits, of names, types, shapes and values of tensors, and of the labels.

    The label `checksum` itself is left out.
    """
    shapes = {name: [values.dtype.str, list(values.shape)] for name, values in tensors.items()}
    other_labels = {name: value for name, value in labels.items() if name != CHECKSUM}
    checksum = crc32(json.dumps([shapes, other_labels], sort_keys=True).encode())
    for _, values in sorted(tensors.items()):
        checksum = crc32(bytes_of(values), checksum)
    return f"{checksum:08x}"


def save_tensors(
    path: Path, tensors: Mapping[str, Shaped[np.ndarray, "..."]], labels: Mapping[str, str] | None = None
) -> None:
    """Write tensors and labels, with their checksum."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    metadata = dict(labels or {})
    save_file(arrays, path, metadata=metadata | {CHECKSUM: checksum_of_tensors(arrays, metadata)})


def load_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors and labels of a file that `save_tensors` wrote.

    Raises ValueError if the file is damaged or has no checksum.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            labels = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        raise ValueError(str(error)) from error
    compare_checksums(labels.get(CHECKSUM), checksum_of_tensors(tensors, labels))
    return tensors, labels
