"""Damaged annotations and wrong sizes are reported, and scripts end with the correct exit status."""

import logging
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fungi.data.base import DATASETS, open_split
from fungi.data.preparation import (
    DownloadSettings,
    PrepareSettings,
    VerifySettings,
    download,
    prepare,
    sources,
    verify,
    verify_dataset,
)
from fungi.data.sets.eurosat import split_rows
from fungi.errors import FungiError, MissingFilesError
from fungi.settings import parse
from tests.data.miniatures import miniatures

SCRIPTS = [
    Path(__file__).parents[2] / "scripts" / f"{name}.py" for name in ("download_dataset", "prepare", "verify_dataset")
]
WITH_ARCHIVES = [name for name in DATASETS if DATASETS[name].prepare]
# Dataset -> a file with annotations in its miniature.
ANNOTATIONS = {
    "cifar10": "cifar10/cifar-10-batches-py/data_batch_3",
    "cifar100": "cifar100/cifar-100-python/meta",
    "food101": "food101/food-101/meta/train.json",
    "textures": "textures/dtd/dtd/labels/train1.txt",
    "flowers102": "flowers102/flowers-102/setid.mat",
    "aircraft": "aircraft/fgvc-aircraft-2013b/data/images_variant_train.txt",
    "cars": "cars/stanford_cars/devkit/cars_train_annos.mat",
    "pets": "pets/annotations/trainval.txt",
    "cub-200": "cub/CUB_200_2011/images.txt",
    "imagenet-100": "imagenet100/Labels.json",
    "imagenet-1k": "imagenet-1k/meta.bin",
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_the_error_for_damaged_annotations_names_the_folder_in_one_line(name, miniature):
    dataset = miniature(name)
    (dataset.data_dir / ANNOTATIONS[name]).write_bytes(b"\x00damaged beyond \xff repair")
    with pytest.raises(FungiError, match=rf"dataset '{name}': the files in {dataset.data_dir}.* are damaged") as error:
        dataset.open("train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", [name for name in ANNOTATIONS if name != "imagenet-1k"]
)  # ImageNet-1k can be read without annotations
def test_missing_annotations_are_explained(name, miniature):
    dataset = miniature(name)
    (dataset.data_dir / ANNOTATIONS[name]).unlink()
    with pytest.raises(FungiError, match=rf"dataset '{name}': .*{dataset.data_dir}"):
        dataset.open("train")


def test_imagenet_without_a_meta_file_names_classes_by_wordnet_id(miniature):
    dataset = miniature("imagenet-1k")
    before = dataset.open("test").fingerprint()
    (dataset.data_dir / "imagenet-1k" / "meta.bin").unlink()
    samples = dataset.open("test")
    assert samples.fingerprint() == before
    assert list(samples.class_names) == ["n01440764", "n01443537"]


def test_imagenet_labels_do_not_depend_on_the_classes_of_the_split(miniature):
    dataset = miniature("imagenet-1k")
    (dataset.expected.files["val/n01440764/ILSVRC2012_val_00000002.JPEG"]).unlink()
    (dataset.data_dir / "imagenet-1k" / "val" / "n01440764").rmdir()
    assert dataset.open("test").targets.tolist() == [1]


def test_the_eurosat_split_is_fixed_for_the_real_labels():
    counts = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]
    labels = np.repeat(np.arange(10), counts)
    rows = split_rows(labels)
    assert (len(rows["train"]), len(rows["test"])) == (21600, 5400)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(27000))
    assert np.bincount(labels[rows["test"]]).tolist() == [count // 5 for count in counts]
    with pytest.raises(FungiError, match="draws another split than the published one"):
        split_rows(labels[::-1])


def test_other_sizes_than_the_published_sizes_give_a_warning(miniature, caplog):
    with caplog.at_level(logging.WARNING, logger="fungi"):
        miniature("cars").open("train")
    assert "dataset 'cars': split train has 3 rows, but the published split has 8144" in caplog.text


def test_verification_passes_if_sizes_and_classes_are_right(miniature):
    dataset = miniature("pets")
    sizes = {split: len(rows) for split, rows in dataset.expected.splits.items()}
    lines = list(verify_dataset(replace(DATASETS["pets"], sizes=sizes, classes=3), dataset.data_dir, every_item=True))
    assert [line.split(",")[0] for line in lines] == [
        "pets train: 4 rows of 3 classes",
        "pets test: 3 rows of 3 classes",
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sizes": {"train": 5}}, "split train has 4 rows, but the published split has 5"),
        ({"sizes": {"train": 4}, "classes": 4}, "has rows of 3 classes, but the published split has 4"),
    ],
)
def test_verification_refuses_wrong_numbers_of_rows_or_classes(change, text, miniature):
    dataset = miniature("pets")
    with pytest.raises(FungiError, match=text):
        list(verify_dataset(replace(DATASETS["pets"], **change), dataset.data_dir))


