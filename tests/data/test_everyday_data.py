"""Data as people have them: names in another order, photographs of phones, folders that programs leave, odd masks."""

import logging
import unicodedata

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, disable_progress_bars
from PIL import Image as Pillow

from fungi.data.base import open_split, resolve_dataset
from fungi.data.formats.image_files import LARGEST_RATIO, decode, image_samples
from fungi.data.formats.image_folders import class_folders, image_names
from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.log import logger
from tests.data.makers.miniature import write_image

disable_progress_bars()


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="fungi")
    return caplog


def save(path, **splits):
    DatasetDict(**splits).save_to_disk(path)
    return f"mine=hf:{path}"


def texts(labels, kind=None):
    features = Features({"text": Value("string"), "label": kind}) if kind else None
    return Dataset.from_dict(
        {"text": [f"text {row}" for row in range(len(labels))], "label": labels}, features=features
    )


# Classes are matched by name.


def test_equal_names_in_another_order_are_the_same_classes(tmp_path):
    train = texts([0, 1, 2], ClassLabel(names=["cat", "dog", "hen"]))
    test = texts([0, 1, 2, 2], ClassLabel(names=["hen", "cat", "dog"]))
    text = save(tmp_path / "own", train=train, test=test)
    train, test = (open_split(text, split, tmp_path) for split in ("train", "test"))
    assert list(train.class_names) == list(test.class_names) == ["cat", "dog", "hen"]
    assert [train.class_names[label] for label in train.targets] == ["cat", "dog", "hen"]
    assert [test.class_names[label] for label in test.targets] == ["hen", "cat", "dog", "dog"]


def test_a_split_may_say_its_classes_as_names_where_another_numbers_them(tmp_path):
    train, test = texts([1, 0], ClassLabel(names=["dog", "cat"])), texts(["dog", "cat"])
    test = open_split(save(tmp_path / "own", train=train, test=test), "test", tmp_path)
    assert [test.class_names[label] for label in test.targets] == ["dog", "cat"]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            ClassLabel(names=["cat", "dog"]),
            ClassLabel(names=["cat", "Dog"]),
            "row 1 .*train has no class 'Dog'.*by name",
        ),
        (
            ClassLabel(names=["cat", "dog"]),
            Value("int64"),
            "the labels of train have class names, but those of test are only numbers",
        ),
    ],
)
def test_classes_that_cannot_be_matched_by_name_are_refused(train, test, message, tmp_path):
    text = save(tmp_path / "own", train=texts([0, 1], train), test=texts([0, 1], test))
    with pytest.raises(FungiError, match=message):
        open_split(text, "test", tmp_path)


def test_names_without_rows_are_no_obstacle(tmp_path):
    train, test = texts([0, 1], ClassLabel(names=["a", "b"])), texts([0, 1], ClassLabel(names=["b", "a", "never"]))
    assert open_split(save(tmp_path / "own", train=train, test=test), "test", tmp_path).targets.tolist() == [1, 0]


# Splits, whatever they are called.


@pytest.mark.parametrize(
    ("folders", "test"),
    [
        (("train", "val"), "val"),
        (("train", "valid"), "valid"),
        (("training", "validation"), "validation"),
        (("Train", "Test"), "Test"),
        (("train", "holdout_2019"), "holdout_2019"),
    ],
)
def test_two_splits_of_a_folder_are_train_and_test(folders, test, tmp_path):
    for folder in folders:
        write_image(tmp_path / "own" / folder / "cat" / "1.png", folder)
    text = f"mine=folder:{tmp_path / 'own'}"
    assert resolve_dataset(text).splits == ("train", "test")
    assert list(open_split(text, "test", tmp_path).ids) == [f"{test}/cat/1.png"]
    assert list(open_split(text, "train", tmp_path).ids) == [f"{folders[0]}/cat/1.png"]


def test_two_splits_of_a_saved_dataset_are_train_and_test(tmp_path):
    text = save(tmp_path / "own", monday=texts([0, 1]), tuesday=texts([1]))
    assert resolve_dataset(text).splits == ("train", "test")
    assert len(open_split(text, "test", tmp_path)) == 1


def test_three_splits_keep_their_meaning_and_others_are_left_out_aloud(tmp_path, said):
    for folder in ("train", "val", "test", "scraps"):
        write_image(tmp_path / "own" / folder / "cat" / "1.png", folder)
    assert resolve_dataset(f"mine=folder:{tmp_path / 'own'}").splits == ("train", "valid", "test")
    assert "ignored, because not train, valid or test: scraps" in said.text


def test_an_unknown_split_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(FungiError, match=r"no split 'tset'\. Did you mean 'test'\? It has: train, test"):
        open_split("digits", "tset", tmp_path)


