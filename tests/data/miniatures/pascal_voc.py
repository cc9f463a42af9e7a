"""Pascal VOC 2012: images, palette masks (255 is void) and lists, as segmentation projects store them."""

from pathlib import Path

import numpy as np
import pytest

from fungi.data.sets.pascal_voc import CLASSES
from tests.data.miniatures.masks import write_palette_mask
from tests.data.miniatures.miniature import Miniature, file_rows, files_below, tar_folders, write_lines, zip_folders

LISTS = {
    "train": ("trainaug", ["2007_000032", "2008_000002", "2011_003011"]),
    "test": ("val", ["2007_000033", "2009_1"]),
}
FOLDERS = {"train": "SegmentationClassAug", "test": "SegmentationClass"}
PATH_IN_ARCHIVE = "VOCdevkit/VOC2012"


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root, splits = data_dir / "pascal-voc", {}
    for split, (list_name, names) in LISTS.items():
        write_lines(root / "sets" / f"{list_name}.txt", names)
        splits[split] = file_rows(root, [(f"images/{name}.jpg", 0) for name in names])
        for number, name in enumerate(names):
            values = np.full((10, 12), number)  # images are 12 wide and 10 high
            values[0] = 255
            write_palette_mask(root / FOLDERS[split] / f"{name}.png", values)
    return Miniature(splits, class_names=list(CLASSES), files=files_below(root, splits))


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    root = data_dir / "pascal-voc"
    folders = {
        f"{PATH_IN_ARCHIVE}/JPEGImages": root / "images",
        f"{PATH_IN_ARCHIVE}/SegmentationClass": root / "SegmentationClass",
        f"{PATH_IN_ARCHIVE}/ImageSets/Segmentation/val.txt": root / "sets" / "val.txt",
    }
    tar_folders(archives / "VOCtrainval_11-May-2012.tar", folders, "w")
    zip_folders(archives / "SegmentationClassAug.zip", {"SegmentationClassAug": root / "SegmentationClassAug"})
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in LISTS["train"][1]]
    write_lines(archives / "trainaug.txt", lines)
