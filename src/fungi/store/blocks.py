"""Blocks: the unit of work, from the first row to the finished file.

The states of a block, here and in the other stores of blocks:

1. *missing*: the file of the block does not exist. A resumed run, a shard of a job array, a requeued job and a repeated
   command all compute the missing blocks.
2. *computed*: the block is in memory. It does not depend on other blocks.
3. *written*: the file of the block is written under a temporary name that contains the process id, flushed to the disk,
   and renamed. It is never written again. A killed process leaves at most a temporary file, which nobody reads.
   `remove_orphans` removes such files. Stages call this function for the folders to which they write. `fungi merge` and
   `fungi clean` call it for all folders below the root.
4. *assembled*: when no block is missing, any process can write the feature file, again under a temporary name. If
   several processes do so at once, they write the same bytes.
5. *removed*: the folder of the blocks is renamed (`removed_name`), and then deleted.

A folder of blocks belongs to a feature file and the settings that decide its numbers (`Manifest.key`). Its
`manifest.json` contains everything that is necessary to assemble the file, so that a merge needs neither model nor
data. A block stores its key, its rows and a checksum, so that a damaged block, or a block of another file, is refused.

The other stores differ in some states:

* a bank (`store.banks`): the rows of a block are written to their position in two files, and then a mark is written as
  in 3. The bank is complete when no mark is missing, so nothing is assembled;
* the scores of a segmentation (`segmentation.scoring`): the matrices of all blocks are read and added;
* the index of `fungi similar` (`similar.index`): one file contains all pictures. It is written again if pictures are
  missing in the file or have changed.

All stores take temporary names from `runtime.files`, and remove orphans (`runtime.owner`) when they are opened.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fungi.errors import FungiError, counted
from fungi.runtime.files import written_atomically
from fungi.runtime.owner import remove_orphans, removed_name
from fungi.store.code_version import CodeVersion, current_version
from fungi.store.provenance import SCHEMA_VERSION, LayerProvenance, Provenance
from fungi.store.seal import checksum_of_record, compare_checksums
from fungi.store.tensors import CHECKSUM, checksum_of_tensors

MANIFEST = "manifest.json"
ATTEMPTS = 20
"""Maximum number of attempts to write a file while other processes remove its folder."""
_SAMPLE_IDS = "sample_ids"
"""Name, in the file of a block, of the ids of its samples. They are stored as JSON in UTF-8."""


@dataclass(frozen=True)
class Span:
    """Rows `start:stop` of block `index`."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Manifest:
    """Description of a feature file, written before its first block.

    file: path below the root. block_size: rows per block. class_names: names of the labels; empty if not known.
    layers: name of an array -> provenance of its layer; empty for embeddings.
    """

    file: str
    provenance: Provenance
    layers: dict[str, LayerProvenance]
    block_size: int
    class_names: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Hash of everything that determines the numbers of the file."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """Return the facts that must be equal for all processes that write blocks of the file."""
        layers = {name: asdict(layer) for name, layer in self.layers.items()}
        return {"provenance": self.provenance.identity(), "layers": layers, "block_size": self.block_size}

    def spans(self) -> list[Span]:
        """Return the rows of all blocks, in order."""
        starts = range(0, self.provenance.rows, self.block_size)
        return [
            Span(index, start, min(start + self.block_size, self.provenance.rows)) for index, start in enumerate(starts)
        ]

    def to_json(self) -> str:
        """Return the manifest as text, with a checksum."""
        values = json.loads(json.dumps(asdict(self)))  # converts tuples to lists, so that the checksum fits the text
        return json.dumps(values | {"checksum": checksum_of_record(values)}, sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read a manifest from text. Raises ValueError, KeyError or TypeError if the text is damaged."""
        raw = json.loads(text)
        compare_checksums(raw["checksum"], checksum_of_record(raw))
        if raw["provenance"]["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"it has version {raw['provenance']['schema_version']}, this program reads {SCHEMA_VERSION}"
            )
        layers = {name: LayerProvenance(**layer) for name, layer in raw["layers"].items()}
        class_names = tuple(raw["class_names"])
        return cls(raw["file"], Provenance(**raw["provenance"]), layers, raw["block_size"], class_names)


@dataclass(frozen=True)
class Block:
    """The content of one block.

    arrays: one entry per row of the span, `[b d]` or `[b k d]`. sample_ids: ids of the rows; empty without ids.
    """

    span: Span
    arrays: dict[str, Shaped[np.ndarray, " b *d"]]
    sample_ids: list[str]