def test_verification_of_every_item_reports_a_damaged_item(miniature):
    dataset = miniature("pets")
    spec = replace(DATASETS["pets"], sizes={"train": 4}, classes=3)
    dataset.expected.files["images/american_bulldog_3.jpg"].write_bytes(b"")
    assert list(verify_dataset(spec, dataset.data_dir))
    with pytest.raises(FungiError, match="american_bulldog_3"):
        list(verify_dataset(spec, dataset.data_dir, every_item=True))


def test_verify_prints_a_line_per_split(capsys, tmp_path):
    verify(VerifySettings(dataset="digits", data_dir=tmp_path))
    assert capsys.readouterr().out.startswith("digits train: 1,257 rows of 10 classes")


@pytest.mark.parametrize(("name", "text"), [("cars", "Use scripts/prepare.py"), ("digits", "needs no download")])
def test_a_dataset_that_cannot_be_downloaded_is_explained(name, text, tmp_path):
    with pytest.raises(FungiError, match=rf"'{name}' can't be downloaded.*{text}.*downloaded: .*aircraft, .*cifar10"):
        download(DownloadSettings(dataset=name, data_dir=tmp_path))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_docstring_of_a_script_contains_its_command(script):
    text = script.read_text()
    assert f"python scripts/{script.name} " in text.split('"""')[1]
    assert f'program="{script.name}"' in text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), "names no dataset. Choose from: ade20k, cars"),
        (("pets", "eurosat"), "'eurosat' has no archives to unpack. Use scripts/download_dataset.py"),
        (("digits",), "'digits' has no archives to unpack. It comes with a package"),
        (("pest",), "unknown dataset 'pest'. Did you mean 'pets'"),
    ],
)
def test_prepare_refuses_datasets_without_archives(names, text):
    with pytest.raises(FungiError, match=text):
        PrepareSettings(dataset=names)


def test_every_dataset_with_archives_gives_their_source():
    paragraphs = dict(paragraph.split(":\n", 1) for paragraph in sources().split("\n\n"))
    assert sorted(name for names in paragraphs for name in names.split(", ")) == WITH_ARCHIVES
    for text in paragraphs.values():
        assert "downloads" in text


def test_prepare_unpacks_and_verifies_the_selected_datasets(miniature, tmp_path, monkeypatch, capsys):
    dataset, archives = miniature("pets"), tmp_path / "downloads"
    archives.mkdir()
    miniatures()["pets"].pack(dataset.data_dir, archives, monkeypatch)
    sizes = {split: len(rows) for split, rows in dataset.expected.splits.items()}
    monkeypatch.setitem(DATASETS._entries, "pets", replace(DATASETS["pets"], sizes=sizes, classes=3))
    prepare(PrepareSettings(dataset=("pets",), data_dir=tmp_path / "unpacked", archives=archives))
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "pets train: 4 rows of 3 classes",
        "pets test: 3 rows of 3 classes",
    ]
    assert open_split("pets", "train", tmp_path / "unpacked").fingerprint() == dataset.open("train").fingerprint()


@pytest.mark.parametrize("name", [name for name in DATASETS if DATASETS[name].prepare or DATASETS[name].download])
def test_the_error_for_a_missing_dataset_proposes_a_command_that_accepts_it(name, tmp_path):
    with pytest.raises(MissingFilesError) as error:
        open_split(name, "train", tmp_path)
    script, *flags = str(error.value).split("run: python ")[1].split(" (its")[0].split()
    assert Path(__file__).parents[2].joinpath(script).is_file()
    settings_class = PrepareSettings if name in WITH_ARCHIVES else DownloadSettings
    assert script == ("scripts/prepare.py" if name in WITH_ARCHIVES else "scripts/download_dataset.py")
    assert name in parse(settings_class, flags, program="", description="").dataset


def test_a_script_ends_with_one_line_and_status_2_after_a_user_error(tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[2] / "scripts" / "verify_dataset.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--dataset", "cars", "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 2
    first_line, _, error = capsys.readouterr().err.strip().partition("\n")
    assert first_line == "verify_dataset.py: dataset cars"
    assert "\n" not in error
    assert "dataset 'cars': no stanford_cars/devkit/cars_meta.mat" in error


@pytest.mark.slow
def test_listing_dataset_names_does_not_import_a_heavy_library():
    code = "import sys; from fungi.data.base import DATASETS; DATASETS.names(); print(sorted(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for library in ("torch", "torchvision", "datasets", "sklearn", "scipy", "PIL"):
        assert f"'{library}'" not in process.stdout