# Pictures as a viewer shows them.


def photograph(path, orientation, size=(12, 8)):
    """Left half red, right half blue, as a viewer shows it; stored turned, with the tag that says so."""
    shown = Pillow.new("RGB", size, (0, 0, 255))
    shown.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    stored = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # how to undo what viewers do
    image = shown if stored is None else shown.transpose(Pillow.Transpose(stored))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)
    return np.asarray(shown)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_of_ones_own_stand_upright(orientation, tmp_path):
    shown = photograph(tmp_path / "own" / "train" / "cat" / "1.png", orientation)
    samples = open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path)
    np.testing.assert_array_equal(np.asarray(samples.load(0)), shown)


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 100, 0, 255), (200, 100, 0)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 0), (255, 255, 255)),
    ],
)
def test_transparent_parts_are_white_as_on_a_page(mode, colour, seen, tmp_path):
    path = tmp_path / "1.png"
    Pillow.new(mode, (5, 4), colour).save(path)
    np.testing.assert_array_equal(np.asarray(decode(path, "1", as_displayed=True)), np.full((4, 5, 3), seen))


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_is_white_too(mode, tmp_path):
    image = Pillow.new("RGB", (4, 4), (10, 10, 10))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    key = image.getpixel((0, 0))
    image.save(tmp_path / "1.png", transparency=key)
    assert np.asarray(decode(tmp_path / "1.png", "1", as_displayed=True)).min() == 255


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_published_datasets_and_damaged_exif_data_leave_pixels_alone(tmp_path):
    photograph(tmp_path / "turned.png", 6)
    assert decode(tmp_path / "turned.png", "1").size == (8, 12)
    image = Pillow.new("RGB", (12, 8))
    image.save(tmp_path / "odd.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(tmp_path / "odd.jpg", "1", as_displayed=True).size == (12, 8)


def test_how_pictures_are_read_is_part_of_the_fingerprint_and_said(tmp_path, said):
    photograph(tmp_path / "own" / "train" / "cat" / "1.png", 6)
    own = open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path)
    assert "EXIF orientation applied, transparency on white" in said.text
    plain = image_samples(tmp_path / "own", own.ids, [0], ["cat"])
    assert own.fingerprint() != plain.fingerprint()
    assert own.take([0]).fingerprint() == own.fingerprint()


def test_pictures_of_a_saved_dataset_stand_upright(tmp_path):
    shown = photograph(tmp_path / "1.png", 8)
    features = Features({"image": Image(), "label": ClassLabel(names=["cat"])})
    rows = Dataset.from_dict({"image": [{"bytes": (tmp_path / "1.png").read_bytes(), "path": None}], "label": [0]})
    samples = open_split(save(tmp_path / "own", train=rows.cast(features)), "train", tmp_path)
    np.testing.assert_array_equal(np.asarray(samples.load(0)), shown)


# Folders that programs leave, and files that are not read.


def test_folders_of_programs_hold_no_pictures_of_ones_own(tmp_path, said):
    for name in ("cat/1.jpg", "cat/.thumbnails/1.jpg", "cat/@eaDir/1.jpg", "cat/.ipynb_checkpoints/1-checkpoint.jpg"):
        write_image(tmp_path / "own" / "train" / name, name)
    for name in ("__x/2.jpg", "__MACOSX/3.jpg", ".trash/4.jpg"):
        write_image(tmp_path / "own" / "train" / name, name)
    samples = open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path)
    assert list(samples.ids) == ["train/__x/2.jpg", "train/cat/1.jpg"]
    assert "1 in .thumbnails" in said.text
    assert "1 in @eaDir" in said.text


def test_what_is_left_out_is_said_by_kind_and_number(tmp_path, said):
    train = tmp_path / "own" / "train"
    for name in ("cat/1.jpg", "beside.png"):
        write_image(train / name, name)
    for name in ("cat/a.avif", "cat/b.avif", "cat/noending", "cat/note.txt", "cat/Thumbs.db", "cat/.hidden.jpg"):
        (train / name).write_bytes(b"?")
    assert list(open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path).ids) == ["train/cat/1.jpg"]
    assert "ignored files: 2 .avif, 1 .txt, 1 next to the class folders, 1 without an ending." in said.text


def test_pictures_without_class_folders_are_sent_to_similar(tmp_path):
    write_image(tmp_path / "flat" / "1.jpg", "1")
    with pytest.raises(MissingFilesError, match=r"flat has no class folders\. .* fungi similar --images .*flat"):
        open_split(f"mine=split:{tmp_path / 'flat'}", "train", tmp_path)


