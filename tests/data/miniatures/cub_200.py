"""CUB-200: text tables with lines `id value`, for images, classes and splits (1 is train)."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, file_rows, files_below, tar_folders, write_lines

CLASSES = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
IMAGES = [
    (CLASSES[1], "B_7.jpg", 1),
    (CLASSES[0], "A_2.jpg", 0),
    (CLASSES[0], "A_1.jpg", 1),
    (CLASSES[1], "B_1.jpg", 0),
]


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "cub" / "CUB_200_2011"
    write_lines(root / "classes.txt", [f"{number} {name}" for number, name in enumerate(CLASSES, 1)])
    images = [f"{number} {folder}/{file}" for number, (folder, file, _) in enumerate(IMAGES, 1)]
    write_lines(root / "images.txt", images)
    write_lines(root / "train_test_split.txt", [f"{number} {train}" for number, (*_, train) in enumerate(IMAGES, 1)])
    splits = {}
    for split, value in (("train", 1), ("test", 0)):
        rows = [(f"images/{folder}/{file}", CLASSES.index(folder)) for folder, file, train in IMAGES if train == value]
        splits[split] = file_rows(root, rows)
    return Miniature(splits, class_names=CLASSES, files=files_below(root, splits))


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    tar_folders(archives / "CUB_200_2011.tgz", {"CUB_200_2011": data_dir / "cub" / "CUB_200_2011"})
