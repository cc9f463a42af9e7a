"""Text datasets in all file formats, with damaged files and with labels of all kinds."""

import json
from pathlib import Path

import pytest

from fungi.data.base import DATASETS, open_split
from fungi.data.sets.fine_grained_sst import published_bin, standard_bin
from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.log import logger


@pytest.fixture(autouse=True)
def quiet():
    """Disable the warnings about sizes that differ from the published sizes."""
    logger.disabled = True
    yield
    logger.disabled = False


def write_file(folder: Path, name: str, content: str | bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_json_lines_and_csv_give_the_same_rows(tmp_path):
    rows = [('A, "quoted" text\nof two lines', 0), ("", 3), ("plain é", 1)]
    write_file(
        tmp_path / "lines" / "ag-news",
        "train.jsonl",
        "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows),
    )
    quoted = ["text,label", *('"' + text.replace('"', '""') + f'",{label}' for text, label in rows)]
    write_file(tmp_path / "table" / "ag-news", "train.csv", "\n".join(quoted) + "\n")
    lines, table = (open_split("ag-news", "train", tmp_path / folder) for folder in ("lines", "table"))
    assert [lines.load(row) for row in range(3)] == [text for text, _ in rows]
    assert lines.targets.tolist() == [0, 3, 1]
    assert lines.fingerprint() == table.fingerprint()


def test_labels_can_be_names(tmp_path):
    write_file(tmp_path / "trec", "test.jsonl", '{"text": "Who ?", "coarse_label": "HUM"}\n')
    assert open_split("trec", "test", tmp_path).targets.tolist() == [3]


def test_the_error_for_missing_files_names_columns_folder_and_command(tmp_path):
    with pytest.raises(MissingFilesError) as error:
        open_split("trec", "train", tmp_path)
    text = str(error.value)
    assert "no train.parquet, .jsonl or .csv" in text
    assert str(tmp_path / "trec") in text
    assert "'coarse_label'" in text
    assert "python scripts/download_dataset.py --dataset trec" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n', r"train.jsonl has no column 'label'. Its columns are: text"),
        ('{"sentence": "a", "label": 0}\n', r"has no column 'text'. Its columns are: sentence, label"),
        ('{"text": "a", "label": 4}\n', r"row 0 has the label 4; expected a number below 4 or one of World"),
        ('{"text": "a", "label": "Arts"}\n', r"row 0 has the label 'Arts'"),
        ('{"text": "a", "label": 1}\n{"text": null, "label": 1}\n', r"row 1 has None in column 'text', not a text"),
        ('{"text": "a", "label": 1\n', r"train.jsonl can't be read as a table"),
        ("", r"train.jsonl can't be read as a table"),
    ],
)
def test_the_message_names_the_error_in_a_table(tmp_path, content, message):
    write_file(tmp_path / "ag-news", "train.jsonl", content)
    with pytest.raises(FungiError, match=message):
        open_split("ag-news", "train", tmp_path)


def test_the_message_names_a_damaged_parquet_file(tmp_path):
    write_file(tmp_path / "ag-news", "train.parquet", b"PAR1 but not a table")
    with pytest.raises(FungiError, match=r"train.parquet can't be read as a table .*Create or download it again"):
        open_split("ag-news", "train", tmp_path)


def test_old_labels_of_trec_are_refused(tmp_path):
    question = "How far is it from Denver to Aspen ?"
    write_file(tmp_path / "trec", "train.jsonl", json.dumps({"text": question, "coarse_label": 0}) + "\n")
    with pytest.raises(FungiError, match="is not labelled NUM"):
        open_split("trec", "train", tmp_path)


def test_sentiments_are_binned_into_the_standard_classes():
    edges = [0, 0.2, 0.21, 0.4, 0.6, 0.8, 1.0]
    assert [standard_bin(edge) for edge in edges] == [0, 0, 1, 1, 2, 3, 4]
    import numpy as np

    assert [standard_bin(float(np.float32(edge))) for edge in edges] == [0, 0, 1, 1, 2, 3, 4]  # files have float32


def test_the_published_bins_include_their_lower_end_and_the_label_1_is_a_sixth_class():
    assert [published_bin(value) for value in (0, 0.19, 0.2, 0.4, 0.79, 0.8, 1.0)] == [0, 0, 1, 2, 3, 4, 5]


def test_the_published_profile_uses_the_published_bins(tmp_path):
    write_file(tmp_path / "fine-grained-sst", "test.jsonl", '{"sentence": "Best", "label": 1.0}\n')
    spec = DATASETS["fine-grained-sst"]
    assert spec.open(tmp_path, "test").targets.tolist() == [4]
    assert spec.published_open(tmp_path, "test").targets.tolist() == [5]


def test_a_failed_download_names_the_source(tmp_path, monkeypatch):
    import datasets

    def refuse(*arguments, **options):
        raise ConnectionError("no network here\nand more")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(MissingFilesError, match=r"can't download split train of .*CogComp/trec \(no network here\)"):
        DATASETS["trec"].download(tmp_path)
    assert not list((tmp_path / "trec").iterdir())


def test_downloaded_tables_can_be_read(tmp_path, monkeypatch):
    import datasets

    requests = []

    def load_dataset(repository, configuration, *, split, revision):
        requests.append((repository, configuration, split, revision))
        return datasets.Dataset.from_dict({"sentence": ["Good ."], "label": [0.7]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    DATASETS["fine-grained-sst"].download(tmp_path)
    DATASETS["fine-grained-sst"].download(tmp_path)  # the files exist, so there are no more requests
    assert requests == [
        ("stanfordnlp/sst", "default", split, "refs/convert/parquet") for split in ("train", "validation", "test")
    ]
    assert open_split("fine-grained-sst", "valid", tmp_path)[0] == ("Good .", 3)


@pytest.mark.parametrize(
    ("name", "classes"), [("trec", 6), ("banking-77", 77), ("fine-grained-sst", 5), ("ag-news", 4), ("tweet-eval", 20)]
)
def test_the_text_datasets_of_the_paper_have_the_right_number_of_classes(name, classes):
    spec = DATASETS[name]
    assert spec.classes == classes
    assert spec.modality == "text"


@pytest.mark.slow
def test_this_python_has_enough_docstrings_for_every_class_of_pydocs():
    samples = {split: open_split("pydocs", split, Path()) for split in ("train", "test")}
    assert len(samples["train"]) + len(samples["test"]) == 1300
    for rows in samples.values():
        assert sorted(set(rows.targets.tolist())) == list(range(10))
    texts = [rows.load(row) for rows in samples.values() for row in range(len(rows))]
    assert len(set(texts)) == len(texts)
    assert all(len(text.split()) >= 3 and "\n" not in text for text in texts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,0.5\nb,3.5\n", r"row 0 has the label 0.5"),
        ("text,label\na,1e400\n", "row 0 has the label inf"),
        ("text,label\n", r"train.csv has a header but no rows"),
        ("text,label,label\na,0,1\n", r"train.csv has the column 'label' more than once"),
    ],
)
def test_ambiguous_tables_are_refused(tmp_path, content, message):
    write_file(tmp_path / "ag-news", "train.csv", content)
    with pytest.raises(FungiError, match=message):
        open_split("ag-news", "train", tmp_path)


def test_labels_can_be_whole_numbers_in_the_format_of_floats(tmp_path):
    write_file(tmp_path / "ag-news", "train.csv", "text,label\na,2.0\nb,3.0\n")
    assert open_split("ag-news", "train", tmp_path).targets.tolist() == [2, 3]
