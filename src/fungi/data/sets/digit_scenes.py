"""`digit-scenes`: scenes of real handwritten digits on photographs, with the class of every pixel.

Each scene is a dark grey crop of a photograph of scikit-learn, with a handwritten digit of `digits` at a random place.
The digit is enlarged to about the size that `digits-vit` was trained on. The mask is 0 for the background and 1 + digit
for the ink. The split and the number of a scene determine its pixels, so a scene is composed when it is read.

Train scenes use digits of the train split and a photograph of a temple. Test scenes use digits of the test split and a
photograph of a flower. The splits therefore have nothing in common. Each scene has only one digit, because `digits-vit`
was trained on single digits. In scenes with several digits, its features of patches distinguish the classes badly
(docs/log.md).
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
INK = 96  # lowest grey level of a pixel that belongs to the digit
BRIGHTNESS = 0.2  # factor of the grey levels of the background
PHOTOGRAPHS = {"train": "china.jpg", "test": "flower.jpg"}
"""Split -> file of its photograph in scikit-learn."""
SCENES = {"train": 240, "test": 120}
"""Split -> number of scenes."""
CLASS_NAMES = ["background", *map(str, range(10))]


@cache
def _photograph(split: str) -> UInt8[np.ndarray, "h w"]:
    from PIL import Image
    from sklearn.datasets import load_sample_image

    return np.asarray(Image.fromarray(load_sample_image(PHOTOGRAPHS[split])).convert("L"))


@cache
def compose(split: str, number: int) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """Return (grey levels, mask) of a scene. They depend only on the split and the number of the scene."""
    from PIL import Image

    generator = numpy_generator(0, "digit-scenes", split, number)
    photograph = _photograph(split)
    top, left = (int(generator.integers(0, extent - SIZE)) for extent in photograph.shape)
    grey = (photograph[top : top + SIZE, left : left + SIZE] * BRIGHTNESS).astype(np.uint8)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    row = int(generator.choice(split_rows(split)))
    side = int(generator.integers(*SIDES, endpoint=True))
    images, labels = digit_images()
    ink = np.asarray(Image.fromarray(images[row]).resize((side, side), Image.Resampling.BICUBIC))
    top, left = generator.integers(0, SIZE - side, size=2, endpoint=True).tolist()
    area = (slice(top, top + side), slice(left, left + side))
    grey[area] = np.maximum(grey[area], ink)
    mask[area][ink >= INK] = labels[row] + 1
    return grey, mask


@dataclass(frozen=True)
class _SceneImages:
    """Function: row -> RGB image of a scene."""

    split: str

    def __call__(self, row: int) -> "Image":
        from PIL import Image

        return Image.fromarray(compose(self.split, row)[0]).convert("RGB")

    def content(self, row: int) -> bytes:
        """Return the digest of the grey levels of a scene."""
        return digest_of_item(compose(self.split, row)[0])


@dataclass(frozen=True)
class _SceneMasks:
    """Function: row -> mask of a scene."""

    split: str

    def __call__(self, row: int) -> UInt8[np.ndarray, "h w"]:
        return compose(self.split, row)[1]


def _open(data_dir: Path, split: str) -> Samples:
    return Samples(
        targets=np.zeros(SCENES[split], dtype=np.uint32),
        ids=[f"digit-scenes/{split}/{number}" for number in range(SCENES[split])],
        load=_SceneImages(split),
        class_names=CLASS_NAMES,
        mask=_SceneMasks(split),
    )


register_dataset(
    name="digit-scenes",
    title="Composed scenes of scikit-learn's handwritten digits on its photographs",
    classes=len(CLASS_NAMES),
    sizes=SCENES,
    metric="mIoU",
    open=_open,
    masks=MaskRules(input_size=SIZE),
    is_in_paper=False,
    notes="composed when read, from scikit-learn's digits and photographs: needs no download; for fungi segment",
)
