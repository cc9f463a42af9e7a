"""`digit-scenes`: composed scenes of real handwritten digits on photographs, with the class of every pixel.

Each scene is a crop of one of scikit-learn's two photographs, darkened and in grey, with a handwritten digit of
`digits` on it: enlarged to about the size at which `digits-vit` saw digits, somewhere in the scene. The mask says 0 for
background and 1 + digit where the digit's ink is. Everything follows from the split and the scene's number, so scenes
are composed when they are read. Train scenes have train digits and the photograph of a temple, test scenes test digits
and the one of a flower: nothing is in both. (With several digits to a scene, the patches of this network, which has
only ever seen one at a time, hardly tell classes apart: docs/log.md.)
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from fungi.data.base import MaskRules, Samples, register_dataset
from fungi.data.content import digest_of_item
from fungi.data.sets.digits import digit_images, split_rows
from fungi.runtime.seeds import numpy_generator

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 48  # side of a scene in pixels
SIDES = (28, 44)  # smallest and largest side of a digit, in pixels; digits-vit was trained with 32
INK = 96  # grey level from which on a pixel is the digit's
DARKNESS = 0.2  # brightest background, of white
PHOTOGRAPHS = {"train": "china.jpg", "test": "flower.jpg"}
SCENES = {"train": 240, "test": 120}
CLASS_NAMES = ["background", *map(str, range(10))]


@cache
def _photograph(split: str) -> UInt8[np.ndarray, "h w"]:
    from PIL import Image
    from sklearn.datasets import load_sample_image

    return np.asarray(Image.fromarray(load_sample_image(PHOTOGRAPHS[split])).convert("L"))


@cache
def compose(split: str, number: int) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """Grey levels and mask of a scene, the same whenever it is composed."""
    from PIL import Image

    draw = numpy_generator(0, "digit-scenes", split, number)
    photograph = _photograph(split)
    top, left = (int(draw.integers(0, extent - SIZE)) for extent in photograph.shape)
    grey = (photograph[top : top + SIZE, left : left + SIZE] * DARKNESS).astype(np.uint8)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    row, side = int(draw.choice(split_rows(split))), int(draw.integers(*SIDES, endpoint=True))
    images, labels = digit_images()
    ink = np.asarray(Image.fromarray(images[row]).resize((side, side), Image.Resampling.BICUBIC))
    place = tuple(slice(start, start + side) for start in draw.integers(0, SIZE - side, size=2, endpoint=True).tolist())
    grey[place] = np.maximum(grey[place], ink)
    mask[place][ink >= INK] = labels[row] + 1
    return grey, mask


@dataclass(frozen=True)
class _Scene:
    """Row -> RGB image of a scene."""

    split: str

    def __call__(self, row: int) -> "Image":
        from PIL import Image

        return Image.fromarray(compose(self.split, row)[0]).convert("RGB")

    def content(self, row: int) -> bytes:
        """Return what is in a scene."""
        return digest_of_item(compose(self.split, row)[0])


@dataclass(frozen=True)
class _Mask:
    """Row -> class of each pixel of a scene."""

    split: str

    def __call__(self, row: int) -> UInt8[np.ndarray, "h w"]:
        return compose(self.split, row)[1]


def _open(data_dir: Path, split: str) -> Samples:
    return Samples(
        targets=np.zeros(SCENES[split], dtype=np.uint32),
        ids=[f"digit-scenes/{split}/{number}" for number in range(SCENES[split])],
        load=_Scene(split),
        class_names=CLASS_NAMES,
        mask=_Mask(split),
    )


register_dataset(
    name="digit-scenes",
    title="Composed scenes of handwritten digits on photographs, both of scikit-learn",
    classes=len(CLASS_NAMES),
    sizes=SCENES,
    metric="mIoU",
    open=_open,
    masks=MaskRules(input_size=SIZE),
    published=False,
    notes="composed when read, from scikit-learn's digits and photographs: needs no download; for fungi segment",
)
