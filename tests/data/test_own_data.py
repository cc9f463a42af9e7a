"""Datasets of the user: class folders and saved datasets, by path or by name."""

import numpy as np
import pytest
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, Value, disable_progress_bars
from PIL import Image as PillowImage

from fungi.data.base import open_split, resolve_dataset
from fungi.errors import FungiError, MissingFilesError
from tests.data.miniatures.miniature import colour_of, mean_colour, write_image

disable_progress_bars()


@pytest.fixture
def folders(tmp_path):
    """Return a folder with the splits train, val and test. Each split contains class folders."""
    for name in ("train/cat/1.jpg", "train/cat/10.jpg", "train/dog/2.png", "val/dog/3.png", "test/dog/4.png"):
        write_image(tmp_path / "own" / name, name)
    return tmp_path / "own"


@pytest.fixture
def saved(tmp_path):
    """Return the folder of a dataset that `datasets` saved to disk."""

    def split(rows):
        images = [PillowImage.new("RGB", (6, 5), colour_of(str(row))) for row in rows]
        features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
        return Dataset.from_dict({"image": images, "label": [row % 2 for row in rows]}, features=features)

    DatasetDict(train=split(range(4)), validation=split([7]), test=split([9, 8])).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_class_folders_are_opened_under_the_name_in_the_flag(folders, tmp_path):
    text = f"mine=folder:{folders}"
    spec = resolve_dataset(text)
    assert (spec.name, spec.splits, spec.classes, spec.is_in_paper) == ("mine", ("train", "valid", "test"), 2, False)
    train = open_split(text, "train", tmp_path)
    assert list(train.ids) == ["train/cat/1.jpg", "train/cat/10.jpg", "train/dog/2.png"]
    assert train.targets.tolist() == [0, 0, 1]
    assert list(train.class_names) == ["cat", "dog"]
    np.testing.assert_allclose(mean_colour(train.load(0)), colour_of("train/cat/1.jpg"), atol=6)


def test_labels_are_numbers_of_the_classes_of_train_in_every_split(folders, tmp_path):
    test = open_split(f"mine=folder:{folders}", "test", tmp_path)
    assert test.targets.tolist() == [1]  # `dog`, although it is the only class of the split
    assert list(open_split(f"mine=folder:{folders}", "valid", tmp_path).ids) == ["val/dog/3.png"]


def test_a_class_that_is_not_in_train_is_refused(folders, tmp_path):
    write_image(folders / "test" / "wolf" / "1.png", "wolf")
    with pytest.raises(FungiError, match="has class folders that train does not have: wolf"):
        open_split(f"mine=folder:{folders}", "test", tmp_path)


def test_a_split_without_images_is_refused(folders, tmp_path):
    (folders / "test" / "dog" / "4.png").unlink()
    with pytest.raises(MissingFilesError, match=r"the class folders of .*test have no image\. Expected .*CLASS/IMAGE"):
        open_split(f"mine=folder:{folders}", "test", tmp_path)


def test_a_name_without_a_path_is_searched_in_the_data_directory(folders, saved, tmp_path):
    assert len(open_split("own", "train", tmp_path)) == 3
    assert len(open_split("saved", "train", tmp_path)) == 4


def test_a_saved_dataset_is_opened_under_the_name_in_the_flag(saved, tmp_path):
    text = f"mine=hf:{saved}"
    assert resolve_dataset(text).splits == ("train", "valid", "test")
    test = open_split(text, "test", tmp_path)
    assert list(test.ids) == ["test/0", "test/1"]
    assert test.targets.tolist() == [1, 0]
    assert list(test.class_names) == ["cat", "dog"]
    assert [mean_colour(test.load(row)) for row in range(2)] == [colour_of("9"), colour_of("8")]
    assert len(open_split(text, "valid", tmp_path)) == 1


