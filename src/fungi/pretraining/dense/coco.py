"""Read COCO's objects in its published layout: `annotations/instances_*.json` and a folder of images for each split."""

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fungi.data.base import Samples
from fungi.data.formats.image_files import image_samples
from fungi.errors import FungiError, MissingFilesError
from fungi.pretraining.dense.settings import DetectSettings
from fungi.runtime.files import sha256_of
from fungi.runtime.log import logger
from fungi.runtime.seeds import seeded


@dataclass(frozen=True)
class Instances:
    """The objects of the images of a split, with their boxes and masks."""

    root: Path
    split: str

    @property
    def annotation_file(self) -> Path:
        """The file with the boxes and masks."""
        return self.root / "annotations" / f"instances_{self.split}.json"

    @cached_property
    def index(self) -> Any:
        """The annotations in an index of `pycocotools`.

        Raises FungiError if the package is missing. Raises FungiError if the file is missing or damaged, or if it has
        annotations of images that it does not list.
        """
        try:
            from pycocotools.coco import COCO
        except ImportError:
            raise FungiError("detection needs the package pycocotools: pip install pycocotools") from None
        path = self.annotation_file
        if not path.is_file():
            raise MissingFilesError(f"--coco: there is no file {path}. Unpack annotations_trainval2017.zip there.")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
                index = COCO(str(path))
            unknown = sorted({entry["image_id"] for entry in index.dataset["annotations"]} - set(index.imgs))
        except (ValueError, KeyError, AssertionError, TypeError) as error:
            raise FungiError(f"{path} is not a file of COCO's annotations ({error!r}). Unpack it again.") from None
        if unknown:
            raise FungiError(
                f"{path} has annotations of {len(unknown)} images that it does not list, for example of image"
                f" {unknown[0]}. Unpack it again."
            )
        return index

    @property
    def class_ids(self) -> list[int]:
        """COCO's ids of the classes, in ascending order. The detector numbers the classes from 1 in this order."""
        return sorted(self.index.getCatIds())

    def image_ids(self, *, with_objects: bool) -> list[int]:
        """Return the ids of the images in ascending order. with_objects: only images with an object to train on."""
        ids = sorted(self.index.imgs)
        return [image_id for image_id in ids if self.objects(image_id)] if with_objects else ids

    def objects(self, image_id: int) -> list[dict[str, Any]]:
        """Return the objects of an image to train on: no crowds, and boxes of at least one pixel in each direction."""
        entries = self.index.imgToAnns[image_id]
        return [entry for entry in entries if not entry.get("iscrowd", 0) and min(entry["bbox"][2:]) >= 1]

    def log_unused(self) -> None:
        """Log the numbers of images and objects that training does not use."""
        counts = Counter(
            "crowds" if entry.get("iscrowd", 0) else "boxes below one pixel"
            for entry in self.index.dataset["annotations"]
            if entry.get("iscrowd", 0) or min(entry["bbox"][2:]) < 1
        )
        counts["images without objects"] = len(self.index.imgs) - len(self.image_ids(with_objects=True))
        texts = [f"{count:,} {name}" for name, count in counts.items() if count]
        if texts:
            logger.info(f"{self.split}: training does not use {', '.join(texts)}.")

    def images(self, image_ids: Sequence[int]) -> Samples:
        """Return the images with these ids, in the order of `image_ids`."""
        names = [self.index.imgs[image_id]["file_name"] for image_id in image_ids]
        return image_samples(self.root / self.split, names, [0] * len(names))

    def mask(self, entry: dict[str, Any]) -> UInt8[np.ndarray, "h w"]:
        """Return the mask of an object: 1 for its pixels, 0 for all other pixels."""
        with warnings.catch_warnings():  # pycocotools 2.0.11 with numpy 2 warns of `__array__` without `copy`
            warnings.simplefilter("ignore", DeprecationWarning)
            return self.index.annToMask(entry)

    def target(self, image_id: int) -> dict[str, Any]:
        """Return boxes `[n 4]` (x1, y1, x2, y2 in pixels), classes `[n]` from 1 and masks `[n h w]` of an image."""
        from torchvision.tv_tensors import BoundingBoxes, Mask

        entry = self.index.imgs[image_id]
        shape, objects = (entry["height"], entry["width"]), self.objects(image_id)
        corners = [[x, y, x + width, y + height] for x, y, width, height in (item["bbox"] for item in objects)]
        masks = [self.mask(item) for item in objects]
        numbers = {class_id: number for number, class_id in enumerate(self.class_ids, start=1)}
        return {
            "boxes": BoundingBoxes(torch.tensor(corners).reshape(-1, 4), format="XYXY", canvas_size=shape),
            "labels": torch.tensor([numbers[item["category_id"]] for item in objects]),
            "masks": Mask(torch.from_numpy(np.stack(masks))),
        }


@dataclass(frozen=True)
class WholeImages:
    """Images of a split without augmentation. ids: COCO's ids of the images."""

    instances: Instances
    ids: Sequence[int]

    @cached_property
    def samples(self) -> Samples:
        """The images as samples."""
        return self.instances.images(self.ids)

    def identity(self, name: str) -> dict[str, str]:
        """Return hashes of annotations and images for the identity of a run. name: prefix of the hash names."""
        annotations = sha256_of(self.instances.annotation_file)
        return {f"{name} annotations": annotations, f"{name} images": self.samples.fingerprint()}

    def __getitem__(self, row: int) -> tuple[int, UInt8[Tensor, "3 h w"]]:
        """Return COCO's id of an image, and its pixels."""
        from torchvision.transforms.v2 import functional

        return self.ids[row], functional.pil_to_tensor(self.samples.load(row))


@dataclass(frozen=True)
class TrainImages:
    """Augmented train images with their objects. Half of the images are cropped (DETR's augmentation).

    The augmentation of an image depends only on seed, epoch and image.
    """

    images: WholeImages
    settings: DetectSettings

    def __getitem__(self, key: tuple[int, int]) -> tuple[UInt8[Tensor, "3 h w"], dict[str, Tensor]]:
        """Return the image and the target of (epoch, row). Raises FungiError if their sizes differ."""
        from torchvision.tv_tensors import Image

        epoch, row = key
        image_id, image = self.images[row]
        target = self.images.instances.target(image_id)
        if image.shape[1:] != target["masks"].shape[1:]:
            shapes = (tuple(image.shape[1:]), tuple(target["masks"].shape[1:]))
            raise FungiError(
                f"image {image_id} of COCO has size {shapes[0]}, but its annotations are for size {shapes[1]}."
                " Unpack COCO again."
            )
        with seeded(self.settings.seed, "detection views", epoch, image_id):
            pixels, objects = self._augmented(Image(image), target)
        return pixels.as_subclass(Tensor), {name: item.as_subclass(Tensor) for name, item in objects.items()}

    def _augmented(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from torchvision.transforms import v2

        flip, (low, high) = v2.RandomHorizontalFlip(), self.settings.crop
        pixels, objects = flip(image, target)
        if torch.rand(()) < 0.5:
            pixels, objects = v2.RandomShortestSize(list(self.settings.crop_short_sides))(pixels, objects)
            limits = [(min(low, side), min(high, side)) for side in pixels.shape[-2:]]
            sides = [int(torch.randint(smallest, largest + 1, ())) for smallest, largest in limits]
            pixels, objects = v2.RandomCrop(sides)(pixels, objects)
        pixels, objects = v2.SanitizeBoundingBoxes(min_size=1)(pixels, objects)
        # If the crop does not contain an object, the full image is used.
        return (pixels, objects) if len(objects["boxes"]) else flip(image, target)
