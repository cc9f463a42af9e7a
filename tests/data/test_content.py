"""The fingerprint of a split depends on its content, not on its path, and is fast to compute."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fungi.data import content
from fungi.data.base import DATASETS, Samples
from fungi.data.content import FULLY_HASHED, PIECE, digest_of_bytes, digest_of_file
from fungi.data.formats.image_files import ImageArray, image_samples
from fungi.errors import FungiError, MissingFilesError
from tests.data.test_every_dataset import NAMES, WITH_FILES

COMPRESSED = b"\xff\xd8"  # start of JPEG files
UNCOMPRESSED = b"RIFF"  # start of WAV files


def _noise_image(seed: int, size: int = 90) -> Image.Image:
    """Return a square image of noise. size: its side in pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def _folder_samples(root: Path, ending: str, rows: int = 3) -> Samples:
    """Write images of noise to a folder, and return its samples."""
    root.mkdir(exist_ok=True)
    names = [f"{row}.{ending}" for row in range(rows)]
    for row, name in enumerate(names):
        _noise_image(row).save(root / name)
    return image_samples(root, names, [0] * rows)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tif", "ppm"])
def test_one_changed_pixel_changes_the_fingerprint(ending, tmp_path):
    samples = _folder_samples(tmp_path, ending)
    fingerprint = samples.fingerprint()
    path = tmp_path / f"1.{ending}"
    status = path.stat()
    image = _noise_image(1)
    image.putpixel((40, 33), (1, 2, 3))
    image.save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert image_samples(tmp_path, samples.ids, [0] * 3).fingerprint() != fingerprint


def test_the_fingerprint_does_not_depend_on_path_time_or_permissions(tmp_path):
    fingerprint = _folder_samples(tmp_path / "here", "png").fingerprint()
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    for path in (tmp_path / "there").iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    assert image_samples(tmp_path / "there", ["0.png", "1.png", "2.png"], [0] * 3).fingerprint() == fingerprint


def test_swapped_file_contents_change_the_fingerprint(tmp_path):
    samples = _folder_samples(tmp_path, "png")
    fingerprint = samples.fingerprint()
    (tmp_path / "0.png").rename(tmp_path / "x")
    (tmp_path / "1.png").rename(tmp_path / "0.png")
    (tmp_path / "x").rename(tmp_path / "1.png")
    assert image_samples(tmp_path, samples.ids, [0] * 3).fingerprint() != fingerprint


def test_a_changed_value_of_an_array_in_memory_changes_the_fingerprint():
    images = np.zeros((5, 8, 8, 3), dtype=np.uint8)  # [n h w c]
    labels, ids = np.zeros(5, dtype=np.uint32), [str(row) for row in range(5)]
    fingerprint = Samples(labels, ids, ImageArray(images.copy())).fingerprint()
    images[3, 7, 2, 1] = 1
    assert Samples(labels, ids, ImageArray(images)).fingerprint() != fingerprint


def test_items_of_a_loader_without_a_content_method_are_loaded():
    labels, ids = np.zeros(2, dtype=np.uint32), ["a", "b"]
    arrays, images = [np.zeros(3), np.ones(3)], [_noise_image(1), _noise_image(2)]
    fingerprints = {
        Samples(labels, ids, load=items.__getitem__).fingerprint()
        for items in (["x", "y"], ["x", "z"], [("x", "y"), "y"], arrays, images)
    }
    assert len(fingerprints) == 5
    samples = Samples(labels, ids, load=["x", "y"].__getitem__)
    assert samples.take([1, 0]).fingerprint() != samples.take([1, 1]).fingerprint()


SIZES = [0, 1, FULLY_HASHED - 1, FULLY_HASHED, FULLY_HASHED + 1, FULLY_HASHED + 3 * PIECE, 100_000]  # bytes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [COMPRESSED, UNCOMPRESSED])
def test_a_file_and_its_bytes_in_memory_have_the_same_digest(size, start, tmp_path):
    data = (start + np.random.default_rng(size).bytes(size))[:size]
    path = tmp_path / "file"
    path.write_bytes(data)
    assert digest_of_file(path, "file") == digest_of_bytes(data)


@pytest.mark.parametrize("size", SIZES)
def test_an_additional_zero_byte_changes_the_digest(size):
    for data in (bytes(size), (COMPRESSED + np.random.default_rng(size).bytes(size))[:size]):
        assert digest_of_bytes(data) != digest_of_bytes(data + b"\0")


@pytest.mark.parametrize(("start", "pieces_read"), [(COMPRESSED, 4), (UNCOMPRESSED, 25)])
def test_only_uncompressed_files_are_read_completely(start, pieces_read, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes((start + bytes(25 * PIECE))[: 25 * PIECE])
    sizes, pread = [], os.pread

    def read_and_record(handle, size, offset):
        sizes.append(size)
        return pread(handle, size, offset)

    monkeypatch.setattr(os, "pread", read_and_record)
    digest_of_file(path, "file")
    assert sizes == [PIECE] * pieces_read


def test_changes_at_the_start_in_the_middle_and_at_the_end_of_a_large_file_change_its_digest():
    data = bytearray(10 * FULLY_HASHED)
    file_digests = {digest_of_bytes(bytes(data))}
    for offset in (0, len(data) // 3, 2 * len(data) // 3, len(data) - 1):
        changed_data = data.copy()
        changed_data[offset] = 1
        file_digests.add(digest_of_bytes(bytes(changed_data)))
    assert len(file_digests) == 5


def test_the_order_of_digests_does_not_depend_on_the_number_of_readers(monkeypatch):
    rows = 1000
    load = [str(row) for row in range(rows)].__getitem__
    expected = b"".join(content.digest_of_item(load(row)) for row in range(rows))
    for readers in (1, 7):
        monkeypatch.setattr(content, "READERS", readers)
        assert b"".join(content.digests(load, rows)) == expected


def test_errors_name_missing_files_and_pipes(tmp_path):
    with pytest.raises(MissingFilesError, match=r"sample 'a.png': there is no file .*/a.png"):
        image_samples(tmp_path, ["a.png"], [0]).fingerprint()
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(FungiError, match=r"sample 'b.png': .* is not a regular file"):
        image_samples(tmp_path, ["b.png"], [0]).fingerprint()


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_changed_file_changes_the_fingerprint_of_every_dataset(name, miniature):
    dataset = miniature(name)
    fingerprint = dataset.open("train").fingerprint()
    path = dataset.expected.files[dataset.expected.splits["train"][0].id]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert dataset.open("train").fingerprint() != fingerprint


@pytest.mark.parametrize("name", [name for name in NAMES if DATASETS[name].modality != "text"])
def test_every_loader_of_images_or_sounds_has_a_method_content(name, miniature):
    """With this method, items are not decoded for the fingerprint. Texts are in memory and do not need the method."""
    assert callable(miniature(name).open("test").load.content)
