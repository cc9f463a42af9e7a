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
from fungi.store.code_version import CodeVersion, distinct, require_one_version
from fungi.store.differences import difference_in_words
from fungi.store.provenance import (
    OTHER_FILE_ADVICE,
    SCHEMA_VERSION,
    Provenance,
    read_layer_provenance,
    read_provenance,
    write_layer_provenance,
    write_provenance,
)
from fungi.store.reading import CLASS_NAMES, SAMPLE_IDS, opened
from fungi.store.skeleton import Skeleton, new_skeleton


def check_finished(path: Path, manifest: Manifest) -> bool:
    """Return whether the file of the manifest is finished.

    Raises FungiError if there is another file or a damaged file at `path`; the message states the difference.
    """
    if not path.exists():
        return False
    provenance, layers = _provenances(path)
    if provenance is None:
        raise FungiError(f"{path} was not written by this program. Move it away, or choose another --root.")
    if provenance.schema_version != SCHEMA_VERSION:
        raise FungiError(
            f"{path} has the format of another version of this program ({provenance.schema_version}, but this version"
            f" writes format {SCHEMA_VERSION}). {OTHER_FILE_ADVICE}"
        )
    planned_layers = {name: asdict(layer) for name, layer in manifest.layers.items()}
    existing = provenance.identity() | {"layers": layers}
    planned = manifest.provenance.identity() | {"layers": planned_layers}
    if existing == planned:
        return True
    difference = difference_in_words(existing, planned)
    raise FungiError(f"{difference}. {path} was computed in another way. {OTHER_FILE_ADVICE}")


def is_finished(path: Path, manifest: Manifest) -> bool:
    """Return whether the file of the manifest is finished; False if another or a damaged file has its path."""
    try:
        return check_finished(path, manifest)
    except FungiError:
        return False


def versions_of(path: Path) -> list[CodeVersion]:
    """Return the versions of this program that computed the rows of a feature file."""
    provenance, _ = _provenances(path)
    return [CodeVersion(**record) for record in provenance.code_versions] if provenance else []


def assemble(blocks: BlockFolder, path: Path, *, accept: bool = False) -> None:
    """Write the feature file from its blocks, then remove the blocks.

    accept: whether to accept blocks of different versions of this program in one file. Raises FungiError if a block is
    missing or damaged, or if there are blocks of different versions and `accept` is False.

    Several processes may do this at once; they write equal files. If blocks are missing because another process was
    faster, the file of that process is accepted.
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
    """Return the folders of blocks below a root, and an error for each damaged manifest.

    dataset, backbone: return only the folders of this dataset and this backbone; an empty name means all.

    Folders that other processes remove at the same time are left out.
    """
    folders, errors = [], []
    for folder in sorted(_folders_with_manifest(root / "blocks")):
        _, *names = folder.relative_to(root / "blocks").parts  # "embeddings" or "gradients", dataset, backbone, ...
        is_selected = all(choice in ("", name) for choice, name in zip((dataset, backbone), names, strict=False))
        if not is_selected:
            continue
        try:
            folders.append(BlockFolder.open(folder))
        except FileNotFoundError:  # another process has just finished the file
            continue
        except FungiError as error:
            errors.append(error)
    return folders, errors


def _folders_with_manifest(top: Path) -> Iterator[Path]:
    """Yield the folders of blocks below a folder, without those that are being removed."""
    for folder, subfolders, files in os.walk(top):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if MANIFEST in files:
            yield Path(folder)


def _write(blocks: BlockFolder, path: Path, *, accept: bool) -> None:
    """Write the file. Raises FileNotFoundError if another process removes the blocks at the same time."""
    blocks.require_complete()
    origins = [blocks.origin(span) for span in blocks.manifest.spans()]
    code_versions = distinct(code_version for code_version, _ in origins)
    require_one_version(code_versions, str(path), accept=accept)
    devices = sorted({device for _, device in origins if device})
    if len(devices) > 1:
        logger.warning(f"{path}: its blocks were computed on {'; '.join(devices)}, which round differently.")
    provenance = replace(
        blocks.manifest.provenance,
        commit=code_versions[0].commit,
        versions=code_versions[0].versions,
        computed_on=devices,
        code_versions=[asdict(code_version) for code_version in code_versions],
    )
    with written_atomically(path) as temporary:
        with new_skeleton() as skeleton:
            write_provenance(skeleton.file, provenance)
            sample_ids = _write_rows(blocks, skeleton, temporary)
            for name, texts in ((SAMPLE_IDS, sample_ids), (CLASS_NAMES, blocks.manifest.class_names)):
                if texts and sample_ids:
                    skeleton.add_texts(name, texts)
        skeleton.write_headers(temporary)


def _write_rows(blocks: BlockFolder, skeleton: Skeleton, path: Path) -> list[str]:
    """Write the rows of all blocks. Return the sample ids; empty if the blocks have no ids."""
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
    """Return the provenance of a file (None without a provenance), and array name -> record of the layer."""
    with opened(path) as file:
        layers = {name: read_layer_provenance(array) for name, array in file.items()}
        return read_provenance(file), {name: asdict(layer) for name, layer in layers.items() if layer is not None}
