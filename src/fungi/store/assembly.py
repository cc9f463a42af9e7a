"""Assemble feature files from their blocks. A file is written under a temporary name and renamed at the end."""

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fungi.errors import FungiError
from fungi.runtime.files import written_atomically
from fungi.runtime.log import logger
from fungi.runtime.owner import remove_orphans
from fungi.store.blocks import MANIFEST, BlockFolder, Manifest
from fungi.store.code_version import CodeVersion, distinct, require_one
from fungi.store.differences import difference_in_words
from fungi.store.provenance import (
    SCHEMA_VERSION,
    Provenance,
    read_layer_provenance,
    read_provenance,
    write_layer_provenance,
    write_provenance,
)
from fungi.store.reading import CLASS_NAMES, SAMPLE_IDS, opened
from fungi.store.skeleton import Skeleton, laid_out


def check_finished(path: Path, manifest: Manifest) -> bool:
    """Return whether the file that the manifest describes is finished.

    Raises FungiError if its place is taken by another file or a damaged one, with the difference and the way out.
    """
    if not path.exists():
        return False
    provenance, layers = _provenances(path)
    if provenance is None:
        raise FungiError(f"{path} was not written by this program; move it away, or choose another --root.")
    if provenance.schema_version != SCHEMA_VERSION:
        raise FungiError(
            f"{path} was written by another version of this program (files of version {provenance.schema_version}, this"
            f" one writes version {SCHEMA_VERSION}). Choose another --root, or give --overwrite."
        )
    planned_layers = {name: asdict(layer) for name, layer in manifest.layers.items()}
    existing = provenance.identity() | {"layers": layers}
    planned = manifest.provenance.identity() | {"layers": planned_layers}
    if existing == planned:
        return True
    differs = difference_in_words(existing, planned)
    raise FungiError(f"{differs}. {path} was computed in another way. Choose another --root, or give --overwrite.")


def is_finished(path: Path, manifest: Manifest) -> bool:
    """Return whether the file that the manifest describes exists; False for another or a damaged file in its place."""
    try:
        return check_finished(path, manifest)
    except FungiError:
        return False


def versions_of(path: Path) -> list[CodeVersion]:
    """Return the versions of this program that computed the rows of a feature file."""
    provenance, _ = _provenances(path)
    return [CodeVersion(**{**record}) for record in provenance.code_versions] if provenance else []


def assemble(blocks: BlockFolder, path: Path, *, accept: bool = False) -> None:
    """Write the feature file from all its blocks, then remove them.

    accept: whether blocks of different versions of this program may come into one file.
    Raises FungiError if a block is missing or damaged, or if blocks are of two versions and this is not accepted.
    Several processes may do this at once: they write equal files, and a process that misses blocks because another was
    faster accepts the other's file.
    """
    try:
        _write(blocks, path, accept=accept)
    except (FungiError, FileNotFoundError):
        if is_finished(path, blocks.manifest):
            return
        raise
    blocks.remove()
    remove_orphans(path.parent)


def block_folders(root: Path, dataset: str = "", backbone: str = "") -> tuple[list[BlockFolder], list[FungiError]]:
    """Return the unfinished work below a root folder, and an error for each manifest that is damaged.

    dataset, backbone: look only at these; an empty name means all. Other processes may be finishing files: a folder
    that disappears meanwhile is left out.
    """
    folders, errors = [], []
    for folder in sorted(_folders_with_manifest(root / "blocks")):
        _, *names = folder.relative_to(root / "blocks").parts  # embeddings or gradients, dataset, backbone, ...
        if any(name not in ("", own) for name, own in zip((dataset, backbone), names, strict=False)):
            continue
        try:
            folders.append(BlockFolder.open(folder))
        except FileNotFoundError:  # another process has just finished the file
            continue
        except FungiError as error:
            errors.append(error)
    return folders, errors


def _folders_with_manifest(top: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if MANIFEST in files:
            yield Path(place)


def _write(blocks: BlockFolder, path: Path, *, accept: bool) -> None:
    """Write the file. Raises FileNotFoundError if another process removes the blocks meanwhile."""
    blocks.require_complete()
    origins = [blocks.origin(span) for span in blocks.manifest.spans()]
    code_versions = distinct(code_version for code_version, _ in origins)
    require_one(code_versions, str(path), accept=accept)
    devices = sorted({device for _, device in origins if device})
    if len(devices) > 1:
        logger.warning(f"{path}: its blocks were computed on {'; '.join(devices)}, whose roundings differ.")
    provenance = replace(
        blocks.manifest.provenance,
        commit=code_versions[0].commit,
        versions=code_versions[0].versions,
        computed_on=devices,
        code_versions=[asdict(code_version) for code_version in code_versions],
    )
    with written_atomically(path) as temporary:
        with laid_out() as skeleton:
            write_provenance(skeleton.file, provenance)
            sample_ids = _write_rows(blocks, skeleton, temporary)
            for name, texts in ((SAMPLE_IDS, sample_ids), (CLASS_NAMES, blocks.manifest.class_names)):
                if texts and sample_ids:
                    skeleton.add_texts(name, texts)
        skeleton.write_headers(temporary)


def _write_rows(blocks: BlockFolder, skeleton: Skeleton, path: Path) -> list[str]:
    """Write the arrays of all blocks to their places. Return the sample ids; empty if the blocks hold none."""
    sample_ids: list[str] = []
    with path.open("wb") as file:
        for block in blocks.read():
            for name, values in block.arrays.items():
                if name not in skeleton.arrays:
                    shape = (blocks.manifest.provenance.rows, *values.shape[1:])
                    array = skeleton.add(name, shape, values.dtype)
                    if name in blocks.manifest.layers:
                        write_layer_provenance(array, blocks.manifest.layers[name])
                skeleton.append_rows(file, name, values)
            sample_ids += block.sample_ids
    return sample_ids


def _provenances(path: Path) -> tuple[Provenance | None, dict[str, Any]]:
    with opened(path) as file:
        layers = {name: read_layer_provenance(array) for name, array in file.items()}
        return read_provenance(file), {name: asdict(layer) for name, layer in layers.items() if layer is not None}