def test_the_error_for_a_damaged_image_of_a_saved_dataset_names_its_row(tmp_path):
    features = Features({"image": Image(), "label": Value("int64")})
    split = Dataset.from_dict({"image": [{"bytes": b"broken", "path": None}], "label": [3]}, features=features)
    DatasetDict(train=split).save_to_disk(tmp_path / "saved")
    samples = open_split("saved", "train", tmp_path)
    with pytest.raises(FungiError, match=rf"'train/0': can't read row 0 of {tmp_path}/saved/train"):
        samples.load(0)


def test_texts_with_class_names_as_labels_are_read(tmp_path):
    train = Dataset.from_dict({"id": ["x", "y"], "text": ["good film", "bad film"], "label": ["pos", "neg"]})
    test = Dataset.from_dict({"id": ["z"], "text": ["so so"], "label": ["pos"]})
    DatasetDict(train=train, test=test).save_to_disk(tmp_path / "films")
    spec = resolve_dataset("films", tmp_path)
    assert spec.modality == "text"
    samples = spec.open(tmp_path, "train")
    assert [samples[row] for row in range(2)] == [("good film", 1), ("bad film", 0)]
    assert list(samples.class_names) == ["neg", "pos"]


@pytest.mark.parametrize("label", [-1, None])
def test_a_row_without_a_label_is_refused(label, tmp_path):
    DatasetDict(train=Dataset.from_dict({"text": ["a", "b"], "label": [0, label]})).save_to_disk(tmp_path / "own")
    with pytest.raises(
        FungiError, match=rf"row 1 has the label {label} in column 'label'; labels are whole numbers from 0"
    ):
        open_split("own", "train", tmp_path)


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (
            {"a": Value("string"), "b": Value("string"), "label": Value("int64")},
            "needs exactly one that can be an image or text column",
        ),
        ({"image": Image(), "colour": Value("int64")}, "needs exactly one that can be a column 'label'"),
        ({"sound": Audio(), "label": Value("int64")}, "contains sounds"),
    ],
)
def test_ambiguous_columns_are_refused(features, text, tmp_path):
    one_row = Dataset.from_dict({name: [None] for name in features}, features=Features(features))
    DatasetDict(train=one_row).save_to_disk(tmp_path / "own")
    with pytest.raises(FungiError, match=text):
        open_split("own", "train", tmp_path)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "with space", "x" * 101, "tab\t"])
def test_a_name_that_is_not_a_valid_folder_name_is_refused(name, folders):
    with pytest.raises(FungiError, match="can't be the name of a folder"):
        resolve_dataset(f"{name}=folder:{folders}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine=folders:/x", r"is not understood\. Write NAME=folder:PATH"),
        ("mine=/x", "is not understood"),
        ("mine=hf:", "is not understood"),
        ("digits=folder:/x", "'digits' is the name of a known dataset"),
        ("mine=folder:/there/is/none", "there is no folder /there/is/none"),
        ("diggits", r"Did you mean 'digits'.*\? Your own data need their path: --dataset diggits=folder:PATH"),
        ("quux", r"need their path here: NAME=folder:PATH .*`fungi list datasets`\.$"),
    ],
)
def test_mistakes_in_the_dataset_flag_are_explained(text, message):
    with pytest.raises(FungiError, match=message):
        resolve_dataset(text)


def test_the_error_for_an_unknown_name_names_the_searched_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(FungiError, match=rf"unknown dataset 'mine', and {tmp_path}/mine has no train/ and test/\."):
        resolve_dataset("mine", tmp_path)


