"""The index of a folder: the features of its files.

If the size or the time of a file changes, the features of this file are computed again.

This module does not import torch, so that a query of an existing index is quick.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fungi.data.formats.image_folders import IMAGE_ENDINGS, image_names, warn_of_ignored_files
from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.files import written_atomically
from fungi.runtime.owner import remove_orphans
from fungi.store.tensors import load_tensors, save_tensors

FILE, FEATURES, STATE = "index.safetensors", "features", "state"


def pictures_below(folder: Path) -> list[Path]:
    """Return all pictures of a folder and its subfolders, sorted. Raises MissingFilesError if there is none."""
    pictures = [(folder / name).resolve() for name in image_names(folder)]
    warn_of_ignored_files(folder, has_class_folders=False)
    if not pictures:
        raise MissingFilesError(f"--images {folder} does not contain pictures ({', '.join(IMAGE_ENDINGS)}).")
    return sorted(pictures)


@dataclass(frozen=True)
class Index:
    """Features of files.

    features: one row per file, the concatenation of parts of length 1.
    parts: name -> width of each part, embeddings first.
    states: file -> (row, size in bytes, time of its last change in nanoseconds).
    """

    features: Float32[np.ndarray, "n f"]
    parts: Mapping[str, int]
    states: Mapping[str, tuple[int, int, int]]

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Return the index in a folder; an empty index if there is no file. Raises FungiError for a damaged file."""
        path = folder / FILE
        if not path.is_file():
            return cls(np.zeros((0, 0), np.float32), {}, {})
        try:
            tensors, metadata = load_tensors(path)
            content, features = json.loads(metadata[STATE]), tensors[FEATURES]
        except (ValueError, KeyError, TypeError) as error:
            raise FungiError(
                f"{path} is damaged ({error}). Move it away, and run the same command again to rebuild it."
            ) from None
        return cls(features, content["parts"], {name: tuple(values) for name, values in content["files"].items()})

    def write(self, folder: Path) -> None:
        """Write the index into a folder, and remove the orphans there."""
        content = json.dumps({"parts": self.parts, "files": self.states})
        folder.mkdir(parents=True, exist_ok=True)
        remove_orphans(folder)
        with written_atomically(folder / FILE) as unfinished:
            save_tensors(unfinished, {FEATURES: self.features}, {STATE: content})

    def missing(self, paths: Sequence[Path]) -> list[Path]:
        """Return the files, without duplicates, that are not in the index or have changed since they were indexed."""

        def is_indexed(path: Path) -> bool:
            _row, *size_and_time = self.states.get(str(path), (None,))  # a file that is not indexed has no size
            return tuple(size_and_time) == _size_and_time(path)

        return [path for path in dict.fromkeys(paths) if not is_indexed(path)]

    def joined(self, paths: Sequence[Path], features: Float32[np.ndarray, "m f"], parts: Mapping[str, int]) -> "Index":
        """Return an index that also contains the features of `paths`.

        New features of a file replace its earlier features. If the parts differ, all earlier features are dropped.
        """
        earlier = self.features if self.parts == parts else np.zeros((0, features.shape[1]), np.float32)
        states = dict(self.states) if self.parts == parts else {}
        states |= {str(path): (len(earlier) + row, *_size_and_time(path)) for row, path in enumerate(paths)}
        return Index(np.concatenate([earlier, features]), parts, states)

    @property
    def columns(self) -> dict[str, slice]:
        """Columns of the two features to compare: only the embeddings, and all parts."""
        return {"embeddings": slice(0, next(iter(self.parts.values()))), "FUNGI": slice(None)}

    def rows(self, paths: Sequence[Path], columns: slice) -> Float32[np.ndarray, "m f"]:
        """Return some columns of the features of files."""
        return self.features[[self.states[str(path)][0] for path in paths], columns]


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def nearest(query: Float32[np.ndarray, "1 f"], keys: Float32[np.ndarray, "n f"], count: int) -> list[tuple[int, float]]:
    """Return (row, cosine) of the `count` rows most similar to the query, best first. Ties keep the order of rows."""
    norms = np.linalg.norm(keys, axis=1) * np.linalg.norm(query)
    scores = (keys @ query[0]) / np.maximum(norms, np.finfo(np.float32).tiny)  # [n f] x [f] -> [n]
    order = np.argsort(-scores, kind="stable")[:count]
    return [(int(row), float(scores[row])) for row in order]
