"""The commands `fungi udi evaluate` and `fungi udi attention-maps`, by their earlier names (spec udi 7)."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fungi.commands import COMMANDS
from fungi.pretraining.transfer.evaluate import EvaluateSettings
from fungi.pretraining.udi.checkpoints import save_checkpoint
from tests.pretraining.small import learner_of, settings


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Return a checkpoint of a small network, as `fungi udi pretrain` writes it."""
    path = tmp_path_factory.mktemp("run") / "checkpoint.pth"
    save_checkpoint(path, learner_of(settings(patch_size=4)), epoch=1, arguments={}, run={})
    return path


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """Return a folder of two classes that differ in brightness, with 16 train and 6 test images each."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 16), ("val", 6)):
        for label, level in (("dark", 40), ("bright", 200)):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng([number, level]).integers(-30, 30, (40, 32, 3))
                Image.fromarray((level + noise).astype(np.uint8)).save(root / split / label / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("flags", "scores"),
    [
        (["--k", "1", "5", "100"], {"k=1": ["accuracy", "top5"], "k=5": ["accuracy", "top5"]}),
        (["--task", "linear", "--epochs", "20", "--lr", "5"], {"linear": ["accuracy", "last-accuracy"]}),
        pytest.param(
            ["--task", "logistic", "--regularization", "0.01", "1", "--train-share", "0.5"],
            {"l2=0.01": ["accuracy"], "l2=1": ["accuracy"]},
            marks=pytest.mark.slow,  # its solver runs in another process
        ),
    ],
)
def test_evaluation_understands_published_flags_and_writes_scores(
    checkpoint, classes, tmp_path, capsys, flags, scores
) -> None:
    output = tmp_path / "scores.json"
    common = ["--data_path", str(classes), "--pretrained_weights", str(checkpoint), "--arch", "vit_micro"]
    common += ["--batch_size_per_gpu", "8", "--features", "cls", "concat", "--device", "cpu", "--output", str(output)]
    assert COMMANDS["evaluate-encoder"].main([*common, *flags]) == 0
    content = json.loads(output.read_text())
    assert list(content["results"]) == ["cls", "concat"]
    for result in content["results"].values():
        assert {name: list(values) for name, values in result.items()} == scores
        assert all(values["accuracy"] == 1.0 for values in result.values())
    (features,) = content["provenance"]["features"]
    assert features["test"]["cls"]["provenance"]["weights_source"] == f"checkpoint {checkpoint}"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:4] == ["cls", next(iter(scores)), "accuracy", "100.00"]
    assert printed[-1] == f"wrote {output}"


def test_train_rows_and_scored_rows_are_different_images(classes, tmp_path) -> None:
    row_list = tmp_path / "few.txt"
    row_list.write_text("train/dark/0.png\ntrain/bright/3.png\n")
    for changed, count in (({}, 32), ({"train_share": 0.25}, 8), ({"train_list": row_list}, 2)):
        train, scored = EvaluateSettings(arch="vit_micro", data_path=classes, **changed).open_rows()
        assert (len(train), len(scored)) == (count, 12)
        assert not set(train.ids) & set(scored.ids)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "vit_micro", "--features", "cls++"], "cls++"),
        (["--arch", "vit_huge"], "vit_huge"),
        ([], "name one network"),
        (["--arch", "vit_micro", "--k", "33"], "k = 33 is too large: only 32 train rows can vote"),
        (["--backbone", "efficientnet-lite0"], "is not a vision transformer of timm with a class token"),
        (["--arch", "vit_micro", "--checkpoint", "nowhere.pth"], "there is no checkpoint nowhere.pth"),
    ],
)
def test_the_message_names_the_invalid_input(classes, flags, message, capsys) -> None:
    weights = [] if "--checkpoint" in flags else ["--random-init"]
    assert COMMANDS["evaluate-encoder"].main(["--data_path", str(classes), "--device", "cpu", *weights, *flags]) == 2
    assert message in capsys.readouterr().err


def test_attention_maps_writes_a_picture_for_each_head_of_both_tokens(checkpoint, tmp_path, capsys) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    output = tmp_path / "maps"
    flags = ["--backbone", "udi-micro", "--pretrained_weights", str(checkpoint)]
    flags += ["--image_path", str(tmp_path / "photo.png")]
    assert COMMANDS["attention-maps"].main([*flags, "--image-size", "42", "--output-dir", str(output)]) == 0
    assert capsys.readouterr().out == f"wrote 9 pictures to {output}\n"  # the image, and 4 heads of 2 tokens
    assert len(list(output.iterdir())) == 9
    with Image.open(output / "attn-plus-head3.png") as picture:
        assert picture.size == (40, 40)  # of 42 pixels, those of complete patches
    assert COMMANDS["attention-maps"].main([*flags, "--image-path", str(tmp_path / "none.png")]) == 2
    assert "none.png" in capsys.readouterr().err


def test_attention_maps_accepts_a_row_of_a_dataset(checkpoint, classes, tmp_path, capsys) -> None:
    flags = ["--backbone", "udi-micro", "--checkpoint", str(checkpoint), "--dataset", f"own=folder:{classes}"]
    flags += ["--row", "3", "--image-size", "32"]
    assert COMMANDS["attention-maps"].main([*flags, "--output-dir", str(tmp_path), "--threshold", "0.5"]) == 0
    assert len(list(tmp_path.iterdir())) == 17  # 9 pictures as in the test above, and 8 masks: 4 heads of 2 tokens
    row_3 = classes / "train" / "bright" / "11.png"  # rows are sorted by file name: 0, 1, 10, 11
    with Image.open(tmp_path / "img.png") as picture, Image.open(row_3) as expected:
        assert np.array_equal(np.asarray(picture), np.asarray(expected.resize((32, 32))))
    assert COMMANDS["attention-maps"].main([*flags, "--row", "32"]) == 2
    assert "has 32 rows, from 0" in capsys.readouterr().err