def test_a_name_never_selects_a_folder_outside_the_data_directory(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(FungiError, match=r"unknown dataset '\.\.'"):
        resolve_dataset("..", tmp_path / "data")


@pytest.mark.parametrize(("kind", "message"), [("folder", "no folder train/"), ("hf", r"no dataset_dict\.json")])
def test_a_folder_of_another_kind_is_explained(kind, message, tmp_path):
    with pytest.raises(MissingFilesError, match=message):
        resolve_dataset(f"mine={kind}:{tmp_path}").open(tmp_path, "train")


@pytest.mark.parametrize("file", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_the_error_for_a_damaged_saved_dataset_names_its_folder(file, saved, tmp_path):
    (saved / "train" / file).write_bytes(b"{damaged")
    with pytest.raises(FungiError, match=rf"the saved dataset {saved}/train can't be opened \(.*Save it again"):
        open_split("saved", "train", tmp_path)


def test_a_saved_dataset_with_unknown_splits_is_refused(tmp_path):
    DatasetDict(queries=Dataset.from_dict({"text": ["a"], "label": [0]})).save_to_disk(tmp_path / "own")
    with pytest.raises(MissingFilesError, match="has the splits queries; expected train, valid or test"):
        resolve_dataset("own", tmp_path)


@pytest.fixture
def without_splits(tmp_path):
    """Return a folder with class folders, without splits."""
    for name in (*(f"cat/{number}.jpg" for number in range(10)), "dog/1.png", "dog/2.png", "hen/only.gif"):
        write_image(tmp_path / "flat" / name, name)
    return tmp_path / "flat"


def test_the_split_of_class_folders_does_not_change_when_images_are_added(without_splits, tmp_path):
    text = f"mine=split:{without_splits}"
    spec = resolve_dataset(text)
    assert (spec.name, spec.splits, spec.classes, spec.is_in_paper) == ("mine", ("train", "test"), 3, False)
    train, test = (open_split(text, split, tmp_path) for split in spec.splits)
    all_images = [path.relative_to(without_splits).as_posix() for path in without_splits.rglob("*.*")]
    assert sorted([*train.ids, *test.ids]) == sorted(all_images)
    # Test has a fifth of each class, and at least one row. A class with a single row is only in train.
    assert [name.partition("/")[0] for name in test.ids] == ["cat", "cat", "dog"]
    assert [list(test.class_names)[label] for label in test.targets] == ["cat", "cat", "dog"]
    write_image(without_splits / "dog" / "3.png", "later")
    write_image(without_splits / "zebra" / "1.png", "another class")
    later_test = open_split(text, "test", tmp_path)
    cats, later_cats = ([name for name in split.ids if name.startswith("cat")] for split in (test, later_test))
    assert later_cats == cats


def test_the_error_for_a_folder_without_a_split_proposes_a_split(without_splits, folders, tmp_path):
    with pytest.raises(MissingFilesError, match=rf"no folder train/.*write --dataset mine=split:{without_splits}"):
        resolve_dataset(f"mine=folder:{without_splits}")
    with pytest.raises(FungiError, match=rf"already has splits \(train, val, test\).*mine=folder:{folders}"):
        resolve_dataset(f"mine=split:{folders}")
    with pytest.raises(MissingFilesError, match=rf"have no classes; fungi similar --images {without_splits}/cat"):
        resolve_dataset(f"mine=folder:{without_splits}/cat")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFilesError, match="Put class folders there"):
        resolve_dataset(f"mine=folder:{tmp_path / 'empty'}")


def test_images_of_unreadable_formats_are_counted_in_a_warning(without_splits, tmp_path, log):
    (without_splits / "cat" / "a.HEIC").write_bytes(b"")
    (without_splits / "cat" / "b.svg").write_text("")
    (without_splits / "cat" / "notes.txt").write_text("")
    train = open_split(f"mine=split:{without_splits}", "train", tmp_path)
    assert len(train) == 10
    assert "ignored files: 1 .heic, 1 .svg, 1 .txt. Convert images of other formats" in log.text


@pytest.mark.parametrize("ending", ["gif", "jfif"])
def test_images_with_other_endings_are_read(ending, tmp_path):
    write_image(tmp_path / "own" / "train" / "cat" / "1.jpg", "1")
    image = PillowImage.new("RGB", (6, 5), (200, 10, 10))
    image.save(tmp_path / "own" / "train" / "cat" / f"2.{ending}", "JPEG" if ending == "jfif" else "GIF")
    train = open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path)
    assert list(train.ids)[1] == f"train/cat/2.{ending}"
    np.testing.assert_allclose(mean_colour(train.load(1)), (200, 10, 10), atol=6)
