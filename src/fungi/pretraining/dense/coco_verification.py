"""Verify COCO on disk before a long training run: annotations, numbers of images and classes, readable images."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fungi.errors import FungiError
from fungi.pretraining.dense.coco import CocoImages
from fungi.runtime.log import progress
from fungi.settings import setting

IMAGES = {"train2017": 118_287, "val2017": 5_000}
CLASSES = 80


@dataclass(frozen=True, kw_only=True)
class VerifyCocoSettings:
    """Flags of `verify_coco.py`."""

    coco: Path = setting(Path("data/coco"), "folder of COCO", topic="data")
    every_item: bool = setting(False, "read every image, not only the first and the last image of each split")


def verify(settings: VerifyCocoSettings) -> None:
    """Print one line per split. Raises FungiError if a split differs from the published split."""
    for line in verify_coco(settings.coco.expanduser(), IMAGES, CLASSES, every_item=settings.every_item):
        print(line)


def verify_coco(root: Path, published: dict[str, int], classes: int, *, every_item: bool = False) -> Iterator[str]:
    """Verify each split, and yield a line about it.

    published: number of images of each split. classes: number of classes. Raises FungiError if a split has other
    numbers, or if an image is missing or damaged.
    """
    for split, expected in published.items():
        images = CocoImages(root, split)
        if (len(images), len(images.class_ids)) != (expected, classes):
            raise FungiError(
                f"{images.annotation_file} has {len(images)} images of {len(images.class_ids)} classes, but the "
                f"published split has {expected} of {classes}. Unpack it again into an empty folder."
            )
        for row in progress(range(expected) if every_item else (0, expected - 1), label=split):
            images[row]  # raises an error if the image can't be read
        verified = "every image" if every_item else "first and last image"
        objects = len(images.coco.anns)
        yield f"coco {split}: {expected} images, {objects} objects of {classes} classes, {verified} readable"