class BlockFolder:
    """The blocks of one feature file."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> "BlockFolder":
        """Return the blocks for a manifest. Write the manifest if it is missing or damaged, and remove orphans."""
        blocks = cls(folder, manifest)
        remove_orphans(folder)
        remove_orphans(folder.parent)
        blocks._write_manifest()
        with suppress(FileNotFoundError):  # another process has finished the file and removed the folder
            try:
                cls.open(folder)
            except FungiError:
                blocks._write_file(folder / MANIFEST, manifest.to_json().encode())
        return blocks

    @classmethod
    def open(cls, folder: Path) -> "BlockFolder":
        """Return the blocks of an existing folder.

        Raises FungiError if the manifest is damaged or belongs to another folder, FileNotFoundError without a manifest.
        """
        path = folder / MANIFEST
        try:
            manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
            if manifest.key != folder.name:
                raise ValueError(f"it describes blocks with the key {manifest.key}")
        except (ValueError, KeyError, TypeError) as error:
            raise FungiError(
                f"{path} is damaged ({error}). Run the stage of this file again: it writes the manifest again."
            ) from None
        return cls(folder, manifest)

    def missing(self) -> list[Span]:
        """Return the blocks that do not exist yet."""
        return [span for span in self.manifest.spans() if not self._path(span).exists()]

    def write(
        self,
        span: Span,
        arrays: dict[str, Shaped[np.ndarray, " b *d"]],
        sample_ids: Sequence[str] | None = None,
        *,
        computed_on: str = "",
    ) -> None:
        """Write a computed block, with the version of this program; do nothing if the file of the block exists.

        arrays: one entry per row of the span, `[b d]` or `[b k d]`. sample_ids: ids of these rows, if the file has ids.
        computed_on: name of the device, such as `NVIDIA H200`, for information only.

        If another process assembles the file in the meantime, `write` creates the folder of blocks again. The stage
        removes this folder at its end.
        """
        assert all(len(values) == len(span) for values in arrays.values())
        if self._path(span).exists():
            return
        tensors = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        if sample_ids is not None:
            assert len(sample_ids) == len(span)
            tensors[_SAMPLE_IDS] = np.frombuffer(json.dumps(list(sample_ids)).encode(), dtype=np.uint8)
        metadata = {
            "code_version": current_version().to_json(),
            "key": self.manifest.key,
            "rows": f"{span.index}: {span.start}-{span.stop}",
            "computed_on": computed_on,
        }
        content = save(tensors, metadata | {CHECKSUM: checksum_of_tensors(tensors, metadata)})
        self._write_manifest()
        self._write_file(self._path(span), content)

    def origin(self, span: Span) -> tuple[CodeVersion, str]:
        """Return the code version that computed a block, and the name of the device.

        Raises FungiError if the block can't be read, FileNotFoundError if it is missing.
        """
        _, metadata = self._load(span)
        return CodeVersion.from_json(metadata.get("code_version")), metadata.get("computed_on", "")

    def code_versions(self) -> dict[Span, CodeVersion]:
        """Return the code version of each existing block. Raises FungiError for a block that can't be read."""
        versions = {}
        for span in self.manifest.spans():
            with suppress(FileNotFoundError):  # missing, or another process has finished the file
                versions[span], _ = self.origin(span)
        return versions

    def drop(self, spans: Iterable[Span]) -> None:
        """Remove blocks, so that they are computed again."""
        for span in spans:
            self._path(span).unlink(missing_ok=True)

    def read(self) -> Iterator[Block]:
        """Yield all blocks in row order.

        Raises FungiError if blocks are missing, or if a block is damaged or belongs to another file.
        """
        self.require_complete()
        for span in self.manifest.spans():
            tensors, metadata = self._load(span, with_tensors=True)
            if metadata.get(CHECKSUM) != checksum_of_tensors(tensors, metadata):
                raise self._unreadable(span, "its checksum differs")
            texts = tensors.pop(_SAMPLE_IDS, None)
            sample_ids = [] if texts is None else json.loads(texts.tobytes())
            if any(len(values) != len(span) for values in tensors.values()):
                raise self._unreadable(span, f"it does not have {counted(len(span), 'row')}")
            yield Block(span, tensors, sample_ids)

    def remove(self) -> None:
        """Remove the folder. Other processes may do this at the same time.

        The folder is renamed first, so that a killed process does not leave an incomplete folder under the old name.
        """
        with suppress(OSError):  # another process has removed it
            self.folder.rename(removed_name(self.folder))
        remove_orphans(self.folder.parent)

    def require_complete(self) -> None:
        """Raise FungiError with the missing blocks and their rows, if blocks are missing."""
        missing = self.missing()
        if missing:
            blocks = ", ".join(f"{span.index} (rows {span.start}-{span.stop - 1})" for span in missing[:8])
            more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
            raise FungiError(
                f"{self.manifest.file} can't be assembled: {len(missing)} of"
                f" {counted(len(self.manifest.spans()), 'block')} are missing: {blocks}{more}. Run the stage again with"
                " the shards that compute them."
            )

    def _write_manifest(self) -> None:
        path = self.folder / MANIFEST
        if not path.exists():
            self._write_file(path, self.manifest.to_json().encode())

    def _write_file(self, path: Path, content: bytes) -> None:
        """Write a file of the folder. Try again if another process, which has finished the file, removes the folder."""
        for attempt in range(ATTEMPTS):
            try:
                with written_atomically(path) as temporary:
                    temporary.write_bytes(content)
                return
            except FileNotFoundError:
                if attempt == ATTEMPTS - 1:
                    raise

    def _load(self, span: Span, *, with_tensors: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Return the tensors and metadata of a block. Raises FungiError if the block contains other rows.

        with_tensors: whether to read the tensors; if not, there are none in the result.
        """
        path = self._path(span)
        try:
            with safe_open(path, "np") as file:
                metadata = dict(file.metadata() or {})
                # SIM118 asks to iterate over the file itself, which safetensors does not allow.
                tensors = {name: file.get_tensor(name) for name in file.keys() if with_tensors}  # noqa: SIM118
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise self._unreadable(span, str(error)) from error
        expected = (self.manifest.key, f"{span.index}: {span.start}-{span.stop}")
        if (metadata.get("key"), metadata.get("rows")) != expected:
            raise self._unreadable(span, "it was computed for another file or other rows, or its metadata are damaged")
        return tensors, metadata

    def _unreadable(self, span: Span, reason: str) -> FungiError:
        return FungiError(f"block {self._path(span)} can't be used: {reason}. Move it away and run the stage again.")

    def _path(self, span: Span) -> Path:
        return self.folder / f"{span.index:06d}.safetensors"
