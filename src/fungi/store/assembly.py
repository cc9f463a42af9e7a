"""Blocks -> the feature file: written whole under a temporary name, renamed last."""

from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from fungi.errors import FungiError
from fungi.runtime.files import written_whole
from fungi.runtime.owner import sweep
from fungi.store.birth import SCHEMA_VERSION, Birth, read_birth, read_layer_birth, write_birth, write_layer_birth
from fungi.store.blocks import MANIFEST, BlockFolder, Manifest
from fungi.store.differences import difference_in_words
from fungi.store.maker import Maker, distinct, require_one
from fungi.store.reading import open_hdf5
from fungi.store.skeleton import laid_out


def is_there(path: Path, manifest: Manifest) -> bool:
    """Whether the file that the manifest describes is there already.

    FungiError where another one is: what differs, and how to go on.
    """
    if not path.exists():
        return False
    birth, layers = _births(path)
    if birth is None:
        raise FungiError(f"{path} was not written by this program; move it away, or choose another --root.")
    if birth.schema_version < SCHEMA_VERSION:
        raise FungiError(
            f"{path} was made by an older version of this program (files of version {birth.schema_version}, which did"
            " not look at the content of the samples): it can't be told whether it is of the same data. Choose another"
            " --root, or give --overwrite."
        )
    wanted = {name: asdict(layer) for name, layer in manifest.layers.items()}
    there, here = birth.identity() | {"layers": layers}, manifest.birth.identity() | {"layers": wanted}
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


def made_by(path: Path) -> list[Maker]:
    """What computed the rows of a feature file of this program."""
    birth, _ = _births(path)
    return [Maker(**{**record}) for record in birth.makers] if birth else []


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
    sweep(path.parent)


def block_folders(root: Path) -> list[BlockFolder]:
    """All work in progress below a root folder."""
    manifests = sorted((root / "blocks").rglob(MANIFEST))
    return [BlockFolder.open(path.parent) for path in manifests if not path.parent.name.startswith(".")]


def _write(blocks: BlockFolder, path: Path, *, accept: bool) -> None:
    blocks.require_complete()
    makers = distinct(blocks.makers().values())
    require_one(makers, str(path), accept=accept)
    born = blocks.manifest.birth
    birth = replace(
        born, commit=makers[0].commit, versions=makers[0].versions, makers=[asdict(maker) for maker in makers]
    )
    content = blocks.read()
    first = next(content)
    with laid_out() as skeleton:
        write_birth(skeleton.file, birth)
        for name, sample in first[1].items():
            array = skeleton.add(name, (birth.rows, *sample.shape[1:]), sample.dtype)
            if name in blocks.manifest.layers:
                write_layer_birth(array, blocks.manifest.layers[name])
    with written_whole(path) as temporary:
        skeleton.write_to(temporary)
        with temporary.open("r+b") as file:
            for span, arrays in chain([first], content):
                for name, values in arrays.items():
                    skeleton.write_rows(file, name, span.start, values)


def _births(path: Path) -> tuple[Birth | None, dict[str, Any]]:
    try:
        with open_hdf5(path, "r") as file:
            layers = {name: read_layer_birth(array) for name, array in file.items()}
            return read_birth(file), {name: asdict(layer) for name, layer in layers.items() if layer is not None}
    except FungiError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        raise FungiError(f"{path} is damaged ({error}). Delete it and run the stage again.") from error
