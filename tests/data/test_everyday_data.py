"""Datasets of users: class names in another order, splits with other names, and saved datasets of all kinds."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, disable_progress_bars

from fungi.data.base import open_split, resolve_dataset
from fungi.errors import FungiError, MissingFilesError
from tests.data.miniatures.miniature import write_image

disable_progress_bars()


def save_dataset(path, **splits):
    """Save a dataset to disk, and return the value of `--dataset` that selects it."""
    DatasetDict(**splits).save_to_disk(path)
    return f"mine=hf:{path}"


def text_dataset(labels, label_type=None):
    """Return a split of texts with these labels. label_type: type of the label column; None: `datasets` chooses it."""
    features = Features({"text": Value("string"), "label": label_type}) if label_type else None
    texts = [f"text {row}" for row in range(len(labels))]
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


# Classes are matched by name.


def test_equal_names_in_another_order_are_the_same_classes(tmp_path):
    train = text_dataset([0, 1, 2], ClassLabel(names=["cat", "dog", "hen"]))
    test = text_dataset([0, 1, 2, 2], ClassLabel(names=["hen", "cat", "dog"]))
    dataset = save_dataset(tmp_path / "own", train=train, test=test)
    train_samples, test_samples = (open_split(dataset, split, tmp_path) for split in ("train", "test"))
    assert list(train_samples.class_names) == list(test_samples.class_names) == ["cat", "dog", "hen"]
    assert [train_samples.class_names[label] for label in train_samples.targets] == ["cat", "dog", "hen"]
    assert [test_samples.class_names[label] for label in test_samples.targets] == ["hen", "cat", "dog", "dog"]


def test_labels_can_be_names_in_one_split_and_numbers_in_another(tmp_path):
    train, test = text_dataset([1, 0], ClassLabel(names=["dog", "cat"])), text_dataset(["dog", "cat"])
    samples = open_split(save_dataset(tmp_path / "own", train=train, test=test), "test", tmp_path)
    assert [samples.class_names[label] for label in samples.targets] == ["dog", "cat"]


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
    dataset = save_dataset(tmp_path / "own", train=text_dataset([0, 1], train), test=text_dataset([0, 1], test))
    with pytest.raises(FungiError, match=message):
        open_split(dataset, "test", tmp_path)


def test_classes_of_test_without_rows_need_not_exist_in_train(tmp_path):
    train = text_dataset([0, 1], ClassLabel(names=["a", "b"]))
    test = text_dataset([0, 1], ClassLabel(names=["b", "a", "class without rows"]))
    dataset = save_dataset(tmp_path / "own", train=train, test=test)
    assert open_split(dataset, "test", tmp_path).targets.tolist() == [1, 0]


# Splits can have other names.


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
    dataset = f"mine=folder:{tmp_path / 'own'}"
    assert resolve_dataset(dataset).splits == ("train", "test")
    assert list(open_split(dataset, "test", tmp_path).ids) == [f"{test}/cat/1.png"]
    assert list(open_split(dataset, "train", tmp_path).ids) == [f"{folders[0]}/cat/1.png"]


def test_two_splits_of_a_saved_dataset_are_train_and_test(tmp_path):
    dataset = save_dataset(tmp_path / "own", monday=text_dataset([0, 1]), tuesday=text_dataset([1]))
    assert resolve_dataset(dataset).splits == ("train", "test")
    assert len(open_split(dataset, "test", tmp_path)) == 1


def test_train_valid_and_test_keep_their_meaning_and_ignored_folders_are_logged(tmp_path, log):
    for folder in ("train", "val", "test", "scraps"):
        write_image(tmp_path / "own" / folder / "cat" / "1.png", folder)
    assert resolve_dataset(f"mine=folder:{tmp_path / 'own'}").splits == ("train", "valid", "test")
    assert "ignored, because not train, valid or test: scraps" in log.text


def test_an_unknown_split_is_refused_with_the_most_similar_name(tmp_path):
    with pytest.raises(FungiError, match=r"no split 'tset'\. Did you mean 'test'\? It has: train, test"):
        open_split("digits", "tset", tmp_path)


# Saved datasets can have other column types and formats.


@pytest.mark.parametrize("string_type", ["string", "large_string"])
def test_texts_and_labels_can_have_both_string_types(string_type, tmp_path):
    features = Features({"text": Value(string_type), "label": Value(string_type)})
    rows = Dataset.from_dict({"text": ["good", "bad"], "label": ["pos", "neg"]}, features=features)
    samples = open_split(save_dataset(tmp_path / "own", train=rows), "train", tmp_path)
    assert [samples[row] for row in range(2)] == [("good", 1), ("bad", 0)]


@pytest.mark.parametrize("format_name", ["pandas", "arrow", "numpy", "torch"])
def test_samples_do_not_depend_on_the_format_of_a_saved_dataset(format_name, tmp_path):
    rows = text_dataset([0, 1], ClassLabel(names=["a", "b"]))
    rows.set_format(format_name)
    samples = open_split(save_dataset(tmp_path / "own", train=rows), "train", tmp_path)
    assert [samples[row] for row in range(2)] == [("text 0", 0), ("text 1", 1)]
    assert len(samples.fingerprint()) == 64


@pytest.mark.parametrize(
    ("labels", "label_type", "message"),
    [
        ([0, 5_000_000_000], Value("int64"), "row 1 has the label 5000000000 in column 'label'; .*at most 1,000,000"),
        ([0.0, 0.5], Value("float64"), "row 1 has the label 0.5 in column 'label'"),
        ([0.0, float("nan")], Value("float64"), "row 1 has the label nan in column 'label'"),
        (["a", None], Value("string"), "row 1 has the label None in column 'label'"),
        (["a", ""], Value("string"), "row 1 has the label '' in column 'label'"),
        ([0, -1], ClassLabel(names=["a"]), "row 1 has the label -1 in column 'label'"),
    ],
)
def test_the_error_for_an_invalid_label_names_row_and_column(labels, label_type, message, tmp_path):
    dataset = save_dataset(tmp_path / "own", train=text_dataset(labels, label_type))
    with pytest.raises(FungiError, match=message):
        open_split(dataset, "train", tmp_path)


@pytest.mark.parametrize(
    ("column", "feature", "values"),
    [
        ("text", Value("string"), ["good film", None]),
        ("image", Image(), [{"bytes": b"x", "path": None}, None]),
        ("image", Image(), [{"bytes": b"x", "path": None}, {"bytes": b"", "path": None}]),
    ],
)
def test_the_error_for_a_missing_value_names_row_and_column(column, feature, values, tmp_path):
    features = Features({column: feature, "label": Value("int64")})
    rows = Dataset.from_dict({column: values, "label": [0, 1]}, features=features)
    samples = open_split(save_dataset(tmp_path / "own", train=rows), "train", tmp_path)
    assert len(samples.fingerprint()) == 64
    with pytest.raises(FungiError, match=rf"'train/1': row 1 of .*/train has no value in column '{column}'"):
        samples.load(1)


def test_a_dataset_of_the_hub_is_downloaded_once_and_then_read_from_disk(tmp_path, monkeypatch):
    import datasets

    downloads = []

    def load(repository):
        downloads.append(repository)
        return DatasetDict(train=text_dataset([0, 1]), test=text_dataset([1]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    for _ in range(2):
        assert len(open_split("films=hf:someone/films", "train", tmp_path)) == 2
    assert downloads == ["someone/films"]


def test_the_error_for_a_failed_download_from_the_hub_gives_both_solutions(tmp_path, monkeypatch):
    import datasets

    def load(repository):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        MissingFilesError, match=r"no folder someone/films, .*\(no network\).*copy .*someone--films here"
    ):
        resolve_dataset("films=hf:someone/films", tmp_path)
    assert list(tmp_path.iterdir()) == []
