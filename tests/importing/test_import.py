"""Import of features of other programs: all formats give the same feature files, and unreadable files are refused.

Functions such as `npz` write the features of `rows_of` in a format, and return the arguments of `fungi import`.
"""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.importing.roles import named_arrays
from fungi.report.features import seeds_and_precision
from fungi.store.foreign import format_of, load_array, open_any, shapes_of, targets_of
from fungi.store.reading import UnknownOriginWarning, open_array, provenance_of, read_class_names, read_targets
from tests.evaluation.feature_folder import clustered_features
from tests.store.flips import detected_flips

ROWS = {"train": 80, "test": 40}
NAMES = np.array(["dog", "cat", "eel", "bat"])


def rows_of(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the features and the labels of a split."""
    seed = len(split)  # another seed for each split
    values, targets = clustered_features(ROWS[split], dim=8, classes=4, seed=seed)
    return values.astype(np.float32), targets


def npz(folder: Path) -> list[str]:
    (x_train, y_train), (x_test, y_test) = rows_of("train"), rows_of("test")
    np.savez(folder / "all.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return [str(folder / "all.npz")]


def npy(folder: Path) -> list[str]:
    for split in ROWS:
        features, targets = rows_of(split)
        np.save(folder / f"{split}.npy", features)
        np.save(folder / f"{split}_y.npy", targets)
    target_files = [str(folder / f"{split}_y.npy") for split in ROWS]
    return [*(str(folder / f"{split}.npy") for split in ROWS), "--targets", *target_files]


def clip_benchmark(folder: Path) -> list[str]:
    """Write the features in the format of CLIP benchmark, where the name of the test split is `val`."""
    for split, name in (("train", "train"), ("test", "val")):
        for content, values in zip(("features", "targets"), rows_of(split), strict=True):
            torch.save(torch.from_numpy(values), folder / f"{content}_{name}.pt")
    return [str(folder)]


def dino(folder: Path) -> list[str]:
    for split in ROWS:
        for content, values in zip(("feat", "labels"), rows_of(split), strict=True):
            torch.save(torch.from_numpy(values), folder / f"{split}{content}.pth")
    return [str(folder)]


def tensors_in_a_dictionary(folder: Path) -> list[str]:
    for split in ROWS:
        values, targets = map(torch.from_numpy, rows_of(split))
        torch.save({"backbone": {"features": values}, "labels": targets}, folder / f"{split}.pt")
    return [str(folder / f"{split}.pt") for split in ROWS]


def any_key_of_hdf5(folder: Path) -> list[str]:
    for split in ROWS:
        with h5py.File(folder / f"{split}.h5", "w") as file:
            file["model/pooled"], file["labels"] = rows_of(split)
            file["model/tokens"] = np.zeros((ROWS[split], 2))
    return [f"{folder / f'{split}.h5'}:model/pooled" for split in ROWS]


FORMATS = (npz, npy, clip_benchmark, dino, tensors_in_a_dictionary, any_key_of_hdf5)


@pytest.mark.parametrize("write_source", FORMATS, ids=lambda function: function.__name__)
def test_every_format_becomes_the_same_feature_files(write_source, tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = write_source(tmp_path / "source")
    assert COMMANDS["import"].main([*arguments, "--dataset", "birds", "--backbone", "mine"]) == 0
    for split in ROWS:
        path = Path(f"features/embeddings/birds/mine/{split}.h5")
        values, targets = rows_of(split)
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["embeddings"][:], values)
            np.testing.assert_array_equal(file["targets"][:], targets)
        provenance = provenance_of(path)
        assert (provenance.weights_hash, provenance.input) == ("unknown", "unknown")
        assert provenance.settings["imported"]["file"].startswith(str(tmp_path / "source"))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("pretrain_test", "test"),
        ("latest-train", "train"),
        ("pretrained.val2", "valid"),
        ("trainfeat", "train"),
        ("x_test", "test"),
        ("Features of the Validation", "valid"),
        ("pretrained", "train"),
        ("latent", ""),
    ],
)
def test_a_split_is_first_a_word_of_the_name_and_then_a_part(name: str, split: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.npy"
    np.save(path, np.zeros((4, 2)))
    assert [array.split for array in named_arrays(path, None, "")] == [split]


def write_named_labels(path: str) -> None:
    """Write the features with class names as labels."""
    (x_train, y_train), (x_test, y_test) = rows_of("train"), rows_of("test")
    labels = {"train_labels": NAMES[y_train], "test_labels": NAMES[y_test]}
    np.savez(path, train_features=x_train, test_features=x_test, **labels)


def test_flipped_bits_of_an_imported_file_never_change_what_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_named_labels("all.npz")
    assert COMMANDS["import"].main(["all.npz", "--dataset", "birds", "--backbone", "mine"]) == 0
    path = Path("features/embeddings/birds/mine/test.h5")

    def read():
        array = open_array(path, "embeddings")
        rows = array.read(0, array.rows).tobytes()
        return [rows, read_targets(path).tolist(), read_class_names(path), array.provenance]

    # The other flips change only the flag that the file has checksums, so the same values are read.
    assert detected_flips(path, read, count=200) >= 195


def test_every_evaluation_accepts_imported_features_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["--dataset", "birds", "--backbone", "mine"]
    assert COMMANDS["import"].main([*npz(tmp_path), *names]) == 0
    assert COMMANDS["import"].main([*npz(tmp_path), *names, "--feature", "other"]) == 0
    for command in ("knn", "cluster"):
        assert COMMANDS[command].main([*names, "--root", "features"]) == 0
    (path,) = (tmp_path / "features/results/knn").rglob("*.json")
    assert set(json.loads(path.read_text())["results"]) == {"embeddings", "other", "embeddings+other"}


def test_class_names_get_the_same_numbers_in_both_splits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_named_labels("all.npz")
    features, targets = rows_of("test")
    assert COMMANDS["import"].main(["all.npz", "--dataset", "birds", "--backbone", "mine"]) == 0
    with h5py.File("features/embeddings/birds/mine/test.h5") as file:
        names = file["class_names"].asstr()[:]
        assert names.tolist() == sorted(NAMES.tolist())
        np.testing.assert_array_equal(names[file["targets"][:]], NAMES[targets])
    np.savez("valid.npz", features=features, labels=np.where(targets > 0, "ant", "bee"))
    assert COMMANDS["import"].main(["valid.npz", "--dataset", "birds", "--backbone", "mine"]) == 2
    assert "import all splits in one call" in capsys.readouterr().err


def test_existing_features_are_replaced_only_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [*npz(tmp_path), "--dataset", "birds", "--backbone", "mine"]
    assert COMMANDS["import"].main(flags) == 0
    content = Path("features/embeddings/birds/mine/train.h5").read_bytes()
    assert COMMANDS["import"].main(flags) == 0
    assert "train.h5 already exists" in capsys.readouterr().out
    (x_train, y_train), (x_test, y_test) = rows_of("train"), rows_of("test")
    np.savez("all.npz", x_train=-x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    assert COMMANDS["import"].main(flags) == 2
    assert "already exists, with other features. Choose another --backbone" in capsys.readouterr().err
    assert Path("features/embeddings/birds/mine/train.h5").read_bytes() == content
    assert COMMANDS["import"].main([*flags, "--overwrite"]) == 0


@pytest.mark.parametrize("write_source", FORMATS, ids=lambda function: function.__name__)
def test_knn_reads_explicit_files_of_every_format(write_source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").mkdir()
    (tmp_path / "root").mkdir()
    write_source(tmp_path / "source")
    files = {
        "npz": ("all.npz:x_train", "all.npz:x_test", "all.npz:y_train", "all.npz:y_test"),
        "npy": ("train.npy", "test.npy", "train_y.npy", "test_y.npy"),
        "clip_benchmark": ("features_train.pt", "features_val.pt", "targets_train.pt", "targets_val.pt"),
        "dino": ("trainfeat.pth", "testfeat.pth", "trainlabels.pth", "testlabels.pth"),
        "tensors_in_a_dictionary": ("train.pt", "test.pt", "train.pt", "test.pt"),
        "any_key_of_hdf5": ("train.h5:model/pooled", "test.h5:model/pooled", "train.h5", "test.h5:labels"),
    }[write_source.__name__]
    train, test, train_targets, test_targets = (f"source/{name}" for name in files)
    flags = ["--train-embeddings-datasets", train, "--test-embeddings-datasets", test, "--root", "root"]
    flags += ["--train-targets", train_targets, "--test-targets", test_targets]
    with pytest.warns(UnknownOriginWarning):
        assert COMMANDS["knn"].main(flags) == 0
    error = capsys.readouterr().err
    assert f"files {train}, {test}" in error
    assert "digits" not in error
    (path,) = (tmp_path / "root" / "results").glob("knn*.json")
    content = json.loads(path.read_text())
    assert content["settings"]["dataset"] == "unnamed"
    assert content["results"]["embeddings"]["accuracy"] > 0.8


def test_a_layer_key_selects_an_array_of_embeddings(tmp_path, capsys):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["first"], file["last"] = np.random.default_rng(0).normal(size=(2, 60, 4))
        file["targets"] = np.arange(60) % 3
    flags = [f"--{split}-embeddings-datasets={tmp_path / 'x.h5'}" for split in ("train", "test")]
    flags += ["--score-fitted-rows", "--output", str(tmp_path / "result.json")]
    assert COMMANDS["knn"].main(flags) == 2
    assert "last [60, 4], targets [60]. Name the array: " in capsys.readouterr().err
    with pytest.warns(UnknownOriginWarning):
        assert COMMANDS["knn"].main([*flags, "--layer-key", "last"]) == 0
    (origin,) = json.loads((tmp_path / "result.json").read_text())["provenance"]["features"]
    assert origin["train"]["embeddings"]["array"] == "last"


# Name of a file -> function that writes it.
UNREADABLE_FILES = {
    "cut.npz": lambda path: path.write_bytes(npz_bytes(path)[:-200]),
    "cut.npy": lambda path: (np.save(path, np.zeros((50, 8))), path.write_bytes(path.read_bytes()[:300])),
    "cut.pt": lambda path: (torch.save(torch.zeros(50, 8), path), path.write_bytes(path.read_bytes()[:700])),
    "notes.txt": lambda path: path.write_text("no features"),
    "empty.h5": lambda path: path.touch(),
    "cut.h5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "objects.npy": lambda path: np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True),
}


def npz_bytes(path: Path) -> bytes:
    """Write a valid file, and return its content."""
    np.savez(path, x=np.zeros((50, 8)), y=np.zeros(50))
    return path.read_bytes()


@pytest.mark.parametrize("name", UNREADABLE_FILES)
@pytest.mark.parametrize("command", ["import", "knn"])
def test_an_unreadable_file_is_not_changed_and_the_error_does_not_propose_to_delete_it(name, command, tmp_path, capsys):
    path = tmp_path / name
    UNREADABLE_FILES[name](path)
    content = path.read_bytes()
    if command == "import":
        flags = [str(path), "--dataset", "birds", "--backbone", "mine", "--split", "train", "--root", str(tmp_path)]
    else:
        flags = ["--train-embeddings-datasets", str(path), "--test-embeddings-datasets", str(path)]
    assert COMMANDS[command].main(flags) == 2
    error = capsys.readouterr().err
    assert name in error
    assert "delete" not in error.lower()
    assert path.read_bytes() == content


def test_code_in_a_file_of_tensors_is_not_executed(tmp_path):
    class RunsCode:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"features": torch.zeros(4, 2), "code": RunsCode()}, tmp_path / "code.pt")
    with pytest.raises(FungiError, match=r"contains more than tensors.*Save only the tensors"):
        shapes_of(tmp_path / "code.pt")
    assert not (tmp_path / "executed").exists()


def test_bfloat16_features_float_labels_and_lists_of_names_are_read(tmp_path):
    path = tmp_path / "train.pt"
    values = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.save({"features": values, "labels": torch.arange(6.0), "paths": list("abcdef")}, path)
    assert format_of(path) == "PyTorch"
    np.testing.assert_array_equal(open_any(path).read(1, 4), values.float().numpy()[1:4])
    assert targets_of(path).tolist() == list(range(6))
    assert load_array(path, "paths").tolist() == list("abcdef")


@pytest.mark.parametrize("shape", [(), (4, 2), (2, 2, 1)])
def test_labels_of_another_shape_are_refused_with_a_way_out(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "labels.npz", labels=np.zeros(shape, np.int64))
    with pytest.raises(FungiError, match=r"labels are one whole number per row\. Name the array as FILE:KEY\.$"):
        targets_of(f"{tmp_path / 'labels.npz'}:labels")


# First argument of the command -> further flags, and a part of the error message.
AMBIGUOUS_FILES = {
    "nowhere.npz": ([], "does not exist. Check the path"),
    "all.npz:nothing": ([], "has no array 'nothing'. It contains x_train [80, 8], y_train [80]"),
    "two.npz": (["--split", "train"], "both look like the features of split train"),
    "plain.npy": (["--split", "train"], "no labels"),
    "flat.npz": (["--split", "train"], "no features [n d] in"),
}


@pytest.mark.parametrize("name", AMBIGUOUS_FILES)
def test_ambiguous_files_are_refused_with_a_list_of_arrays(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    npz(tmp_path)
    np.savez("two.npz", image_features=np.zeros((4, 2)), text_features=np.zeros((4, 2)), labels=np.zeros(4))
    np.save("plain.npy", np.zeros((4, 2)))
    np.savez("flat.npz", labels=np.arange(4))
    flags, message = AMBIGUOUS_FILES[name]
    assert COMMANDS["import"].main([name, "--dataset", "birds", "--backbone", "mine", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not Path("features").exists()


def test_imported_features_have_no_seed_in_a_report():
    entry = {"provenance": {"seed": 0, "dtype": "float32", "settings": {"imported": {"file": "x.npz"}}}}
    assert seeds_and_precision([("embeddings", entry)]) == []
    entry["provenance"]["settings"] = {}
    assert seeds_and_precision([("embeddings", entry)]) == [("extraction_seed", 0)]
