"""Mask R-CNN on datasets in the format of COCO: settings, training and scores (spec udi 7.6)."""

import json
import re
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fungi.backbones.checkpoint_files import read_content
from fungi.commands import COMMANDS
from fungi.pretraining import epochs
from fungi.pretraining.dense.coco import CocoImages
from fungi.pretraining.dense.detection import Detection
from fungi.pretraining.dense.detector import coco_scores, mask_rcnn, records
from fungi.pretraining.dense.settings import DetectSettings
from fungi.pretraining.processes import World
from fungi.pretraining.schedules import stepped, warmed_up
from fungi.runtime.seeds import seeded
from fungi.settings import parse
from tests.pretraining.digit_canvases import CATEGORY_IDS, DETECTOR_FLAGS, write_canvases
from tests.pretraining.small import Killed
from tests.pretraining.two_processes import narrow_mask_head, sgd_without_dropout, two_processes


@pytest.fixture
def narrow() -> Iterator[None]:
    with narrow_mask_head():
        yield


def flags(coco: Path, output: Path, *more: str) -> list[str]:
    """Return the flags of a small detector."""
    network = ["--backbone", "digits-vit", "--blocks", "0", "1", "2", "3", "--channels", "16"]
    network += ["--num-workers", "0", "--device", "cpu"]
    return [*network, *DETECTOR_FLAGS, "--coco", str(coco), "--output-dir", str(output), *more]


def perfect_records(images: CocoImages) -> list[dict[str, Any]]:
    """Return the annotations in the format of predictions, like those of a detector that is always right."""
    lines = []
    for entry in images.coco.dataset["annotations"]:
        mask = images.coco.annToRLE(entry)
        line = {name: entry[name] for name in ("image_id", "category_id", "bbox")}
        lines.append(line | {"score": 0.9, "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()}})
    return lines


def test_perfect_boxes_and_masks_score_one(coco: Path) -> None:
    images = CocoImages(coco, "val2017")
    scores = coco_scores(images, perfect_records(images))
    assert scores == dict.fromkeys(scores, pytest.approx(1.0))
    assert set(scores) == {f"{kind} {name}" for kind in ("box", "mask") for name in ("AP", "AP50", "AP75")}


def test_wrong_classes_or_no_objects_score_about_zero(coco: Path) -> None:
    images = CocoImages(coco, "val2017")
    lines = perfect_records(images)
    for line in lines:
        line["category_id"] = CATEGORY_IDS[(CATEGORY_IDS.index(line["category_id"]) + 1) % 10]
    assert coco_scores(images, [])["box AP"] == 0.0
    assert (
        coco_scores(images, lines)["box AP"] < 0.2
    )  # not 0: a canvas has two digits, and the wrong class of a digit can be the class of the other


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # from pycocotools with numpy 2
def test_predictions_are_converted_to_records_of_coco() -> None:
    """Corners become width and height, classes become COCO's numbers, and mask values above one half become 1."""
    from pycocotools.mask import decode

    def mask_of(record: dict[str, Any]) -> list[list[bool]]:
        return decode(record["segmentation"]).astype(bool).tolist()

    masks = torch.zeros(2, 1, 8, 8)
    masks[0, 0, 2:5, 1:7], masks[1, 0, 0, 0] = 0.6, 0.4
    output = {
        "boxes": torch.tensor([[1.0, 2.0, 7.0, 5.0], [0.0, 0.0, 8.0, 8.0]]),
        "scores": torch.tensor([0.75, 0.5]),
        "labels": torch.tensor([1, 3]),
        "masks": masks,
    }

    class Detector(torch.nn.Module):
        def forward(self, images):
            return [output]

    first, second = records(Detector(), torch.zeros(3, 8, 8), image_id=42, class_ids=[5, 7, 90])
    assert (first["image_id"], first["category_id"], second["category_id"]) == (42, 5, 90)
    assert first["bbox"] == [1.0, 2.0, 6.0, 3.0]
    assert mask_of(first) == (masks[0, 0] > 0).tolist()
    assert mask_of(second) == (masks[1, 0] > 0.5).tolist()


def test_rates_warm_up_and_drop_at_the_published_epochs() -> None:
    rates = warmed_up(stepped(peak=5e-5, epochs=12, steps=10, drops=(8, 11)), warmup=5, first=1e-3)
    assert rates[0] == pytest.approx(5e-8)
    assert rates[5:80] == pytest.approx(np.full(75, 5e-5))
    assert rates[80:110] == pytest.approx(np.full(30, 5e-6))
    assert rates[110:] == pytest.approx(np.full(10, 5e-7))
    assert (np.diff(rates[:6]) > 0).all()


def remove_annotations(root: Path) -> None:
    (root / "annotations" / "instances_train2017.json").unlink()


def truncate_annotations(root: Path) -> None:
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text()[:100])


def remove_an_image_from_the_list(root: Path) -> None:
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"images": content["images"][1:]}))


