"""Features of other programs: every format gives the feature files, and the scores, of the same numbers."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.report.features import seeds_and_precision
from fungi.store.foreign import format_of, load_array, open_any, shapes_of, targets_of
from fungi.store.reading import UnknownOriginWarning, open_array, provenance_of, read_class_names, read_targets
from tests.evaluation.feature_folder import clustered
from tests.store.flips import noticed_flips

ROWS = {"train": 80, "test": 40}
NAMES = np.array(["dog", "cat", "eel", "bat"])


def rows_of(split: str) -> tuple[np.ndarray, np.ndarray]:
    values, targets = clustered(ROWS[split], 8, 4, seed=len(split))
    return values.astype(np.float32), targets


def npz(folder: Path) -> list[str]:
    (a, b), (c, d) = rows_of("train"), rows_of("test")
    np.savez(folder / "all.npz", x_train=a, y_train=b, x_test=c, y_test=d)
    return [str(folder / "all.npz")]


def npy(folder: Path) -> list[str]:
    for split in ROWS:
        for name, values in zip(("", "_y"), rows_of(split), strict=True):
            np.save(folder / f"{split}{name}.npy", values)
    return [*(str(folder / f"{split}.npy") for split in ROWS), "--targets", *(str(folder / f"{s}_y.npy") for s in ROWS)]


def clip_benchmark(folder: Path) -> list[str]:
    """Its test split is called val."""
    for split, name in (("train", "train"), ("test", "val")):
        for what, values in zip(("features", "targets"), rows_of(split), strict=True):
            torch.save(torch.from_numpy(values), folder / f"{what}_{name}.pt")
    return [str(folder)]


def dino(folder: Path) -> list[str]:
    for split in ROWS:
        for what, values in zip(("feat", "labels"), rows_of(split), strict=True):
            torch.save(torch.from_numpy(values), folder / f"{split}{what}.pth")
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


SOURCES = (npz, npy, clip_benchmark, dino, tensors_in_a_dictionary, any_key_of_hdf5)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_every_format_becomes_the_same_feature_files(source, tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    monkeypatch.chdir(tmp_path)
    assert COMMANDS["import"].main([*source(tmp_path / "made"), "--dataset", "birds", "--backbone", "mine"]) == 0
    for split, path in ((split, Path(f"features/embeddings/birds/mine/{split}.h5")) for split in ROWS):
        values, targets = rows_of(split)
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["embeddings"][:], values)
            np.testing.assert_array_equal(file["targets"][:], targets)
        provenance = provenance_of(path)
        assert (provenance.weights_hash, provenance.input) == ("unknown", "unknown")
        assert provenance.settings["imported"]["file"].startswith(str(tmp_path / "made"))


def test_no_flipped_bit_of_an_imported_file_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (a, b), (c, d) = rows_of("train"), rows_of("test")
    np.savez("all.npz", train_features=a, train_labels=NAMES[b], test_features=c, test_labels=NAMES[d])
    assert COMMANDS["import"].main(["all.npz", "--dataset", "birds", "--backbone", "mine"]) == 0
    path = Path("features/embeddings/birds/mine/test.h5")

    def content():
        array = open_array(path, "embeddings")
        rows = array.read(0, array.rows).tobytes()
        return [rows, read_targets(path).tolist(), read_class_names(path), array.provenance]

    assert noticed_flips(path, content, 200) >= 195  # the rest hits the mark of a file with checksums


def test_every_evaluation_takes_imported_features_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = ["--dataset", "birds", "--backbone", "mine"]
    assert COMMANDS["import"].main([*npz(tmp_path), *named]) == 0
    assert COMMANDS["import"].main([*npz(tmp_path), *named, "--feature", "other"]) == 0
    for command in ("knn", "cluster"):
        assert COMMANDS[command].main([*named, "--root", "features"]) == 0
    (path,) = (tmp_path / "features/results/knn").rglob("*.json")
    assert set(json.loads(path.read_text())["results"]) == {"embeddings", "other", "embeddings+other"}


def test_labels_that_are_texts_get_numbers_by_name_and_both_splits_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (a, b), (c, d) = rows_of("train"), rows_of("test")
    np.savez("all.npz", train_features=a, train_labels=NAMES[b], test_features=c, test_labels=NAMES[d])
    assert COMMANDS["import"].main(["all.npz", "--dataset", "birds", "--backbone", "mine"]) == 0
    with h5py.File("features/embeddings/birds/mine/test.h5") as file:
        names = file["class_names"].asstr()[:]
        assert names.tolist() == sorted(NAMES.tolist())
        np.testing.assert_array_equal(names[file["targets"][:]], NAMES[d])
    np.savez("valid.npz", features=c, labels=np.where(d > 0, "ant", "bee"))
    assert COMMANDS["import"].main(["valid.npz", "--dataset", "birds", "--backbone", "mine"]) == 2
    assert "import all splits in one call" in capsys.readouterr().err


def test_existing_features_are_kept_and_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [*npz(tmp_path), "--dataset", "birds", "--backbone", "mine"]
    assert COMMANDS["import"].main(flags) == 0
    before = Path("features/embeddings/birds/mine/train.h5").read_bytes()
    assert COMMANDS["import"].main(flags) == 0
    assert "train.h5 already exists" in capsys.readouterr().out
    (a, b), (c, d) = rows_of("train"), rows_of("test")
    np.savez("all.npz", x_train=-a, y_train=b, x_test=c, y_test=d)
    assert COMMANDS["import"].main(flags) == 2
    assert "already exists, with other features. Choose another --backbone" in capsys.readouterr().err
    assert Path("features/embeddings/birds/mine/train.h5").read_bytes() == before
    assert COMMANDS["import"].main([*flags, "--overwrite"]) == 0


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_explicit_files_take_every_format_and_the_result_goes_below_the_root(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "mine").mkdir()
    source(tmp_path / "made")
    files = {
        "npz": ("all.npz:x_train", "all.npz:x_test", "all.npz:y_train", "all.npz:y_test"),
        "npy": ("train.npy", "test.npy", "train_y.npy", "test_y.npy"),
        "clip_benchmark": ("features_train.pt", "features_val.pt", "targets_train.pt", "targets_val.pt"),
        "dino": ("trainfeat.pth", "testfeat.pth", "trainlabels.pth", "testlabels.pth"),
        "tensors_in_a_dictionary": ("train.pt", "test.pt", "train.pt", "test.pt"),
        "any_key_of_hdf5": ("train.h5:model/pooled", "test.h5:model/pooled", "train.h5", "test.h5:labels"),
    }[source.__name__]
    train, test, *targets = (f"made/{name}" for name in files)
    flags = ["--train-embeddings-datasets", train, "--test-embeddings-datasets", test, "--root", "mine"]
    flags += ["--train-targets", targets[0], "--test-targets", targets[1]]
    with pytest.warns(UnknownOriginWarning):
        assert COMMANDS["knn"].main(flags) == 0
    said = capsys.readouterr().err
    assert f"files {train}, {test}" in said
    assert "digits" not in said
    (path,) = (tmp_path / "mine" / "results").glob("knn*.json")
    content = json.loads(path.read_text())
    assert content["settings"]["dataset"] == "unnamed"
    assert content["results"]["embeddings"]["accuracy"] > 0.8


def test_a_layer_key_chooses_among_arrays_of_embeddings(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["first"], file["last"], file["targets"] = (
            *np.random.default_rng(0).normal(size=(2, 60, 4)),
            np.arange(60) % 3,
        )
    flags = [f"--{split}-embeddings-datasets={tmp_path / 'x.h5'}" for split in ("train", "test")]
    flags += ["--score-fitted-rows", "--output", str(tmp_path / "result.json")]
    assert COMMANDS["knn"].main(flags) == 2
    with pytest.warns(UnknownOriginWarning):
        assert COMMANDS["knn"].main([*flags, "--layer-key", "last"]) == 0
    (origin,) = json.loads((tmp_path / "result.json").read_text())["provenance"]["features"]
    assert origin["train"]["embeddings"]["array"] == "last"


DAMAGED = {
    "cut.npz": lambda path: path.write_bytes(npz_bytes(path)[:-200]),
    "cut.npy": lambda path: (np.save(path, np.zeros((50, 8))), path.write_bytes(path.read_bytes()[:300])),
    "cut.pt": lambda path: (torch.save(torch.zeros(50, 8), path), path.write_bytes(path.read_bytes()[:700])),
    "notes.txt": lambda path: path.write_text("no features"),
    "empty.h5": lambda path: path.touch(),
    "cut.h5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "objects.npy": lambda path: np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True),
}


def npz_bytes(path: Path) -> bytes:
    np.savez(path, x=np.zeros((50, 8)), y=np.zeros(50))
    return path.read_bytes()


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("command", ["import", "knn"])
def test_a_file_that_can_not_be_read_is_left_as_it_is_and_nobody_is_told_to_delete_it(name, command, tmp_path, capsys):
    path = tmp_path / name
    DAMAGED[name](path)
    before = path.read_bytes()
    if command == "import":
        flags = [str(path), "--dataset", "birds", "--backbone", "mine", "--split", "train", "--root", str(tmp_path)]
    else:
        flags = ["--train-embeddings-datasets", str(path), "--test-embeddings-datasets", str(path)]
    assert COMMANDS[command].main(flags) == 2
    said = capsys.readouterr().err
    assert name in said
    assert "elete" not in said
    assert path.read_bytes() == before


def test_code_in_a_file_of_tensors_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"features": torch.zeros(4, 2), "more": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(FungiError, match=r"contains more than tensors.*Save only the tensors"):
        shapes_of(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


def test_short_types_labels_as_whole_floats_and_lists_of_names_are_read(tmp_path):
    path = tmp_path / "train.pt"
    values = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.save({"features": values, "labels": torch.arange(6.0), "paths": list("abcdef")}, path)
    assert format_of(path) == "PyTorch"
    np.testing.assert_array_equal(open_any(path).read(1, 4), values.float().numpy()[1:4])
    assert targets_of(path).tolist() == list(range(6))
    assert load_array(path, "paths").tolist() == list("abcdef")


REFUSED = {
    "nowhere.npz": ([], "does not exist. Check the path"),
    "all.npz:nothing": ([], "has no array 'nothing'. It contains x_train [80, 8], y_train [80]"),
    "two.npz": (["--split", "train"], "both look like the features of split train"),
    "plain.npy": ([], "no labels"),
    "flat.npz": (["--split", "train"], "no features [n d] in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_ambiguous_files_are_refused_with_a_list_of_arrays(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    npz(tmp_path)
    np.savez("two.npz", image_features=np.zeros((4, 2)), text_features=np.zeros((4, 2)), labels=np.zeros(4))
    np.save("plain.npy", np.zeros((4, 2)))
    np.savez("flat.npz", labels=np.arange(4))
    flags, message = REFUSED[name]
    flags = ["--split", "train"] if name == "plain.npy" else flags
    assert COMMANDS["import"].main([name, "--dataset", "birds", "--backbone", "mine", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not Path("features").exists()


def test_imported_features_have_no_seed_in_a_report():
    entry = {"provenance": {"seed": 0, "dtype": "float32", "settings": {"imported": {"file": "x.npz"}}}}
    assert seeds_and_precision([("embeddings", entry)]) == []
    entry["provenance"]["settings"] = {}
    assert seeds_and_precision([("embeddings", entry)]) == [("extraction_seed", 0)]
