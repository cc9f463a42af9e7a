"""The command `fungi segment`: errors name invalid data and flags, and interruptions do not change results."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.commands import COMMANDS
from fungi.data.base import open_split
from fungi.errors import FungiError, MissingFilesError
from fungi.segmentation import memory_bank
from fungi.segmentation.evaluation import prepare
from fungi.segmentation.segment import run
from fungi.segmentation.settings import MAX_NEIGHBOURS, SegmentSettings
from tests.segmentation.own_masks import write_dataset
from tests.segmentation.test_protocol import simple_settings


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Write the dataset of squares, and return its folder."""
    write_dataset(tmp_path / "squares")
    return tmp_path / "squares"


def overwrite(path: Path, values: np.ndarray) -> None:
    """Write a mask with these values."""
    Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((32, 31)), r"'train/images/01\.png': its mask has 31 x 32 pixels, its image 32 x 32"),
        (np.full((32, 32), 3), r"'train/images/01\.png': its mask contains 3, but there are 3 classes, from 0 to 2"),
        (np.full((32, 32), 255), r"'train/images/01\.png': its mask is void \(255\) everywhere"),
        (np.zeros((32, 32, 3)), r"the mask .*01\.png contains colours \(RGB\)"),
    ],
)
def test_an_invalid_mask_is_refused(values: np.ndarray, message: str, squares: Path, tmp_path: Path) -> None:
    overwrite(squares / "train" / "masks" / "01.png", values)
    with pytest.raises(FungiError, match=message):
        run(simple_settings(tmp_path / "out", f"squares=masks:{squares}"))


def test_a_missing_mask_is_refused(squares: Path, tmp_path: Path) -> None:
    (squares / "test" / "masks" / "00.png").unlink()
    with pytest.raises(MissingFilesError, match=r"test/images/00\.png has no mask\. Put one at .*test/masks/00\.png"):
        run(simple_settings(tmp_path / "out", f"squares=masks:{squares}"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"neighbours": 4000}, "k = 4000 is too large: the bank has only 500 patches"),
        ({"memory_size": 4}, "one patch for each of 5 views"),
        ({"images": 6}, "--train-images 6 asks for more training images than there are: 5"),
        ({"input_size": 41}, "--input-size 41 is not a multiple"),
        ({"backbone": "tiny-bert"}, "takes text"),
    ],
)
def test_invalid_flags_are_refused_before_any_computation(
    flags: dict, message: str, squares: Path, tmp_path: Path
) -> None:
    with pytest.raises(FungiError, match=message):
        run(simple_settings(tmp_path / "out", f"squares=masks:{squares}", features=("embeddings",), **flags))
    assert not list(tmp_path.glob("out/banks/*"))  # nothing was computed before the error


def test_an_invalid_mask_of_the_scored_split_is_refused_before_any_computation(squares: Path, tmp_path: Path) -> None:
    overwrite(squares / "test" / "masks" / "02.png", np.full((32, 32), 255))
    with pytest.raises(FungiError, match=r"'test/images/02\.png': its mask is void"):
        run(simple_settings(tmp_path / "out", f"squares=masks:{squares}"))
    assert not list(tmp_path.glob("out/banks/*"))


