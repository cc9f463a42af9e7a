"""Small files of tensors (safetensors) with metadata and a checksum, for indexes and scores of blocks."""

import json
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
from jaxtyping import Shaped

from fungi.store.seal import bytes_of, compare_checksums

CHECKSUM = "checksum"
"""Name of the checksum in the metadata."""


def checksum_of_tensors(tensors: Mapping[str, Shaped[np.ndarray, "..."]], metadata: Mapping[str, str]) -> str:
    """Return the CRC-32, as eight hexadecimal digits, of names, types, shapes and values of tensors, and of metadata.

    The checksum in the metadata is left out.
    """
    shapes = {name: [values.dtype.str, list(values.shape)] for name, values in tensors.items()}
    other_metadata = {name: value for name, value in metadata.items() if name != CHECKSUM}
    checksum = crc32(json.dumps([shapes, other_metadata], sort_keys=True).encode())
    for _, values in sorted(tensors.items()):
        checksum = crc32(bytes_of(values), checksum)
    return f"{checksum:08x}"


def save_tensors(
    path: Path, tensors: Mapping[str, Shaped[np.ndarray, "..."]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors and metadata, with their checksum."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    metadata = dict(metadata or {})
    save_file(arrays, path, metadata=metadata | {CHECKSUM: checksum_of_tensors(arrays, metadata)})


def load_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors and metadata of a file that `save_tensors` wrote.

    Raises ValueError if the file is damaged or has no checksum.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        raise ValueError(str(error)) from error
    compare_checksums(metadata.get(CHECKSUM), checksum_of_tensors(tensors, metadata))
    return tensors, metadata