@pytest.mark.parametrize("ending", ["jpe", "pnm", "JPE"])
def test_rarer_endings_are_read(ending, tmp_path):
    Pillow.new("RGB", (6, 5), (200, 10, 10)).save(tmp_path / f"1.{ending}", "PPM" if ending == "pnm" else "JPEG")
    assert image_names(tmp_path) == [f"1.{ending}"]
    assert decode(tmp_path / f"1.{ending}", "1").size == (6, 5)


def test_names_that_look_the_same_are_one_class_or_shown_apart(tmp_path):
    composed, taken_apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write_image(tmp_path / "own" / "train" / composed / "1.png", "1")
    write_image(tmp_path / "own" / "test" / taken_apart / "2.png", "2")
    test = open_split(f"mine=folder:{tmp_path / 'own'}", "test", tmp_path)
    assert list(test.class_names) == [composed]
    assert list(test.ids) == [f"test/{taken_apart}/2.png"]
    (tmp_path / "own" / "train" / taken_apart).mkdir()
    with pytest.raises(FungiError, match=r"look the same, .*cafe\\u0301.*caf\\xe9|caf\\xe9.*cafe\\u0301"):
        class_folders(tmp_path / "own" / "train")


def test_a_line_of_pixels_is_named_before_it_takes_gigabytes(tmp_path):
    Pillow.new("RGB", (1, 20_000)).save(tmp_path / "line.png")
    Pillow.new("RGB", (1, LARGEST_RATIO)).save(tmp_path / "narrow.png")
    with pytest.raises(FungiError, match=r"line\.png.*it has 1 x 20,000 pixels"):
        decode(tmp_path / "line.png", "line.png")
    assert decode(tmp_path / "narrow.png", "narrow").size == (1, LARGEST_RATIO)


# Saved datasets of every make.


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_strings_of_either_width_are_texts_and_labels(kind, tmp_path):
    features = Features({"text": Value(kind), "label": Value(kind)})
    rows = Dataset.from_dict({"text": ["good", "bad"], "label": ["pos", "neg"]}, features=features)
    samples = open_split(save(tmp_path / "own", train=rows), "train", tmp_path)
    assert [samples[row] for row in range(2)] == [("good", 1), ("bad", 0)]


@pytest.mark.parametrize("kind", ["pandas", "arrow", "numpy", "torch"])
def test_the_format_in_which_a_dataset_was_saved_does_not_matter(kind, tmp_path):
    rows = texts([0, 1], ClassLabel(names=["a", "b"]))
    rows.set_format(kind)
    samples = open_split(save(tmp_path / "own", train=rows), "train", tmp_path)
    assert [samples[row] for row in range(2)] == [("text 0", 0), ("text 1", 1)]
    assert len(samples.fingerprint()) == 64


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0, 5_000_000_000], Value("int64"), "row 1 has the label 5000000000 in column 'label'; .*at most 1,000,000"),
        ([0.0, 0.5], Value("float64"), "row 1 has the label 0.5 in column 'label'"),
        ([0.0, float("nan")], Value("float64"), "row 1 has the label nan in column 'label'"),
        (["a", None], Value("string"), "row 1 has the label None in column 'label'"),
        (["a", ""], Value("string"), "row 1 has the label '' in column 'label'"),
        ([0, -1], ClassLabel(names=["a"]), "row 1 has the label -1 in column 'label'"),
    ],
)
def test_a_label_that_is_none_is_named_by_row_and_column(labels, kind, message, tmp_path):
    text = save(tmp_path / "own", train=texts(labels, kind))
    with pytest.raises(FungiError, match=message):
        open_split(text, "train", tmp_path)


@pytest.mark.parametrize(
    ("column", "feature", "values"),
    [
        ("text", Value("string"), ["there", None]),
        ("image", Image(), [{"bytes": b"x", "path": None}, None]),
        ("image", Image(), [{"bytes": b"x", "path": None}, {"bytes": b"", "path": None}]),
    ],
)
def test_an_absent_item_is_named_by_row_and_column(column, feature, values, tmp_path):
    features = Features({column: feature, "label": Value("int64")})
    rows = Dataset.from_dict({column: values, "label": [0, 1]}, features=features)
    samples = open_split(save(tmp_path / "own", train=rows), "train", tmp_path)
    assert len(samples.fingerprint()) == 64
    with pytest.raises(FungiError, match=rf"'train/1': row 1 of .*/train has no value in column '{column}'"):
        samples.load(1)


