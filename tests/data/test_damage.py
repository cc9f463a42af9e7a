"""All damaged items are listed in one error."""

import numpy as np
import pytest
from PIL import Image

from fungi.data.damage import MAX_LISTED, damage_error, damaged_items, without_damaged
from fungi.data.formats.image_files import image_samples


@pytest.fixture
def samples(tmp_path):
    """Return six samples. Row 1 is not an image, and row 4 is truncated."""
    names = [f"{row}.png" for row in range(6)]
    for row, name in enumerate(names):
        Image.new("RGB", (6, 5), (row, 0, 0)).save(tmp_path / name)
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:40])
    return image_samples(tmp_path, names, range(6), [f"class {row}" for row in range(6)])


def test_all_damaged_items_are_listed_in_order(samples) -> None:
    assert [(item.row, item.sample_id) for item in damaged_items(samples)] == [(1, "1.png"), (4, "4.png")]
    assert [item.row for item in damaged_items(samples, [5, 4, 3])] == [4]
    text = str(damage_error([damaged_items(samples)], len(samples)))
    assert text.startswith("2 of 6 items can't be read.")
    assert "1.png" in text
    assert "4.png" in text


def test_the_other_rows_keep_their_ids_and_have_another_fingerprint(samples) -> None:
    intact = without_damaged(samples, damaged_items(samples))
    assert list(intact.ids) == ["0.png", "2.png", "3.png", "5.png"]
    np.testing.assert_array_equal(intact.targets, [0, 2, 3, 5])
    assert intact.fingerprint() != samples.fingerprint()
    assert not damaged_items(intact)


def test_an_error_names_the_first_items_and_counts_the_others(samples) -> None:
    train_items = damaged_items(samples)[:1] * (MAX_LISTED + 3)
    test_items = train_items[:1]
    lines = str(damage_error([train_items, test_items], 100)).splitlines()
    assert lines[0] == f"{MAX_LISTED + 4} of 100 items can't be read. Replace or remove them."
    # The last lines count the other items of train, and name the item of test, which is also the first item of train.
    assert [line.strip() for line in lines[-2:]] == ["and 3 more", lines[1].strip()]
