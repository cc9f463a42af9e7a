"""Datasets in the format of COCO: which objects are read, how images are augmented, and the verification."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.errors import FungiError
from fungi.pretraining.dense.coco import CocoImages, TrainImages
from fungi.pretraining.dense.coco_verification import verify_coco
from fungi.pretraining.dense.settings import DetectSettings
from tests.pretraining.digit_canvases import CATEGORY_IDS, SIDE


def train_images(coco: Path, short_sides: tuple[int, ...], crop: tuple[int, int]) -> TrainImages:
    """Return the augmented train images. short_sides, crop: sizes in pixels, as in the settings."""
    settings = DetectSettings(backbone="digits-vit", crop_short_sides=short_sides, crop=crop)
    return TrainImages(CocoImages(coco, "train2017", with_objects=True), settings)


def test_augmented_boxes_fit_their_masks_and_depend_only_on_epoch_and_image(coco: Path) -> None:
    images = train_images(coco, (64, 80), (40, 60))
    distinct_images = set()
    for epoch in range(4):
        for row in range(6):
            pixels, target = images[epoch, row]
            again, _ = images[epoch, row]
            assert torch.equal(pixels, again)
            distinct_images.add((row, pixels.float().mean().item(), tuple(pixels.shape)))
            assert target["masks"].shape[1:] == pixels.shape[1:]
            for (x1, y1, x2, y2), mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
                ys, xs = mask.nonzero(as_tuple=True)
                if len(xs):  # resizing rounds positions to whole pixels
                    assert x1 - 1.5 <= xs.min()
                    assert xs.max() <= x2 + 0.5
                    assert y1 - 1.5 <= ys.min()
                    assert ys.max() <= y2 + 0.5
    assert len(distinct_images) > 12  # of 24: an image does not look the same in every epoch


def test_crowds_boxes_without_area_and_images_without_objects_are_left_out(coco: Path, tmp_path: Path, caplog) -> None:
    shutil.copytree(coco, tmp_path / "coco")
    path = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    first, second = (entry["id"] for entry in content["images"][:2])
    for entry in content["annotations"]:
        if entry["image_id"] == first:
            entry["iscrowd"] = 1
        if entry["image_id"] == second:
            entry["bbox"][2] = 0
    path.write_text(json.dumps(content))
    images = CocoImages(tmp_path / "coco", "train2017", with_objects=True)
    assert images.ids == [3, 4, 5, 6]
    assert CocoImages(tmp_path / "coco", "train2017").ids == [1, 2, 3, 4, 5, 6]
    with caplog.at_level("INFO"):
        images.log_unused_images_and_objects()
    assert "2 crowds, 2 boxes below one pixel, 2 images without objects" in caplog.text


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # from pycocotools with numpy 2
def test_boxes_of_the_canvases_are_the_tight_boxes_of_their_masks(coco: Path) -> None:
    """pycocotools decodes the masks, so the canvases have COCO's format."""
    index = CocoImages(coco, "val2017").coco
    for entry in index.dataset["annotations"]:
        mask = index.annToMask(entry)
        ys, xs = np.nonzero(mask)
        assert mask.shape == (SIDE, SIDE)
        assert entry["bbox"] == [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
        assert entry["area"] == mask.sum()


def test_the_message_about_a_missing_pycocotools_says_how_to_install_it(coco: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(FungiError, match="pip install pycocotools"):
        CocoImages(coco, "val2017")


def test_an_image_of_another_size_than_its_annotations_is_refused(coco: Path, tmp_path: Path) -> None:
    shutil.copytree(coco, tmp_path / "coco")
    Image.new("RGB", (SIDE, SIDE - 1)).save(tmp_path / "coco" / "val2017" / f"{2:012d}.png")
    images = CocoImages(tmp_path / "coco", "val2017")
    assert images[0][0].size == (SIDE, SIDE)
    with pytest.raises(FungiError, match=r"2.png of COCO has 64 x 63 pixels, but its annotations are for 64 x 64"):
        images[1]


def test_verification_finds_missing_and_unreadable_images(coco: Path, tmp_path: Path) -> None:
    published = {"train2017": 6, "val2017": 3}
    lines = list(verify_coco(coco, published, classes=10, every_item=True))
    assert lines[1] == "coco val2017: 3 images, 6 objects of 10 classes, every image readable"
    with pytest.raises(FungiError, match="6 images of 10 classes, but the published split has 7 of 10"):
        list(verify_coco(coco, {"train2017": 7}, classes=10))
    shutil.copytree(coco, tmp_path / "coco")
    (tmp_path / "coco" / "val2017" / f"{2:012d}.png").write_bytes(b"not an image")
    assert len(list(verify_coco(tmp_path / "coco", published, classes=10))) == 2
    with pytest.raises(FungiError, match=r"can't read .*000000000002.png"):
        list(verify_coco(tmp_path / "coco", published, classes=10, every_item=True))


def test_about_half_of_the_images_are_cropped(coco: Path) -> None:
    """All crops are smaller than the canvas here, so the size of an image shows whether it was cropped."""
    images = train_images(coco, (64,), (40, 56))
    cropped = [images[epoch, row][0].shape[1] < SIDE for epoch in range(20) for row in range(6)]
    assert 0.3 < sum(cropped) / len(cropped) < 0.6  # below one half: a crop without a digit is replaced by the image


def test_labels_are_positions_among_the_sorted_classes_counted_from_one(coco: Path) -> None:
    """In torchvision's detectors, 0 is the background. Images without a crop keep all their objects."""
    images = train_images(coco, (64,), (64, 64))
    for row in range(6):
        _, objects = images.images[row]
        numbers = [entry["category_id"] for entry in objects]
        assert images[0, row][1]["labels"].tolist() == [1 + CATEGORY_IDS.index(number) for number in numbers]
