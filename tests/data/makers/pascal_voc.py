"""Images, palette masks (255 is void) and lists, in the layout that segmentation projects use for Pascal VOC 2012."""

from pathlib import Path

import numpy as np
import pytest

from fungi.data.sets.pascal_voc import CLASSES
from tests.data.makers.masks import write_palette_mask
from tests.data.makers.miniature import Miniature, file_rows, files_below, tar_folders, write_lines, zip_folders

LISTS = {
    "train": ("trainaug", ["2007_000032", "2008_000002", "2011_003011"]),
    "test": ("val", ["2007_000033", "2009_1"]),
}
FOLDERS = {"train": "SegmentationClassAug", "test": "SegmentationClass"}
INSIDE = "VOCdevkit/VOC2012"


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root, splits = data_dir / "pascal-voc", {}
    for split, (listed, names) in LISTS.items():
        write_lines(root / "sets" / f"{listed}.txt", names)
        splits[split] = file_rows(root, [(f"images/{name}.jpg", 0) for name in names])
        for number, name in enumerate(names):
            values = np.full((10, 12), number)  # images are 12 wide and 10 high
            values[0] = 255
            write_palette_mask(root / FOLDERS[split] / f"{name}.png", values)
    return Miniature(splits, class_names=list(CLASSES), files=files_below(root, splits))


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    root = data_dir / "pascal-voc"
    folders = {
        f"{INSIDE}/JPEGImages": root / "images",
        f"{INSIDE}/SegmentationClass": root / "SegmentationClass",
        f"{INSIDE}/ImageSets/Segmentation/val.txt": root / "sets" / "val.txt",
    }
    tar_folders(archives / "VOCtrainval_11-May-2012.tar", folders, "w")
    zip_folders(archives / "SegmentationClassAug.zip", {"SegmentationClassAug": root / "SegmentationClassAug"})
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in LISTS["train"][1]]
    write_lines(archives / "trainaug.txt", lines)
