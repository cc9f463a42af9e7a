"""Read arrays in files of other programs: .npy, .npz, PyTorch files (only tensors; no code is executed) and HDF5.

The first bytes of a file determine its format; the name of the file does not. Messages about damaged files never advise
users to delete these files, because they may be the only copies.
"""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from jaxtyping import Float32, Integer, Shaped

from fungi.errors import FungiError, MissingFilesError
from fungi.store.reading import ARRAY_ADVICE, TARGETS, FeatureArray, open_array, open_hdf5, read_targets

Format = Literal["HDF5", "npy", "npz", "PyTorch"]
FEATURE_KEYS = ("embeddings", "features", "feats", "image_features", "x", "X")
"""Usual names of features in files of other programs; the first name in a file counts."""
TARGET_KEYS = (TARGETS, "labels", "label", "target", "y", "Y")
"""Usual names of labels in files of other programs; the first name in a file counts."""
NO_KEY = ""
"""Key of the only array of a file without keys (.npy, a saved tensor)."""


@dataclass(frozen=True, kw_only=True)
class ForeignArray(FeatureArray):
    """An array `[n d]` of a file that is not HDF5. The array stays in memory while it is used."""

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "b d"]:
        """Return the rows `start:stop`."""
        return np.array(load_array(self.path, self.key)[start:stop], dtype=np.float32)  # a copy: files are read-only


def format_of(path: Path) -> Format:
    """Return the format of a file, by its first bytes. Raises FungiError for a format that is not supported."""
    if not path.is_file():
        raise MissingFilesError(f"{path} does not exist. Check the path. For an array in a file, write FILE:KEY.")
    with path.open("rb") as file:
        head = file.read(8)  # the first eight bytes of an HDF5 file identify it; other formats need fewer
    if head == b"\x89HDF\r\n\x1a\n":
        return "HDF5"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                return "PyTorch" if any(name.endswith("data.pkl") for name in archive.namelist()) else "npz"
        except zipfile.BadZipFile as error:
            raise _unreadable(path, "a zip file (.npz, .pt)", error) from None
    if head.startswith(b"\x80") and path.suffix in (".pt", ".pth", ".bin"):
        return "PyTorch"
    raise FungiError(
        f"{path} is not an HDF5, .npy, .npz or .pt file, or its beginning is damaged. Check that it was copied"
        " completely. The file was not changed."
    )


def split_key(text: str | Path) -> tuple[Path, str | None]:
    """Return file and key of `FILE:KEY`; the key is None if the text is only `FILE`."""
    path, colon, key = str(text).rpartition(":")
    if not colon or not path or Path(text).exists():
        return Path(text), None
    return Path(path), key


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array in a file by its key, in the order of the file."""
    if format_of(path) != "HDF5":
        return {key: np.shape(values) for key, values in _arrays(path).items()}
    shapes: dict[str, tuple[int, ...]] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape:
            shapes[name] = tuple(map(int, node.shape))

    with _hdf5(path) as file:
        file.visititems(visit)
    return shapes


def load_array(path: Path, key: str) -> Shaped[np.ndarray, "..."]:
    """Return an array; texts become an array of str. Raises FungiError if the file does not have the array."""
    if format_of(path) == "HDF5":
        with _hdf5(path) as file:
            if not isinstance(file.get(key), h5py.Dataset):
                raise _no_such_array(path, key)
            array = file[key]
            return np.asarray(array.asstr()[:] if h5py.check_string_dtype(array.dtype) else array[()])
    arrays = _arrays(path)
    if key not in arrays:
        raise _no_such_array(path, key)
    return arrays[key]


def choose_key(path: Path, usual_keys: tuple[str, ...], dimensions: int) -> str:
    """Return the key of an array that the user did not name: a usual key, or the key of the only possible array.

    dimensions: number of axes of the array. Raises FungiError if several arrays are possible.
    """
    shapes = shapes_of(path)
    for key in usual_keys:
        if key in shapes:
            return key
    possible_keys = [key for key, shape in shapes.items() if len(shape) == dimensions]
    if len(possible_keys) == 1:
        return possible_keys[0]
    raise FungiError(f"{path} contains {_names_and_shapes(shapes)}. Name the array: {path}:KEY.")


def open_any(path: Path, key: str | None = None, usual_keys: tuple[str, ...] = FEATURE_KEYS) -> FeatureArray:
    """Return an array `[n d]` of a file of any format; without a key, the array that `choose_key` returns.

    Raises FungiError if the array has another shape, or if several arrays are possible.
    """
    file_format = format_of(path)
    key = choose_key(path, usual_keys, 2) if key is None else key
    if file_format == "HDF5":
        return open_array(path, key)
    shape = np.shape(load_array(path, key))
    if len(shape) != 2:
        raise FungiError(f"{path}: array {key!r} has shape {shape}, but features have shape [n d]. {ARRAY_ADVICE}")
    return ForeignArray(path=path, key=key, rows=shape[0], dim=shape[1], provenance=None, layer=None)


def targets_of(text: str | Path) -> Integer[np.ndarray, " n"]:
    """Return the labels of `FILE` or `FILE:KEY`, int64, of a file of any format.

    Raises FungiError if the array does not have one whole number per row.
    """
    path, key = split_key(text)
    if format_of(path) == "HDF5" and key in (None, TARGETS) and TARGETS in shapes_of(path):
        return read_targets(path)
    key = choose_key(path, TARGET_KEYS, 1) if key is None else key
    labels = load_array(path, key)
    if labels.dtype.kind == "f" and np.equal(labels, np.round(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iu" or labels.shape[:1] != (labels.size,):
        raise FungiError(
            f"{path}:{key} contains {labels.dtype} of shape {labels.shape}, but labels are one whole number per row."
            " Name the array as FILE:KEY."
        )
    return labels.reshape(-1).astype(np.int64)


@contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield the file for reading. Raises FungiError for all errors of HDF5."""
    try:
        with open_hdf5(path, "r") as file:
            yield file
    except FungiError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        raise _unreadable(path, "HDF5", error) from None


