"""Checksums cover every bit of a feature file and of a block, so any damage is detected."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.errors import FungiError
from fungi.store import seal
from fungi.store.assembly import assemble, is_finished
from fungi.store.blocks import BlockFolder, Manifest
from fungi.store.reading import array_keys, open_array, provenance_of, read_class_names, read_sample_ids, read_targets
from fungi.store.seal import DamagedFileError, read_seal
from tests.store.blocks import BLOCK, ROWS, VALUES, create_blocks, fill

IDS = [f"class{row % 2}/b\u00fccher {row}.png" for row in range(ROWS)]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Return an embeddings file with several segments of checksums."""
    monkeypatch.setattr(seal, "SEGMENT_BYTES", 10 * VALUES.shape[1] * 4)
    gradient_blocks, path = create_blocks(tmp_path)
    manifest = Manifest(
        gradient_blocks.manifest.file,
        gradient_blocks.manifest.provenance,
        layers={},
        block_size=BLOCK,
        class_names=("cat", "M\u00f6we"),
    )
    blocks = BlockFolder(gradient_blocks.folder, manifest)
    targets = np.arange(ROWS, dtype=np.uint32) % 2
    for span in blocks.missing():
        rows = slice(span.start, span.stop)
        blocks.write(span, {"embeddings": VALUES[rows], "targets": targets[rows]}, IDS[rows])
    assemble(blocks, path)
    return path


def check_arrays(path: Path) -> None:
    """Check every byte of the arrays of a file. Raises DamagedFileError if a byte has changed."""
    with path.open("rb") as file:
        for key, array in read_seal(path).arrays.items():
            file.seek(array.offset)
            for start in range(0, array.rows, array.segment_rows):
                rows = min(array.segment_rows, array.rows - start)
                array.check(path, key, start, memoryview(file.read(rows * array.row_bytes)))


def content(path) -> list:
    """Return everything that the program reads from a file. Raises FungiError if it notices damage."""
    array = open_array(path, "embeddings")
    values = [array.read(start, start + 7).tobytes() for start in range(0, ROWS, 7)]
    labels = read_targets(path).tolist()
    return [provenance_of(path), array_keys(path), values, labels, read_sample_ids(path), read_class_names(path)]


def test_an_embeddings_file_has_the_ids_and_class_names_of_its_rows(file):
    assert read_sample_ids(file) == IDS
    assert read_class_names(file) == ["cat", "M\u00f6we"]
    assert array_keys(file) == ["embeddings"]
    with h5py.File(file) as opened:
        assert opened["sample_ids"].asstr()[:].tolist() == IDS
        assert set(opened) == {"embeddings", "targets", "sample_ids", "class_names"}


def test_a_gradient_file_has_only_layers(tmp_path):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    assemble(blocks, path)
    with h5py.File(path) as opened:
        assert set(opened) == {"attn"}
    assert read_sample_ids(path) is None


def test_the_values_that_are_read_are_the_values_that_were_written(file):
    array = open_array(file, "embeddings")
    for start, stop in ((0, ROWS), (3, 4), (9, 21), (30, 40), (38, 99), (5, 5)):
        np.testing.assert_array_equal(array.read(start, stop), VALUES[start:stop])


def test_no_flipped_bit_changes_the_values_that_are_read(file):
    """A flip is either refused or in a byte that is not read."""
    expected, undamaged = content(file), file.read_bytes()
    detected = 0
    draws = np.random.default_rng(0)
    for position in [*draws.integers(0, len(undamaged), 60), *draws.integers(len(undamaged) - 400, len(undamaged), 20)]:
        damaged = bytearray(undamaged)
        damaged[position] ^= 1 << int(draws.integers(8))
        file.write_bytes(damaged)
        try:
            assert content(file) == expected, position
        except FungiError:
            detected += 1
        else:
            assert position >= len(undamaged) - 8, position  # the mark of a file with checksums
    assert detected >= 60


@pytest.mark.parametrize("key", ["embeddings", "targets"])
def test_damaged_rows_are_named_and_other_rows_can_be_read(key, file):
    array = seal.read_seal(file).arrays[key]
    row = array.rows - 1
    with file.open("r+b") as raw:
        raw.seek(array.offset + row * array.row_bytes)
        raw.write(b"\xff\xff")
    with pytest.raises(DamagedFileError, match=f"damaged: the checksum of rows .* to {row} of '{key}'"):
        check_arrays(file)
    with pytest.raises(DamagedFileError, match=str(row)):
        open_array(file, key).read(row, row + 1) if key == "embeddings" else read_targets(file)
    np.testing.assert_array_equal(open_array(file, "embeddings").read(0, 5), VALUES[:5])


def test_a_file_with_damaged_headers_is_refused_before_hdf5_opens_it(file, monkeypatch):
    with file.open("r+b") as raw:
        raw.seek(100)
        raw.write(b"\xff" * 40)
    monkeypatch.setattr(h5py, "File", lambda *_, **__: pytest.fail("HDF5 opened a damaged file"))
    with pytest.raises(DamagedFileError, match="attributes"):
        provenance_of(file)
    assert not is_finished(file, create_blocks(file.parent / "other")[0].manifest)


def test_a_file_that_another_program_has_edited_is_read_without_checksums(file):
    with h5py.File(file, "r+") as edited:
        edited["embeddings"][0, 0] = 7
        edited.create_dataset("notes", data=np.arange(3000.0))
    assert open_array(file, "embeddings").read(0, 1)[0, 0] == 7


def test_a_block_of_another_seed_or_of_other_rows_is_refused(tmp_path):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    first, second = (blocks.folder / f"{index:06d}.safetensors" for index in (0, 1))
    content_of_first, content_of_second = first.read_bytes(), second.read_bytes()
    first.write_bytes(content_of_second)
    second.write_bytes(content_of_first)
    with pytest.raises(
        FungiError, match=r"000000\.safetensors can't be used: it was computed for another file or other"
    ):
        assemble(blocks, path)
    second.write_bytes(content_of_second)
    provenance = replace(blocks.manifest.provenance, seed=2)
    manifest = Manifest(blocks.manifest.file, provenance, blocks.manifest.layers, block_size=BLOCK)
    other = BlockFolder.create(blocks.folder.with_name(manifest.key), manifest)
    fill(other)
    first.write_bytes((other.folder / first.name).read_bytes())
    with pytest.raises(FungiError, match="can't be used: it was computed for another file"):
        assemble(blocks, path)
    assert not path.exists()


def test_no_flipped_bit_of_a_block_reaches_the_file(tmp_path):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    block = blocks.folder / "000002.safetensors"
    undamaged = block.read_bytes()
    draws = np.random.default_rng(1)
    header = 8 + int.from_bytes(undamaged[:8], "little")
    for position in [*draws.integers(0, len(undamaged), 20), *draws.integers(0, header, 30)]:
        damaged = bytearray(undamaged)
        damaged[position] ^= 1 << int(draws.integers(8))
        block.write_bytes(damaged)
        with pytest.raises(FungiError):
            assemble(blocks, path)
        assert not path.exists()


@pytest.mark.parametrize("damage", [("train", "tramp"), ('"seed": 1', '"seed": 2'), ("{", "[")])
def test_a_damaged_manifest_is_refused_and_the_stage_writes_it_again(damage, tmp_path):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    manifest = blocks.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(*damage))
    with pytest.raises(FungiError, match=r"manifest\.json is damaged"):
        BlockFolder.open(blocks.folder)
    assemble(create_blocks(tmp_path)[0], path)
    np.testing.assert_array_equal(open_array(path, "attn").read(0, ROWS), VALUES)