def test_a_dataset_of_the_hub_is_fetched_once_and_then_read_from_disk(tmp_path, monkeypatch):
    import datasets

    fetched = []

    def load(repository):
        fetched.append(repository)
        return DatasetDict(train=texts([0, 1]), test=texts([1]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    for _ in range(2):
        assert len(open_split("films=hf:someone/films", "train", tmp_path)) == 2
    assert fetched == ["someone/films"]


def test_a_dataset_of_the_hub_that_cannot_be_fetched_says_both_ways_out(tmp_path, monkeypatch):
    import datasets

    def load(repository):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        MissingFilesError, match=r"no folder someone/films, .*\(no network\).*copy .*someone--films here"
    ):
        resolve_dataset("films=hf:someone/films", tmp_path)
    assert list(tmp_path.iterdir()) == []


# Masks of every make.


def masks(root, *values, names=(), mode="L", ending="png", split="train"):
    for number, rows in enumerate(values):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        mask = np.tile(np.asarray(rows), (4, 1))
        Pillow.new("RGB", (mask.shape[1], 4), (9, 9, 9)).save(root / split / "images" / f"{number}.png")
        image = Pillow.fromarray(mask.astype({"L": np.uint8, "F": np.float32, "I": np.int32}[mode]))
        image.save(root / split / "masks" / f"{number}.{ending}", **({"quality": 60} if ending == "jpg" else {}))
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    return f"mine=masks:{root}"


@pytest.mark.parametrize("names", [(), ("ground", "cat")])
def test_masks_of_black_and_white_have_two_classes_and_it_is_said(names, tmp_path, said):
    text = masks(tmp_path, [0, 255, 255], [0, 0, 0], names=names)
    samples = open_split(text, "train", tmp_path)
    assert resolve_dataset(text).classes == len(samples.class_names) == 2
    assert samples.mask(0)[0].tolist() == [0, 1, 1]
    assert "contain only 0 and 255. 255 is class 1" in said.text


def test_numbers_with_gaps_are_classes_called_by_their_values(tmp_path, said):
    text = masks(tmp_path, [7, 11, 255], [0, 7, 26])
    samples = open_split(text, "train", tmp_path)
    assert list(samples.class_names) == ["class 0", "class 7", "class 11", "class 26"]
    assert [samples.mask(row)[0].tolist() for row in range(2)] == [[1, 2, 255], [0, 1, 3]]
    assert "the masks contain 0, 7, 11, 26. These are 4 classes" in said.text


def test_numbers_of_classes_with_names_stay_as_they_are(tmp_path):
    text = masks(tmp_path, [0, 2, 255], names=("ground", "never", "cat"))
    samples = open_split(text, "train", tmp_path)
    assert samples.mask(0)[0].tolist() == [0, 2, 255]
    assert list(samples.class_names) == ["ground", "never", "cat"]


def test_test_masks_take_part_in_what_values_stand_for(tmp_path):
    masks(tmp_path, [0, 5])
    text = masks(tmp_path, [0, 3], split="test")
    assert open_split(text, "test", tmp_path).mask(0)[0].tolist() == [0, 1]
    assert open_split(text, "train", tmp_path).mask(0)[0].tolist() == [0, 2]


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
        open_split(masks(tmp_path, values, **options), "train", tmp_path)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_minus_one_is_void_and_whole_fractions_are_numbers(mode, tmp_path):
    samples = open_split(masks(tmp_path, [0, -1, 1], mode=mode, ending="tif"), "train", tmp_path)
    assert samples.mask(0)[0].tolist() == [0, 255, 1]


@pytest.mark.parametrize(
    ("values", "expected", "listed"),
    [
        ([0, -1, 1], [0, 255, 1], "-1, 0, 1"),
        ([0, -1], [0, 255], "-1, 0"),
        ([-1, 0, 255], [255, 0, 255], "-1, 0, 255"),
    ],
)
def test_minus_one_is_said_to_be_void_with_the_values_of_the_masks(values, expected, listed, tmp_path, said):
    text = masks(tmp_path, values, mode="I", ending="tif")
    assert open_split(text, "train", tmp_path).mask(0)[0].tolist() == expected
    (line,) = [record.getMessage() for record in said.records if "the masks contain" in record.getMessage()]
    assert line.endswith(f"the masks contain {listed}. Pixels of value -1 are void, like 255.")


def test_other_masks_of_the_dataset_change_the_fingerprint_where_values_mean_something_else(tmp_path):
    first = open_split(masks(tmp_path / "a", [0, 5]), "train", tmp_path).fingerprint()
    masks(tmp_path / "b", [0, 5])
    assert open_split(masks(tmp_path / "b", [0, 3], split="test"), "train", tmp_path).fingerprint() != first


def test_a_dataset_without_a_training_split_is_refused(tmp_path):
    with pytest.raises(MissingFilesError, match="has no folder train/"):
        resolve_dataset(masks(tmp_path, [0, 1], split="other"))