def test_an_error_names_the_image_with_a_gradient_that_is_not_finite(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def not_finite_in_call_3(latents, *others) -> torch.Tensor:
        calls.append(latents)
        return latents.sum() * (torch.nan if len(calls) == 3 else 1)

    monkeypatch.setattr("fungi.segmentation.dense.contrast", not_finite_in_call_3)
    with pytest.raises(FungiError, match=r"not finite for 'train/images/02\.png'"):
        run(simple_settings(tmp_path / "out", f"squares=masks:{squares}", features=("simclr",)))


def test_datasets_without_masks_and_unknown_features_are_refused() -> None:
    with pytest.raises(FungiError, match="dataset 'digits' has no masks"):
        run(SegmentSettings(dataset="digits"))
    with pytest.raises(FungiError, match="--features 'kl' is not known"):
        SegmentSettings(features=("kl",))


@pytest.mark.parametrize("stage", ["extract", "extract-gradients"])
def test_stages_that_need_the_class_of_an_image_refuse_masks(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", "digit-scenes", "--backbone", "digits-vit", "--root", str(tmp_path)]
    assert COMMANDS[stage].main(flags) != 0
    assert "'digit-scenes' have masks, but no class. Use fungi segment" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_list_of_classes_the_values_of_all_masks_are_the_classes(squares: Path) -> None:
    (squares / "classes.txt").unlink()
    assert list(open_split(f"squares=masks:{squares}", "test", squares).class_names) == [
        "class 0",
        "class 1",
        "class 2",
    ]


def bank_files(root: Path) -> dict[str, bytes]:
    """Return the bytes of all banks and block scores."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted((root / "banks").rglob("*")) if path.is_file()
    }


def scores_of(root: Path) -> dict:
    (path,) = (root / "results").rglob("*.json")
    return json.loads(path.read_text())["results"]


@pytest.mark.slow
def test_interruptions_do_not_change_the_bytes_of_a_run(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is interrupted after every write of a block."""
    flags = {"block_size": 2, "memory_size": 200, "augmentation_epochs": 2, "features": ("embeddings+simclr",)}
    complete = simple_settings(tmp_path / "uninterrupted", f"squares=masks:{squares}", **flags)
    run(complete)
    interrupted = simple_settings(tmp_path / "interrupted", f"squares=masks:{squares}", **flags)

    class Interrupted(Exception):
        pass

    write = memory_bank.Bank.write

    def write_and_stop(self, *arguments) -> None:
        write(self, *arguments)
        raise Interrupted

    monkeypatch.setattr(memory_bank.Bank, "write", write_and_stop)
    interruptions = 0
    while True:
        try:
            run(interrupted)
            break
        except Interrupted:
            interruptions += 1
    assert interruptions == 12  # two banks of two epochs in three blocks each
    assert bank_files(tmp_path / "uninterrupted") == bank_files(tmp_path / "interrupted")
    assert scores_of(tmp_path / "uninterrupted") == scores_of(tmp_path / "interrupted")


@pytest.mark.slow
def test_both_banks_record_the_same_subset_of_images(squares: Path, tmp_path: Path) -> None:
    flags = {"images": 3, "features": ("embeddings+simclr",)}
    run(simple_settings(tmp_path, f"squares=masks:{squares}", **flags))
    manifests = {
        path.parent.name.partition("-")[0]: json.loads(path.read_text())
        for path in tmp_path.glob("banks/*/*/*/bank.json")
    }
    provenances = {name: manifest["provenance"] for name, manifest in manifests.items()}
    assert len(provenances["embeddings"]["images"]) == 3
    assert provenances["embeddings"]["images"] == provenances["embeddings+simclr"]["images"]
    assert provenances["embeddings+simclr"]["support"] in [
        p.parent.name.rpartition("-")[2] for p in tmp_path.glob("banks/*/*/*/bank.json")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("search", ["faiss", "scann"])
def test_approximate_search_states_its_recall(search: str, squares: Path, tmp_path: Path) -> None:
    settings = simple_settings(tmp_path, f"squares=masks:{squares}", features=("embeddings", "simclr"), search=search)
    exact = simple_settings(tmp_path, f"squares=masks:{squares}", features=("embeddings",))
    scores, exact_scores = run(settings)["results"], run(exact)["results"]["embeddings"]
    assert 0.5 < scores["embeddings"]["recall"] <= 1
    assert scores["embeddings"]["mIoU"] == pytest.approx(exact_scores["mIoU"], abs=0.1)
    assert not {"recall", "recall-of-negatives"} & set(exact_scores)
    assert "recall-of-negatives" not in scores["embeddings"]
    assert 0.5 < scores["simclr"]["recall-of-negatives"] <= 1


def test_the_published_profile_keeps_the_zero_rows_of_a_bank_of_few_images(squares: Path, tmp_path: Path) -> None:
    """Three images have fewer patches than the size of the bank, and the rest of its rows are zero."""
    flags = {"images": 3, "neighbours": 90}
    clean, published = (
        prepare(simple_settings(tmp_path, f"squares=masks:{squares}", profile=profile, **flags)).ends()
        for profile in ("clean", "published")
    )
    assert (clean[-1], published) == (300, (*clean, 300 + MAX_NEIGHBOURS))


@pytest.mark.slow
def test_the_published_profile_reports_matching_and_keeps_zero_rows(squares: Path, tmp_path: Path) -> None:
    settings = simple_settings(
        tmp_path, f"squares=masks:{squares}", profile="published", memory_size=64, features=("embeddings+simclr",)
    )
    scores = run(settings)["results"]["embeddings+simclr"]
    assert scores["matched-mIoU"] >= scores["mIoU"]
    manifest = next(json.loads(path.read_text()) for path in tmp_path.glob("banks/*/*/*simclr*/bank.json"))
    assert manifest["ends"][-1] == 64 > manifest["ends"][-2] == 60  # five images with twelve patches each
    assert "neighbour_layout='published'" in manifest["provenance"]["loss"]
    assert next(tmp_path.glob("projections/*")).name.startswith("binary")


@pytest.mark.slow
def test_batch_size_does_not_change_scores(squares: Path, tmp_path: Path) -> None:
    results = [
        run(simple_settings(tmp_path / str(size), f"squares=masks:{squares}", batch_size=size))["results"]
        for size in (1, 4)
    ]
    for feature, scores in results[0].items():
        assert scores["IoU"] == pytest.approx(results[1][feature]["IoU"], abs=2e-3)  # tied votes can change


def test_the_command_prints_a_line_per_feature(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--dataset",
        f"squares=masks:{squares}",
        "--root",
        str(tmp_path),
        "--output",
        str(tmp_path / "result.json"),
    ]
    flags += ["--input-size", "32", "--memory-size", "0", "--features", "embeddings", "--augmentation-epochs", "0"]
    assert COMMANDS["segment"].main(flags) == 0
    assert "embeddings: mIoU " in capsys.readouterr().out
    content = json.loads((tmp_path / "result.json").read_text())
    assert len(content["results"]["embeddings"]["IoU"]) == 3
    assert {"mIoU", "IoU", "pixel-accuracy"} <= set(content["results"]["embeddings"])


def test_masks_of_a_single_class_are_refused_before_any_computation(tmp_path: Path, capsys) -> None:
    """With masks of a single class, every prediction would be correct."""
    for split in ("train", "test"):
        for kind in ("images", "masks"):
            (tmp_path / "mine" / split / kind).mkdir(parents=True)
        for number in range(3):
            mask = np.zeros((32, 32), dtype=np.uint8)
            Image.fromarray(mask).save(tmp_path / "mine" / split / "masks" / f"{number}.png")
            Image.new("RGB", (32, 32), (90 * number,) * 3).save(tmp_path / "mine" / split / "images" / f"{number}.png")
    flags = ["--dataset", f"mine=masks:{tmp_path / 'mine'}", "--root", str(tmp_path / "out"), "--input-size", "32"]
    assert COMMANDS["segment"].main([*flags, "--features", "embeddings", "--neighbours", "3"]) == 2
    assert "contain only class 0 (value 255 is void), so every score would be perfect" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.bin"))
