"""`imagenet-1k`: ILSVRC 2012; the test split is the official validation set.

The folders `train/` and `val/` contain class folders, whose names are WordNet ids. torchvision's `ImageNet` unpacks the
official archives in this way. Class names come from `meta.bin`. Without this file, WordNet ids are the class names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.archives import atomic_folder, find_archive, is_there
from fungi.data.formats.image_folders import class_folder_samples, class_folders
from fungi.data.places import Place, reading
from fungi.errors import FungiError
from fungi.runtime.log import logger

PLACE = Place(dataset="imagenet-1k", folders=("imagenet-1k", "imagenet"), needs=())
_FOLDERS = {"train": "train", "test": "val"}


def _open(data_dir: Path, split: str) -> Samples:
    folder = _FOLDERS[split]
    root = PLACE.find(data_dir, folder)
    folder_of_classes = "train" if (root / "train").is_dir() else folder
    samples = class_folder_samples(root, folder, class_folders(root / folder_of_classes))
    if not (root / "meta.bin").is_file():
        return samples
    from torchvision.datasets.imagenet import load_meta_file

    with reading(PLACE, root / "meta.bin"):
        names, _ = load_meta_file(str(root))
        return replace(samples, class_names=[names[wordnet_id][0] for wordnet_id in samples.class_names])


def _prepare(data_dir: Path, archives: Path) -> None:
    """Unpack the three official archives; torchvision verifies their checksums."""
    from torchvision.datasets import imagenet

    home = PLACE.home(data_dir)
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "meta.bin").exists():
        with _unpacking(archives, "devkit") as file:
            imagenet.parse_devkit_archive(str(home), file=file)
    for folder, parse in (("train", imagenet.parse_train_archive), ("val", imagenet.parse_val_archive)):
        if is_there(home / folder):
            continue
        with _unpacking(archives, folder) as file, atomic_folder(home / folder) as work:
            parse(str(home), file=file, folder=work.name)


@contextmanager
def _unpacking(archives: Path, part: str) -> Iterator[str]:
    """Yield the path of an archive. Convert errors in the `with` statement to a FungiError of one line.

    part: name of the archive in torchvision, `devkit`, `train` or `val`.
    """
    from torchvision.datasets.imagenet import ARCHIVE_META

    file = str(find_archive(archives, ARCHIVE_META[part][0]).absolute())
    logger.info("unpacking %s", file)
    try:
        yield file
    except RuntimeError as error:
        raise FungiError(f"dataset 'imagenet-1k': {error} Download {file} again.") from error


register_dataset(
    name="imagenet-1k",
    title="ImageNet-1k (ILSVRC 2012)",
    classes=1000,
    sizes={"train": 1281167, "test": 50000},
    open=_open,
    prepare=_prepare,
    archives=(
        "# 150 GB; into downloads, with an account of image-net.org: ILSVRC2012_devkit_t12.tar.gz,",
        "# ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar. An ImageNet that is unpacked already needs only a link:",
        "# ln -s /path/to/imagenet data/imagenet-1k",
    ),
    notes="test is the official validation set",
)
