"""ImageNet-1k: folders named by WordNet id, and the `meta.bin` of torchvision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import imagenet

from tests.data.miniatures.miniature import Miniature, file_rows, files_below, md5, tar_folders, write_lines

NAMES = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",)}
TRAIN = ["n01440764/n01440764_10026.JPEG", "n01440764/n01440764_9.JPEG", "n01443537/n01443537_2.JPEG"]
VAL = ["n01440764/ILSVRC2012_val_00000002.JPEG", "n01443537/ILSVRC2012_val_00000001.JPEG"]


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "imagenet-1k"
    splits = {
        split: file_rows(root, [(f"{folder}/{name}", sorted(NAMES).index(name.split("/")[0])) for name in names])
        for split, folder, names in (("train", "train", TRAIN), ("test", "val", VAL))
    }
    torch.save((NAMES, ["n01443537", "n01440764"]), root / "meta.bin")
    return Miniature(splits, class_names=["tench", "goldfish"], files=files_below(root, splits))


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    """Write the official archives. Train is an archive of one archive per class.

    The devkit contains the classes of the validation images and the WordNet nodes. One of these nodes is not a class.
    """
    root = data_dir / "imagenet-1k"
    for wordnet_id in NAMES:
        images = {path.name: path for path in sorted((root / "train" / wordnet_id).iterdir())}
        tar_folders(archives / f"{wordnet_id}.tar", images, "w")
    class_archives = {f"{wordnet_id}.tar": archives / f"{wordnet_id}.tar" for wordnet_id in NAMES}
    tar_folders(archives / "ILSVRC2012_img_train.tar", class_archives, "w")
    tar_folders(archives / "ILSVRC2012_img_val.tar", {Path(name).name: root / "val" / name for name in VAL}, "w")
    data = archives / "devkit" / "data"
    data.mkdir(parents=True)
    fields = [(name, object) for name in ("ID", "WNID", "words", "gloss", "num_children", "children")]
    nodes = [(number, key, ", ".join(words), "", 0, 0) for number, (key, words) in enumerate(NAMES.items(), 1)]
    nodes.append((3, "n00000001", "fish", "", 2, 1))
    savemat(data / "meta.mat", {"synsets": np.array(nodes, dtype=fields)})
    write_lines(data / "ILSVRC2012_validation_ground_truth.txt", ["2", "1"])
    tar_folders(archives / "ILSVRC2012_devkit_t12.tar.gz", {"ILSVRC2012_devkit_t12": archives / "devkit"})
    checksums = {part: (name, md5(archives / name)) for part, (name, _) in imagenet.ARCHIVE_META.items()}
    patch.setattr(imagenet, "ARCHIVE_META", checksums)
