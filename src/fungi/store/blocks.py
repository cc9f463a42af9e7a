"""A block of rows is the unit of work: computed on its own, written under a temporary name, renamed, never rewritten.

Resume, shards of a SLURM array, requeue after preemption and a plain re-run are all the same thing: do the blocks that
are missing. A folder of blocks belongs to one feature file and one way of making it (its key); `manifest.json` in it
says all that is needed to assemble the file, so that a merge needs neither model nor data.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fungi.errors import FungiError
from fungi.runtime.files import written_whole
from fungi.runtime.owner import remove_orphans, removed_name
from fungi.store.code_version import CodeVersion, current_version
from fungi.store.provenance import LayerProvenance, Provenance

MANIFEST = "manifest.json"
ATTEMPTS = 20
"""How often a file is written anew while others remove its folder."""


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
    """What a feature file will be: its path below the root, its provenance, its layers, and how rows are blocked."""

    file: str
    provenance: Provenance
    layers: dict[str, LayerProvenance]
    block_size: int

    @property
    def key(self) -> str:
        """A name for this way of making the file: a hash of everything that decides the numbers."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """What two writers must agree on."""
        layers = {name: asdict(layer) for name, layer in self.layers.items()}
        return {"provenance": self.provenance.identity(), "layers": layers, "block_size": self.block_size}

    def spans(self) -> list[Span]:
        """All blocks, in row order."""
        starts = range(0, self.provenance.rows, self.block_size)
        return [Span(i, start, min(start + self.block_size, self.provenance.rows)) for i, start in enumerate(starts)]

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """From text."""
        raw = json.loads(text)
        layers = {name: LayerProvenance(**layer) for name, layer in raw["layers"].items()}
        return cls(raw["file"], Provenance(**raw["provenance"]), layers, raw["block_size"])


class BlockFolder:
    """The blocks of one feature file."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> "BlockFolder":
        """The folder for a manifest; whoever comes first writes it down. What killed processes left there goes."""
        blocks = cls(folder, manifest)
        remove_orphans(folder)
        remove_orphans(folder.parent)
        blocks._begin()
        return blocks

    def _begin(self) -> None:
        path = self.folder / MANIFEST
        if not path.exists():
            self._put(path, self.manifest.to_json().encode())

    def _put(self, path: Path, content: bytes) -> None:
        """Write a file of the folder, which another process may remove in any moment, with all the work done."""
        for attempt in range(ATTEMPTS):
            try:
                with written_whole(path) as temporary:
                    temporary.write_bytes(content)
                return
            except FileNotFoundError:
                if attempt == ATTEMPTS - 1:
                    raise

    @classmethod
    def open(cls, folder: Path) -> "BlockFolder":
        """A folder that exists. FungiError where its manifest is damaged."""
        try:
            return cls(folder, Manifest.from_json((folder / MANIFEST).read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise FungiError(
                f"{folder / MANIFEST} is damaged ({error}). Delete the folder and run the stage again."
            ) from None

    def missing(self) -> list[Span]:
        """Blocks that are not there yet."""
        return [span for span in self.manifest.spans() if not self._path(span).exists()]

    def write(self, span: Span, arrays: dict[str, Shaped[np.ndarray, " b *d"]]) -> None:
        """Store a block for good, with what made it. Every array has one entry per row of the span, `[d]` or `[k d]`.

        Another process that does the same work may finish the file and remove the folder meanwhile: the block then
        begins the folder anew, and the stage, which looks for the file in the end, removes it again.
        """
        assert all(len(values) == len(span) for values in arrays.values())
        if self._path(span).exists():
            return
        content = save(
            {name: np.ascontiguousarray(values) for name, values in arrays.items()},
            {"code_version": current_version().to_json()},
        )
        self._begin()
        self._put(self._path(span), content)

    def code_versions(self) -> dict[Span, CodeVersion]:
        """What made each block that is there; FungiError for one that can't be read."""
        found = {}
        for span in self.manifest.spans():
            with suppress(FileNotFoundError):  # not there yet, or another process finished the file
                found[span] = self._load(span)[1]
        return found

    def drop(self, spans: Iterable[Span]) -> None:
        """Remove blocks, which are to be done again."""
        for span in spans:
            self._path(span).unlink(missing_ok=True)

    def read(self) -> Iterator[tuple[Span, dict[str, Shaped[np.ndarray, " b *d"]]]]:
        """All blocks in row order. FungiError that says which are missing, or which can't be read."""
        self.require_complete()
        for span in self.manifest.spans():
            arrays, _ = self._load(span, arrays=True)
            if any(len(values) != len(span) for values in arrays.values()):
                raise FungiError(
                    f"block {self._path(span)} does not hold {len(span)} rows. Delete it and run the stage again."
                )
            yield span, arrays

    def _load(self, span: Span, *, arrays: bool = False) -> tuple[dict[str, np.ndarray], CodeVersion]:
        """A block's arrays, if they are asked for, and what made it."""
        path = self._path(span)
        try:
            with safe_open(path, "np") as file:
                code_version = CodeVersion.from_json((file.metadata() or {}).get("code_version"))
                return {name: file.get_tensor(name) for name in file.keys() if arrays}, code_version  # noqa: SIM118
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError) as error:
            raise FungiError(f"block {path} can't be read ({error}). Delete it and run the stage again.") from error

    def remove(self) -> None:
        """Remove the folder; others may be doing the same.

        It is renamed first, so that a kill in between leaves no half of it under a name that means something.
        """
        with suppress(OSError):  # gone already
            self.folder.rename(removed_name(self.folder))
        remove_orphans(self.folder.parent)

    def require_complete(self) -> None:
        """FungiError with the missing blocks and their rows."""
        missing = self.missing()
        if missing:
            shown = ", ".join(f"{span.index} (rows {span.start}-{span.stop - 1})" for span in missing[:8])
            more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
            raise FungiError(
                f"{self.manifest.file} can't be assembled: {len(missing)} of {len(self.manifest.spans())} blocks are "
                f"missing: {shown}{more}. Run the stage again with the shards that make them."
            )

    def _path(self, span: Span) -> Path:
        return self.folder / f"{span.index:06d}.safetensors"
