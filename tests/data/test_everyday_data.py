"""Data as people have them: names in another order, splits of other names, saved datasets of every make."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, disable_progress_bars

from fungi.data.base import open_split, resolve_dataset
from fungi.errors import FungiError, MissingFilesError
from tests.data.makers.miniature import write_image

disable_progress_bars()


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
