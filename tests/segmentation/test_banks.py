"""Banks on disk: the order of blocks and interruptions do not change their bytes."""

import json
from pathlib import Path

import numpy as np
import pytest

from fungi.errors import FungiError
from fungi.segmentation.image_blocks import image_blocks, subset_rows
from fungi.segmentation.memory_bank import bank_ends, patches_per_view
from fungi.segmentation.settings import MAX_NEIGHBOURS
from fungi.store import banks
from fungi.store.banks import Bank, BankManifest, open_bank
from fungi.store.seal import DamagedFileError
from fungi.views.image import HALF
from fungi.views.scenes import SceneView
from tests.store.flips import detected_flips

MANIFEST = BankManifest(dim=3, classes=2, dtype="float32", ends=(4, 9, 11), provenance={"seed": 1})


def block(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the features and labels of a block."""
    generator = np.random.default_rng(index)
    rows = (4, 5, 2)[index]
    return generator.normal(size=(rows, 3)).astype(np.float32), generator.integers(0, 17, (rows, 2))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_blocks_in_any_order_with_interruptions_give_the_same_bytes(tmp_path: Path) -> None:
    complete, interrupted = Bank.create(tmp_path / "one", MANIFEST), Bank.create(tmp_path / "other", MANIFEST)
    for index in (0, 1, 2):
        complete.write(index, *block(index))
    interrupted.write(2, *block(2))
    assert interrupted.missing() == [0, 1]
    with pytest.raises(RuntimeError), disk_that_fails_for_labels(interrupted):
        interrupted.write(1, *block(1))
    assert interrupted.missing() == [0, 1]
    resumed = Bank.create(tmp_path / "other", MANIFEST)
    for index in resumed.missing():
        resumed.write(index, *block(index))
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    np.testing.assert_array_equal(resumed.features(4, 9), block(1)[0])


class disk_that_fails_for_labels:
    """Make the disk fail after the features and before the labels of a block are written."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank

    def __enter__(self) -> None:
        (self.bank.folder / "labels.bin").rename(self.bank.folder / "hidden")

    def __exit__(self, kind, error, trace) -> None:
        (self.bank.folder / "hidden").rename(self.bank.folder / "labels.bin")
        if kind is FileNotFoundError:
            raise RuntimeError from error


@pytest.fixture
def bank_folder(tmp_path: Path) -> Path:
    """Return the folder of a complete bank."""
    bank = Bank.create(tmp_path / "bank", MANIFEST)
    for index in bank.missing():
        bank.write(index, *block(index))
    return bank.folder


@pytest.mark.parametrize(
    ("name", "min_detected"), [("features.bin", 40), ("labels.bin", 40), ("done/000001", 30), ("bank.json", 30)]
)
def test_a_bank_with_a_flipped_bit_is_refused(name: str, min_detected: int, bank_folder: Path) -> None:
    """Flips in the whitespace of a record, or in the word "checksum" of a mark, have no effect."""

    def by_windows() -> list[bytes]:
        bank = open_bank(bank_folder)
        return [window.tobytes() for _, window in bank.windows(3)] + [bank.labels_of(np.arange(11)).tobytes()]

    def by_rows() -> list[bytes]:
        bank, rows = open_bank(bank_folder), np.array([[10, 4], [7, 0]])
        return [bank.features_of(rows).tobytes(), bank.labels_of(rows).tobytes()]

    assert detected_flips(bank_folder / name, by_windows, count=40) >= min_detected
    assert detected_flips(bank_folder / name, by_rows, count=40, seed=1) >= min_detected


def test_damage_in_a_block_does_not_affect_other_blocks(bank_folder: Path) -> None:
    with (bank_folder / "features.bin").open("r+b") as file:
        file.seek(5 * 3 * 4)  # row 5, which has 3 numbers of 4 bytes, is in block 1
        file.write(b"\xff")
    bank = open_bank(bank_folder)
    np.testing.assert_array_equal(bank.features_of(np.array([3, 9])), np.stack([block(0)[0][3], block(2)[0][0]]))
    np.testing.assert_array_equal(bank.labels_of(np.array([5])), block(1)[1][1:2])
    for read in (lambda: bank.features_of(np.array([8])), lambda: bank.features(2, 10)):
        with pytest.raises(DamagedFileError, match=r"features\.bin is damaged .rows 4 to 8 do not have the checksum"):
            read()


def test_the_checksum_of_a_block_is_computed_only_once(bank_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published setting reads its bank thousands of times, so repeated checksums would be slow."""
    ranges = []
    checksum = banks.checksum_of_range

    def record_range(file, *span):
        ranges.append(span)
        return checksum(file, *span)

    monkeypatch.setattr(banks, "checksum_of_range", record_range)
    bank = open_bank(bank_folder)
    for _ in range(3):
        list(bank.windows(4))
        bank.features_of(np.arange(11))
    assert ranges == [(0, 48), (48, 108), (108, 132)]  # bytes of the blocks, 12 per row


def test_a_block_without_checksums_is_refused(bank_folder: Path) -> None:
    (bank_folder / "done" / "000001").write_bytes(b"")
    np.testing.assert_array_equal(open_bank(bank_folder).features(0, 4), block(0)[0])
    with pytest.raises(DamagedFileError, match=r"000001 is damaged .*Move the folder of this bank away and run again"):
        open_bank(bank_folder).features(4, 9)


def test_a_bank_without_a_checksum_is_refused(bank_folder: Path) -> None:
    manifest = json.loads((bank_folder / "bank.json").read_text())
    del manifest["checksum"]
    (bank_folder / "bank.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedFileError, match=r"bank\.json is damaged .it has no checksum.* Move .* run again"):
        open_bank(bank_folder)


def test_banks_that_are_damaged_or_have_other_settings_are_refused(tmp_path: Path) -> None:
    Bank.create(tmp_path, MANIFEST)
    with pytest.raises(FungiError, match="contains a bank with other settings"):
        Bank.create(tmp_path, BankManifest(dim=3, classes=2, dtype="float32", ends=(4, 9, 11), provenance={"seed": 2}))
    (tmp_path / "bank.json").write_text("{")
    with pytest.raises(FungiError, match=r"bank\.json is damaged"):
        Bank.create(tmp_path, MANIFEST)


def test_every_setting_of_the_identity_is_in_the_key_of_a_bank() -> None:
    changes = [{"dim": 4}, {"classes": 3}, {"dtype": "float16"}, {"ends": (4, 11)}, {"provenance": {"seed": 2}}]
    defaults = {"dim": 3, "classes": 2, "dtype": "float32", "ends": (4, 9, 11), "provenance": {"seed": 1}}
    keys = {BankManifest(**{**defaults, **change}).key for change in changes} | {MANIFEST.key}
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("memory_size", "views", "patches"),
    [(102_400, 10_582, 9), (1_024_000, 20_210, 50), (0, 5, 1024), (10_000, 5, 1024)],
)
def test_patches_per_view_equal_the_published_numbers(memory_size: int, views: int, patches: int) -> None:
    assert patches_per_view(memory_size, views, 1024) == patches  # an image has 1024 patches


def test_a_bank_without_a_patch_for_each_image_is_refused() -> None:
    with pytest.raises(FungiError, match="--memory-size 4 is too small: the bank needs one patch for each of 5 views"):
        patches_per_view(memory_size=4, views=5, patches=1024)


def test_a_bank_has_zero_rows_only_on_request() -> None:
    blocks = image_blocks(images=10, views=[SceneView(size=8, statistics=HALF)], size=4)
    assert bank_ends(blocks, view_patches=3, memory_size=32, zero_rows=False) == (12, 24, 30)
    assert bank_ends(blocks, view_patches=3, memory_size=32, zero_rows=True) == (12, 24, 30, 32)
    ends = bank_ends(blocks, view_patches=3, memory_size=10**9, zero_rows=True)
    assert ends == (12, 24, 30, 30 + MAX_NEIGHBOURS)  # no search needs more rows of zeros


def test_a_subset_depends_only_on_dataset_size_and_seed() -> None:
    rows = subset_rows("pascal-voc", available=1000, count=83, seed=42)
    assert len(set(rows.tolist())) == 83
    assert rows.tolist() == sorted(rows.tolist())
    np.testing.assert_array_equal(rows, subset_rows("pascal-voc", 1000, 83, 42))
    assert rows.tolist() != subset_rows("pascal-voc", 1000, 83, 43).tolist() != subset_rows("x", 1000, 83, 43).tolist()
    with pytest.raises(FungiError, match="--train-images 5 asks for more training images than there are: 4"):
        subset_rows("x", available=4, count=5, seed=0)
