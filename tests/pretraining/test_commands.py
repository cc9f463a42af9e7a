"""`fungi evaluate-encoder` and `fungi attention-maps` as commands (spec udi 7)."""

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
    """The weights of a small network, as `fungi pretrain` writes them."""
    path = tmp_path_factory.mktemp("run") / "checkpoint.pth"
    save_checkpoint(path, learner_of(settings(patch_size=4)), epoch=1, arguments={}, run={})
    return path


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """Two classes that differ in brightness, 16 train and 6 test images each."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 16), ("val", 6)):
        for label, level in (("dark", 40), ("bright", 200)):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng([number, level]).integers(-30, 30, (40, 32, 3))
                Image.fromarray((level + noise).astype(np.uint8)).save(root / split / label / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("flags", "scored"),
    [
        (["--k", "1", "5", "100"], {"k=1": ["accuracy", "top5"], "k=5": ["accuracy", "top5"]}),
        (["--task", "linear", "--epochs", "20", "--lr", "5"], {"linear": ["accuracy", "last-accuracy"]}),
        pytest.param(
            ["--task", "logistic", "--regularization", "0.01", "1", "--train-share", "0.5"],
            {"l2=0.01": ["accuracy"], "l2=1": ["accuracy"]},
            marks=pytest.mark.slow,  # its solver is a process of its own
        ),
    ],
)
def test_the_command_scores_an_encoder_in_the_published_words(
    checkpoint, classes, tmp_path, capsys, flags, scored
) -> None:
    output = tmp_path / "scores.json"
    given = ["--data_path", str(classes), "--pretrained_weights", str(checkpoint), "--arch", "vit_micro"]
    given += ["--batch_size_per_gpu", "8", "--features", "cls", "concat", "--device", "cpu", "--output", str(output)]
    assert COMMANDS["evaluate-encoder"].main([*given, *flags]) == 0
    content = json.loads(output.read_text())
    assert list(content["results"]) == ["cls", "concat"]
    for scores in content["results"].values():
        assert {name: list(values) for name, values in scores.items()} == scored
        assert all(values["accuracy"] == 1.0 for values in scores.values())
    (features,) = content["provenance"]["features"]
    assert features["test"]["cls"]["provenance"]["weights_source"] == f"checkpoint {checkpoint}"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["cls", next(iter(scored)), "accuracy", "100.00", *printed[0].split()[4:]]
    assert printed[-1] == f"wrote {output}"


def test_rows_to_score_are_not_those_of_train(classes, tmp_path) -> None:
    listing = tmp_path / "few.txt"
    listing.write_text("train/dark/0.png\ntrain/bright/3.png\n")
    for changed, count in (({}, 32), ({"train_share": 0.25}, 8), ({"train_list": listing}, 2)):
        train, scored = EvaluateSettings(arch="vit_micro", data_path=classes, **changed).open_rows()
        assert (len(train), len(scored)) == (count, 12)
        assert not set(train.ids) & set(scored.ids)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--arch", "vit_micro", "--features", "cls++"], "cls++"),
        (["--arch", "vit_huge"], "vit_huge"),
        ([], "name one network"),
        (["--arch", "vit_micro", "--k", "33"], "k = 33 is too large: only 32 train rows can vote"),
        (["--backbone", "efficientnet-lite0"], "is not a vision transformer of timm with a class token"),
        (["--arch", "vit_micro", "--checkpoint", "nowhere.pth"], "there is no checkpoint nowhere.pth"),
    ],
)
def test_invalid_input_of_the_command_is_named(classes, flags, said, capsys) -> None:
    random = [] if "--checkpoint" in flags else ["--random-init"]
    assert COMMANDS["evaluate-encoder"].main(["--data_path", str(classes), "--device", "cpu", *random, *flags]) == 2
    assert said in capsys.readouterr().err


def test_the_command_writes_the_attention_of_both_tokens(checkpoint, tmp_path, capsys) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    out = tmp_path / "maps"
    flags = [
        "--backbone",
        "udi-micro",
        "--pretrained_weights",
        str(checkpoint),
        "--image_path",
        str(tmp_path / "photo.png"),
    ]
    assert COMMANDS["attention-maps"].main([*flags, "--image-size", "42", "--output-dir", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote 9 pictures to {out}\n"
    assert len(list(out.iterdir())) == 9
    with Image.open(out / "attn-plus-head3.png") as picture:
        assert picture.size == (40, 40)  # cut to whole patches
    assert COMMANDS["attention-maps"].main([*flags, "--image-path", str(tmp_path / "none.png")]) == 2
    assert "none.png" in capsys.readouterr().err


def test_the_command_takes_a_row_of_a_dataset(checkpoint, classes, tmp_path, capsys) -> None:
    flags = [
        "--backbone",
        "udi-micro",
        "--checkpoint",
        str(checkpoint),
        "--dataset",
        f"own=folder:{classes}",
        "--row",
        "3",
        "--image-size",
        "32",
    ]
    assert COMMANDS["attention-maps"].main([*flags, "--output-dir", str(tmp_path), "--threshold", "0.5"]) == 0
    assert len(list(tmp_path.iterdir())) == 17
    with Image.open(tmp_path / "img.png") as picture, Image.open(classes / "train" / "bright" / "11.png") as expected:
        assert np.array_equal(np.asarray(picture), np.asarray(expected.resize((32, 32))))
    assert COMMANDS["attention-maps"].main([*flags, "--row", "32"]) == 2
    assert "has 32 rows, from 0" in capsys.readouterr().err
