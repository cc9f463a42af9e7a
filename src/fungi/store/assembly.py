"""Blocks -> the feature file: written whole under a temporary name, renamed last."""

from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from fungi.errors import FungiError
from fungi.runtime.files import written_whole
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
from fungi.store.reading import open_hdf5
from fungi.store.skeleton import laid_out


def is_there(path: Path, manifest: Manifest) -> bool:
    """Whether the file that the manifest describes is there already.

    FungiError where another one is: what differs, and how to go on.
    """
    if not path.exists():
        return False
    provenance, layers = _provenances(path)
    if provenance is None:
        raise FungiError(f"{path} was not written by this program; move it away, or choose another --root.")
    if provenance.schema_version < SCHEMA_VERSION:
        raise FungiError(
            f"{path} was made by an older version of this program (files of version {provenance.schema_version}, which"
            " did not look at the content of the samples): it can't be told whether it is of the same data. Choose"
            " another --root, or give --overwrite."
        )
    wanted = {name: asdict(layer) for name, layer in manifest.layers.items()}
    there, here = provenance.identity() | {"layers": layers}, manifest.provenance.identity() | {"layers": wanted}
    if there == here:
        return True
    differs = difference_in_words(there, here)
    raise FungiError(f"{differs}. {path} was made in another way. Choose another --root, or give --overwrite.")


def is_made(path: Path, manifest: Manifest) -> bool:
    """Whether the file that the manifest describes is there; another file at its place, or a damaged one, is not it."""
    try:
        return is_there(path, manifest)
    except FungiError:
        return False


def versions_of(path: Path) -> list[CodeVersion]:
    """What computed the rows of a feature file of this program."""
    provenance, _ = _provenances(path)
    return [CodeVersion(**{**record}) for record in provenance.code_versions] if provenance else []


def assemble(blocks: BlockFolder, path: Path, *, accept: bool = False) -> None:
    """Write the feature file from all its blocks, then remove them.

    accept: whether blocks that different versions of this program made may come into one file.
    FungiError where a block is missing, or blocks of two versions are there and that is not accepted. Several processes
    may do this at once: they write equal files, and one that finds the blocks gone because another was faster is
    content with the other's file.
    """
    try:
        _write(blocks, path, accept=accept)
    except (FungiError, FileNotFoundError):
        if is_made(path, blocks.manifest):
            return
        raise
    blocks.remove()
    remove_orphans(path.parent)


def block_folders(root: Path) -> list[BlockFolder]:
    """All work in progress below a root folder."""
    manifests = sorted((root / "blocks").rglob(MANIFEST))
    return [BlockFolder.open(path.parent) for path in manifests if not path.parent.name.startswith(".")]


def _write(blocks: BlockFolder, path: Path, *, accept: bool) -> None:
    blocks.require_complete()
    code_versions = distinct(blocks.code_versions().values())
    require_one(code_versions, str(path), accept=accept)
    born = blocks.manifest.provenance
    provenance = replace(
        born,
        commit=code_versions[0].commit,
        versions=code_versions[0].versions,
        code_versions=[asdict(code_version) for code_version in code_versions],
    )
    content = blocks.read()
    first = next(content)
    with laid_out() as skeleton:
        write_provenance(skeleton.file, provenance)
        for name, sample in first[1].items():
            array = skeleton.add(name, (provenance.rows, *sample.shape[1:]), sample.dtype)
            if name in blocks.manifest.layers:
                write_layer_provenance(array, blocks.manifest.layers[name])
    with written_whole(path) as temporary:
        skeleton.write_to(temporary)
        with temporary.open("r+b") as file:
            for span, arrays in chain([first], content):
                for name, values in arrays.items():
                    skeleton.write_rows(file, name, span.start, values)


def _provenances(path: Path) -> tuple[Provenance | None, dict[str, Any]]:
    try:
        with open_hdf5(path, "r") as file:
            layers = {name: read_layer_provenance(array) for name, array in file.items()}
            return read_provenance(file), {name: asdict(layer) for name, layer in layers.items() if layer is not None}
    except FungiError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        raise FungiError(f"{path} is damaged ({error}). Delete it and run the stage again.") from error