@lru_cache(maxsize=8)
def _loaded(path: Path, modified_ns: int) -> Mapping[str, np.ndarray]:
    """Return the arrays of a file. modified_ns: time of the last change, so that the cache drops changed files.

    Raises FungiError if the file is damaged.
    """
    file_format = format_of(path)
    try:
        if file_format == "npy":
            return {NO_KEY: np.load(path, mmap_mode="r", allow_pickle=False)}
        if file_format == "npz":
            with np.load(path, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        return dict(_tensors(_torch_content(path), ""))
    except FungiError:
        raise
    except Exception as error:
        raise _unreadable(path, file_format, error) from None


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    """Return the arrays of a file that is not HDF5, from the cache if the file has not changed."""
    return _loaded(path, path.stat().st_mtime_ns)


def _torch_content(path: Path) -> Any:
    """Return the content of a PyTorch file. Raises FungiError if reading it could execute code."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "weights_only" not in str(error) and "Unsupported" not in str(error):
            raise
        raise FungiError(
            f"{path} contains more than tensors, and reading it could execute code. Save only the tensors:"
            " torch.save({'features': features, 'labels': labels}, 'features.pt')."
        ) from None


def _tensors(content: Any, key: str) -> list[tuple[str, np.ndarray]]:
    """Return (key, array) for all tensors in nested lists and dictionaries, with keys such as `train/features`."""
    import torch

    if isinstance(content, torch.Tensor):
        values = content.detach()
        return [(key, (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy())]
    if isinstance(content, list | tuple) and content and all(isinstance(part, str | int) for part in content):
        return [(key, np.asarray(content))]
    named_parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, Mapping):
        named_parts = content.items()
    elif isinstance(content, list):
        named_parts = enumerate(content)
    tensors = []
    for name, part in named_parts:
        tensors += _tensors(part, f"{key}/{name}" if key else str(name))
    return tensors


def _unreadable(path: Path, file_format: str, error: Exception) -> FungiError:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return FungiError(
        f"{path} can't be read as {file_format} ({reason}). Check that it was copied completely. The file was not"
        " changed."
    )


def _no_such_array(path: Path, key: str) -> FungiError:
    content = _names_and_shapes(shapes_of(path))
    return FungiError(f"{path} has no array {key!r}. It contains {content}. Write FILE:KEY.")


def _names_and_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return a text with the first twelve arrays of a file."""
    texts = [f"{key or 'one array'} {list(shape)}" for key, shape in list(shapes.items())[:12]]
    if len(shapes) > 12:
        texts.append("...")
    return ", ".join(texts) or "no array"
