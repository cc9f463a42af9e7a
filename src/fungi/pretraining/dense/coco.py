"""Read COCO's objects in its published layout: `annotations/instances_*.json` and a folder of images for each split."""

import contextlib
import io
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from fungi.data.formats.image_files import image_samples
from fungi.errors import FungiError, MissingFilesError
from fungi.pretraining.dense.settings import DetectSettings
from fungi.runtime.files import sha256_of
from fungi.runtime.log import logger
from fungi.runtime.seeds import seeded

if TYPE_CHECKING:
    from PIL.Image import Image


class CocoImages(CocoDetection):
    """The images of a split, with the objects to train on.

    Attributes: `coco` is the index of pycocotools. `ids` and `class_ids` are COCO's ids of the images and of the
    classes, in ascending order. The detector numbers the classes from 1 in this order.

    with_objects: whether to leave out images without an object to train on. Raises FungiError if pycocotools is
    missing, or if the file of annotations is missing, damaged, or has annotations of images that it does not list.
    """

    ids: list[int]

    def __init__(self, root: Path, split: str, *, with_objects: bool = False) -> None:
        self.split, self.annotation_file = split, root / "annotations" / f"instances_{split}.json"
        if not self.annotation_file.is_file():
            raise MissingFilesError(
                f"--coco: there is no file {self.annotation_file}. Unpack annotations_trainval2017.zip there."
            )
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
                super().__init__(root / split, str(self.annotation_file))
            annotated = {annotation["image_id"] for annotation in self.coco.dataset["annotations"]}
            unknown = sorted(annotated - set(self.ids))
        except ImportError:
            raise FungiError("detection needs the package pycocotools: pip install pycocotools") from None
        except (ValueError, KeyError, AssertionError, TypeError) as error:
            raise FungiError(
                f"{self.annotation_file} is not a file of COCO's annotations ({error!r}). Unpack it again."
            ) from None
        if unknown:
            raise FungiError(
                f"{self.annotation_file} has annotations of {len(unknown)} images that it does not list, for example"
                f" of image {unknown[0]}. Unpack it again."
            )
        self.class_ids: list[int] = sorted(self.coco.getCatIds())
        if with_objects:
            self.ids = [image_id for image_id in self.ids if self.objects(image_id)]
        names = [self.coco.imgs[image_id]["file_name"] for image_id in self.ids]
        self.samples = image_samples(root / split, names, [0] * len(names))

    def __getitem__(self, row: int) -> "tuple[Image, list[dict[str, Any]]]":
        """Return an image and the annotations of its objects to train on. Raises FungiError if their sizes differ."""
        image, listed = self.samples.load(row), self.coco.imgs[self.ids[row]]
        if image.size != (listed["width"], listed["height"]):
            raise FungiError(
                f"image {listed['file_name']} of COCO has {image.width} x {image.height} pixels, but its annotations"
                f" are for {listed['width']} x {listed['height']} pixels. Unpack COCO again."
            )
        return image, self.objects(self.ids[row])

    def objects(self, image_id: int) -> list[dict[str, Any]]:
        """Return the objects of an image to train on: no crowds, and boxes of at least one pixel in each direction."""
        return [annotation for annotation in self.coco.imgToAnns[image_id] if not _reason_against(annotation)]

    def log_unused_images_and_objects(self) -> None:
        """Log the numbers of images and objects that training does not use."""
        counts = Counter(map(_reason_against, self.coco.dataset["annotations"]))
        counts["images without objects"] = sum(not self.objects(image_id) for image_id in self.coco.imgs)
        texts = [f"{count:,} {reason}" for reason, count in counts.items() if reason and count]
        if texts:
            logger.info(f"{self.split}: training does not use {', '.join(texts)}.")

    def identity(self, name: str) -> dict[str, str]:
        """Return hashes of annotations and images for the identity of a run. name: prefix of the hash names."""
        return {f"{name} annotations": sha256_of(self.annotation_file), f"{name} images": self.samples.fingerprint()}


def _reason_against(annotation: dict[str, Any]) -> str:
    """Return the reason why an object is not used in training; empty if it is used."""
    if annotation.get("iscrowd", 0):
        return "crowds"
    return "boxes below one pixel" if min(annotation["bbox"][2:]) < 1 else ""


@dataclass(frozen=True)
class ScoredImages:
    """The pixels of images, without augmentation."""

    images: CocoImages

    def __getitem__(self, row: int) -> tuple[int, UInt8[Tensor, "3 h w"]]:
        """Return COCO's id of an image, and its pixels."""
        return self.images.ids[row], v2.functional.pil_to_tensor(self.images[row][0])


@dataclass(frozen=True)
class TrainImages:
    """Augmented train images with their objects. Half of the images are cropped (DETR's augmentation).

    The augmentation of an image depends only on seed, epoch and image.
    """

    images: CocoImages
    settings: DetectSettings

    @cached_property
    def _images_with_targets(self) -> Any:
        """The images with boxes, labels and masks in the form that torchvision's augmentations transform."""
        return wrap_dataset_for_transforms_v2(self.images, target_keys=("boxes", "labels", "masks"))

    def __getitem__(self, key: tuple[int, int]) -> tuple[UInt8[Tensor, "3 h w"], dict[str, Tensor]]:
        """Return the image and the target of (epoch, row).

        The target has boxes `[n 4]` (x1, y1, x2, y2 in pixels), classes `[n]` from 1 and masks `[n h w]`.
        """
        epoch, row = key
        with warnings.catch_warnings():  # pycocotools 2.0.11 with numpy 2 warns of `__array__` without `copy`
            warnings.simplefilter("ignore", DeprecationWarning)
            image, target = self._images_with_targets[row]
        target["labels"] = 1 + torch.searchsorted(torch.tensor(self.images.class_ids), target["labels"])
        with seeded(self.settings.seed, "detection views", epoch, self.images.ids[row]):
            pixels, objects = self._augmented(v2.functional.to_image(image), target)
        return pixels.as_subclass(Tensor), {name: item.as_subclass(Tensor) for name, item in objects.items()}

    def _augmented(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the image and its target, mirrored at random and, in half of all cases, scaled and cropped."""
        flip, (smallest, largest) = v2.RandomHorizontalFlip(), self.settings.crop
        pixels, objects = flip(image, target)
        if torch.rand(()) < 0.5:
            pixels, objects = v2.RandomShortestSize(list(self.settings.crop_short_sides))(pixels, objects)
            crop = [int(torch.randint(min(smallest, side), min(largest, side) + 1, ())) for side in pixels.shape[-2:]]
            pixels, objects = v2.RandomCrop(crop)(pixels, objects)
        pixels, objects = v2.SanitizeBoundingBoxes(min_size=1)(pixels, objects)
        # If the crop does not contain an object, the full image is used.
        return (pixels, objects) if len(objects["boxes"]) else flip(image, target)
