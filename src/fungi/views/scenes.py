"""Views of an image and its mask together (spec dense 2.4): both are cropped and resized in the same way."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as transforms

from fungi.data.base import Loader, MaskRules, Samples
from fungi.data.formats.mask_files import check_mask
from fungi.runtime.seeds import derive
from fungi.views.image import Triple
from fungi.views.pixels import as_pixels, normalize

JITTER = 0.1  # of brightness, contrast, saturation and hue, each with even odds
AREA, ASPECT = (0.5, 2.0), (3 / 4, 4 / 3)  # of a crop, as a factor of the image's area (deviation H14)


@dataclass(frozen=True)
class Scene:
    """An image, the class of each of its pixels, and its id in messages."""

    image: Image.Image
    mask: UInt8[np.ndarray, "h w"]
    id: str

    @property
    def draw(self) -> str:
        """Hash of the pixels. Random crops and colours are seeded by it, so they don't depend on the collection."""
        return hashlib.blake2b(f"{self.image.size}".encode() + self.image.tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class _Scenes:
    """Returns the scene of a row, after a check of its mask."""

    load: Loader
    mask: Loader
    ids: Sequence[str]
    classes: int
    ignored: int

    def __call__(self, row: int) -> Scene:
        scene = Scene(self.load(row), self.mask(row), self.ids[row])
        check_mask(scene.mask, scene.image, self.classes, self.ids[row], ignored=self.ignored)
        return scene


def as_scenes(samples: Samples, rules: MaskRules) -> Samples:
    """Return the same rows with scenes as their items; FungiError for masks that don't fit, when they are read."""
    assert samples.mask is not None
    load = _Scenes(samples.load, samples.mask, samples.ids, len(samples.class_names), rules.ignored)
    return replace(samples, load=load, mask=None)


@dataclass(frozen=True, kw_only=True)
class SceneView:
    """The whole image at `size` x `size`, bilinear, its aspect not kept; the mask with it, nearest."""

    size: int
    statistics: tuple[Triple, Triple]
    seed: int = 42
    epoch: int = 0

    deterministic = True
    n_views = 1

    @property
    def kind(self) -> str:
        """Name for which the random crops and colours of this epoch are seeded."""
        return f"scene of epoch {self.epoch}"

    @property
    def identity(self) -> str:
        """Equal for generators of the same views."""
        return f"{type(self).__name__} {self!r}"

    def prepare(self, item: Scene) -> dict[str, Any]:
        """image `[c size size]`, mask `[size size]`, draw: the seed of all that is drawn for this view, id."""
        image = item.image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        mask = torch.from_numpy(item.mask)
        return {"image": as_pixels(image), "mask": self._nearest(mask), **self._draw_and_id(item)}

    def _nearest(self, mask: UInt8[Tensor, "h w"]) -> UInt8[Tensor, "s s"]:
        nearest = transforms.InterpolationMode.NEAREST
        return transforms.resize(mask.unsqueeze(0), [self.size, self.size], interpolation=nearest)[0]

    def _draw_and_id(self, item: Scene) -> dict[str, Any]:
        return {"draw": derive(self.seed, "dense", item.draw, self.epoch), "id": item.id}

    def collate(self, prepared: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Stack a batch; draws stay a list of whole numbers, ids one of words."""
        tensors = {name: torch.stack([scene[name] for scene in prepared]) for name in ("image", "mask")}
        return tensors | {name: [scene[name] for scene in prepared] for name in ("draw", "id")}

    def render(self, batch: Shaped[Tensor, "b c s s"]) -> Float[Tensor, "b c s s"]:
        """Normalise the images of a batch."""
        return normalize(batch, self.statistics)


@dataclass(frozen=True, kw_only=True)
class AugmentedSceneView(SceneView):
    """Jitter of brightness, contrast, saturation and hue, each with even odds; then a random crop to `size` x `size`.

    Draws come from torch's global stream, seeded by the caller for this sample and epoch.
    """

    deterministic = False

    def prepare(self, item: Scene) -> dict[str, Any]:
        """Crop as the masks are cropped; the pixels are not rounded, in 0..1."""
        image = as_pixels(_jittered(item.image)).float() / 255
        top, left, height, width = RandomResizedCrop.get_params(image, list(AREA), list(ASPECT))
        crop = (slice(top, top + height), slice(left, left + width))
        size = [self.size, self.size]
        return {
            "image": transforms.resize(image[:, *crop], size, antialias=True),
            "mask": self._nearest(torch.from_numpy(item.mask)[crop]),
            **self._draw_and_id(item),
        }


def _jittered(image: Image.Image) -> Image.Image:
    """Brightness, contrast, saturation, hue, in this order, each with even odds."""
    for adjust in (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation):
        if torch.rand(()) < 0.5:
            image = adjust(image, float(torch.empty(()).uniform_(1 - JITTER, 1 + JITTER)))
    if torch.rand(()) < 0.5:
        image = transforms.adjust_hue(image, float(torch.empty(()).uniform_(-JITTER, JITTER)))
    return image