def remove_an_image_file(root: Path) -> None:
    (root / "train2017" / f"{1:012d}.png").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_annotations, r"there is no file .*instances_train2017.json"),
        (truncate_annotations, r"instances_val2017.json is not a file of COCO's annotations"),
        (remove_an_image_from_the_list, "has annotations of 1 images that it does not list, for example of image 1"),
        (remove_an_image_file, "there is no file .*train2017/000000000001.png"),
    ],
)
def test_the_message_names_missing_files_and_files_that_do_not_match(
    damage, message: str, coco: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(coco, tmp_path / "coco")
    damage(tmp_path / "coco")
    assert COMMANDS["detect"].main(flags(tmp_path / "coco", tmp_path / "run")) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--blocks", "0", "1", "2", "9"], "the network has only the blocks 0 to 3"),
        (["--blocks", "0", "2", "1", "3"], "four numbers in ascending order"),
        (["--crop", "64", "48"], "use two numbers, first the smallest side"),
    ],
)
def test_impossible_settings_are_refused(more: list[str], message: str, coco: Path, tmp_path: Path, capsys) -> None:
    assert COMMANDS["detect"].main(flags(coco, tmp_path / "run", *more)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_detector_takes_images_of_any_size() -> None:
    settings = DetectSettings(
        backbone="digits-vit", blocks=(0, 1, 2, 3), short_sides=(40,), longest_side=80, channels=16
    )
    model = mask_rcnn(settings.load_network(), 3, settings).eval()
    with torch.no_grad():
        outputs = model([torch.rand(3, 37, 51), torch.rand(3, 20, 90)])
    assert [output["masks"].shape[2:] for output in outputs] == [(37, 51), (20, 90)]


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_an_interrupted_run_resumes_with_the_same_bits(coco: Path, tmp_path: Path, monkeypatch) -> None:
    learn = epochs.EpochTraining._learn

    def die_in_epoch_1(self, epoch: int) -> float:
        if epoch == 1:
            raise Killed
        return learn(self, epoch)

    assert COMMANDS["detect"].main(flags(coco, tmp_path / "uninterrupted", "--epochs", "2")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(epochs.EpochTraining, "_learn", die_in_epoch_1)
        with pytest.raises(Killed):
            COMMANDS["detect"].main(flags(coco, tmp_path / "resumed", "--epochs", "2"))
    assert COMMANDS["detect"].main(flags(coco, tmp_path / "resumed", "--epochs", "2")) == 0
    uninterrupted, resumed = (
        torch.load(tmp_path / name / "checkpoint.pth", weights_only=True) for name in ("uninterrupted", "resumed")
    )
    assert uninterrupted["history"] == resumed["history"]
    for name, value in uninterrupted["model"].items():
        assert torch.equal(value, resumed["model"][name]), name


def losses_of_both(run: Detection, step: int, rows: list[tuple[int, int]]) -> torch.Tensor:
    """Return the mean of the losses of two images, with the random draws of two processes.

    Both images pass through the pyramid together. Then each image has the random draws of its process.
    """
    model, (images, targets) = run.model, zip(*(run.images[row] for row in rows), strict=True)
    pixels = [image.float() / 255 for image in images]
    maps = model.backbone(model.transform(pixels, list(targets))[0].tensors)
    total = torch.zeros(())
    for rank in range(2):
        with seeded(run.settings.seed, "detect", step, rank):
            image, target = model.transform(pixels[rank : rank + 1], list(targets[rank : rank + 1]))
            own_maps = {name: level[rank : rank + 1] for name, level in maps.items()}
            proposals, rpn_losses = model.rpn(image, own_maps, target)
            _, head_losses = model.roi_heads(own_maps, proposals, image.image_sizes, target)
        total = total + sum((rpn_losses | head_losses).values())
    return total / 2


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_process_that_normalises_over_both_images(
    coco: Path, tmp_path: Path
) -> None:
    """Each process has one image. The tolerance allows sums in another order, but not statistics of one image."""
    common = ["--lr", "0.02", "--drop-path", "0"]
    of_two = flags(coco, tmp_path / "two", *common, "--batch-size", "1")
    arguments = flags(coco, tmp_path / "one", *common)
    with two_processes("detect", *of_two, simple=True), sgd_without_dropout():
        settings = parse(DetectSettings, arguments, program="detect", description="")
        run = Detection(settings, settings.load_network(), World(), torch.device("cpu"))
        run.model.train()
        for step, rows in enumerate(islice(run.plan.parts(rank=0, first_step=0), run.steps)):
            run.optimizer.zero_grad()
            losses_of_both(run, step, rows).backward()
            for group in run.optimizer.param_groups:
                group["lr"] = run.rates[step]
            run.optimizer.step()
    weights_of_two = read_content(tmp_path / "two" / "checkpoint.pth")["model"]
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, weights_of_two[name], rtol=1e-3, atol=1e-5, msg=name)


def test_splits_of_different_classes_are_refused(coco: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(coco, tmp_path / "coco")
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"categories": [*content["categories"], {"id": 90, "name": "ten"}]}))
    assert COMMANDS["detect"].main(flags(tmp_path / "coco", tmp_path / "run")) == 2
    assert "have different classes" in capsys.readouterr().err


