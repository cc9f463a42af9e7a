"""Masks of users: black and white, with gaps between the class numbers, or without class numbers."""

import numpy as np
import pytest
from datasets import disable_progress_bars
from PIL import Image as Pillow

from fungi.data.base import open_split, resolve_dataset
from fungi.errors import FungiError, MissingFilesError

disable_progress_bars()


def write_masks(root, *pixel_rows, names=(), mode="L", ending="png", split="train"):
    """Write the images and masks of a split, and return the value of `--dataset`.

    pixel_rows: for each mask, the values of a row of pixels. Each mask has four equal rows. names: class names.
    mode: pixels of the masks in Pillow: 8-bit integers (`L`), 32-bit integers (`I`) or floats (`F`).
    """
    for number, pixels in enumerate(pixel_rows):
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
        mask = np.tile(np.asarray(pixels), (4, 1))
        Pillow.new("RGB", (mask.shape[1], 4), (9, 9, 9)).save(root / split / "images" / f"{number}.png")
        image = Pillow.fromarray(mask.astype({"L": np.uint8, "F": np.float32, "I": np.int32}[mode]))
        image.save(root / split / "masks" / f"{number}.{ending}", **({"quality": 60} if ending == "jpg" else {}))
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    return f"mine=masks:{root}"


@pytest.mark.parametrize("names", [(), ("ground", "cat")])
def test_black_and_white_masks_have_two_classes_and_the_log_explains_it(names, tmp_path, log):
    dataset = write_masks(tmp_path, [0, 255, 255], [0, 0, 0], names=names)
    samples = open_split(dataset, "train", tmp_path)
    assert resolve_dataset(dataset).classes == len(samples.class_names) == 2
    assert samples.mask(0)[0].tolist() == [0, 1, 1]
    assert "contain only 0 and 255. 255 is class 1" in log.text


def test_values_with_gaps_are_numbered_without_gaps_and_give_the_class_names(tmp_path, log):
    dataset = write_masks(tmp_path, [7, 11, 255], [0, 7, 26])
    samples = open_split(dataset, "train", tmp_path)
    assert list(samples.class_names) == ["class 0", "class 7", "class 11", "class 26"]
    assert [samples.mask(row)[0].tolist() for row in range(2)] == [[1, 2, 255], [0, 1, 3]]
    assert "the masks have 4 classes, named by value: 0, 7, 11, 26" in log.text


def test_values_of_classes_with_names_are_class_numbers(tmp_path):
    dataset = write_masks(tmp_path, [0, 2, 255], names=("ground", "never", "cat"))
    samples = open_split(dataset, "train", tmp_path)
    assert samples.mask(0)[0].tolist() == [0, 2, 255]
    assert list(samples.class_names) == ["ground", "never", "cat"]


def test_the_values_of_all_splits_determine_the_class_numbers(tmp_path):
    write_masks(tmp_path, [0, 5])
    dataset = write_masks(tmp_path, [0, 3], split="test")
    assert open_split(dataset, "test", tmp_path).mask(0)[0].tolist() == [0, 1]
    assert open_split(dataset, "train", tmp_path).mask(0)[0].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0, 1, 2], {"ending": "jpg"}, "is a JPEG file, which does not keep class numbers exactly"),
        ([0, 1.5, 2], {"mode": "F", "ending": "tif"}, "contains 1.5, which is not a whole number"),
        ([0, -2, 2], {"mode": "I", "ending": "tif"}, "contains -2. Masks contain values from 0"),
        ([0, 300, 2], {"mode": "I", "ending": "tif"}, "contains 300. .*from 0 to 255"),
        (list(range(100)), {}, r"contain 100 values \(0, 1, .*\), too many for classes without names"),
    ],
)
def test_masks_without_class_numbers_are_refused_with_their_values(values, options, message, tmp_path):
    with pytest.raises(FungiError, match=message):
        open_split(write_masks(tmp_path, values, **options), "train", tmp_path)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_minus_one_is_void_in_masks_of_floats_and_of_integers(mode, tmp_path):
    samples = open_split(write_masks(tmp_path, [0, -1, 1], mode=mode, ending="tif"), "train", tmp_path)
    assert samples.mask(0)[0].tolist() == [0, 255, 1]


@pytest.mark.parametrize(
    ("values", "expected", "value_list"),
    [
        ([0, -1, 1], [0, 255, 1], "-1, 0, 1"),
        ([0, -1], [0, 255], "-1, 0"),
        ([-1, 0, 255], [255, 0, 255], "-1, 0, 255"),
    ],
)
def test_the_log_says_that_minus_one_is_void_and_lists_the_values(values, expected, value_list, tmp_path, log):
    dataset = write_masks(tmp_path, values, mode="I", ending="tif")
    assert open_split(dataset, "train", tmp_path).mask(0)[0].tolist() == expected
    (line,) = [record.getMessage() for record in log.records if "the masks contain" in record.getMessage()]
    assert line.endswith(f"the masks contain {value_list}. Pixels of value -1 are void, like 255.")


def test_masks_of_test_change_the_fingerprint_of_train_if_they_change_the_class_numbers(tmp_path):
    only_train = write_masks(tmp_path / "a", [0, 5])
    write_masks(tmp_path / "b", [0, 5])
    with_test = write_masks(tmp_path / "b", [0, 3], split="test")
    fingerprints = {open_split(dataset, "train", tmp_path).fingerprint() for dataset in (only_train, with_test)}
    assert len(fingerprints) == 2


def test_a_dataset_without_a_training_split_is_refused(tmp_path):
    with pytest.raises(MissingFilesError, match="has no folder train/"):
        resolve_dataset(write_masks(tmp_path, [0, 1], split="other"))