def test_the_default_settings_are_the_published_settings() -> None:
    """The published settings are in spec udi 7.6."""
    settings = DetectSettings(arch="vit_small")
    assert settings.blocks == (3, 5, 7, 11)
    assert (settings.epochs, settings.lr_drops, settings.warmup_steps, settings.batch_size) == (12, (8, 11), 1000, 1)
    assert (settings.lr, settings.weight_decay, settings.drop_path, settings.channels) == (5e-5, 0.05, 0.05, 256)
    assert (settings.short_sides[0], settings.short_sides[-1], settings.longest_side) == (480, 800, 1333)
    assert (settings.crop_short_sides, settings.crop) == ((400, 500, 600), (384, 600))


def remove_the_last_object(root: Path) -> None:
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": content["annotations"][:-1]}))


def swap_two_images(root: Path) -> None:
    first, second = (root / "train2017" / f"{number:012d}.png" for number in (1, 2))
    pixels = first.read_bytes()
    shutil.copy(second, first)
    second.write_bytes(pixels)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("change", "part"), [(remove_the_last_object, "scored annotations"), (swap_two_images, "train images")]
)
def test_a_run_does_not_resume_with_other_data_under_the_same_names(
    change, part: str, coco: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(coco, tmp_path / "coco")
    words = flags(tmp_path / "coco", tmp_path / "run", "--batch-size", "6")
    assert COMMANDS["detect"].main(words) == 0
    change(tmp_path / "coco")
    assert COMMANDS["detect"].main(words) == 2
    assert f"is of a run with {part} = " in capsys.readouterr().err


def test_anchors_have_a_side_of_eight_cells_and_three_shapes() -> None:
    settings = DetectSettings(backbone="udi-vitt16", random_init=True, channels=8)
    model = mask_rcnn(settings.load_network(), 3, settings)
    assert model.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert model.rpn.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),) * 5


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_digits_on_canvases_are_detected_after_little_training(tmp_path: Path) -> None:
    """Measured: an AP50 of 0.16 for boxes and masks with 160 canvases, 0.09 and 0.06 with 100, and 0 with six."""
    root = write_canvases(tmp_path / "coco", {"train2017": 160, "val2017": 6})
    assert COMMANDS["detect"].main(flags(root, tmp_path / "run", "--channels", "32")) == 0
    results = json.loads((tmp_path / "run" / "result.json").read_text())["results"]
    assert results["box AP50"] > 0.1
    assert results["mask AP50"] > 0.1
