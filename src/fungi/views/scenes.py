"""Views of scenes, for segmentation (spec dense 2.4). A scene is an image with the class of each pixel (the mask).

An image and its mask are cropped and resized in the same way.
"""

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

from fungi.data.base import Loader, Samples
from fungi.data.formats.mask_files import check_mask
from fungi.runtime.seeds import derive_seed
from fungi.views.image import Triple
from fungi.views.pixels import as_pixels, normalize

JITTER = 0.1  # largest change of brightness, contrast, saturation and hue
AREA = (0.5, 2.0)  # area of a crop, as a factor of the area of the image (spec dense 6, H14)
ASPECT = (3 / 4, 4 / 3)  # aspect ratio of a crop


@dataclass(frozen=True)
class Scene:
    """An image, the class of each of its pixels, and its id for messages."""

    image: Image.Image
    mask: UInt8[np.ndarray, "h w"]
    id: str

    @property
    def pixel_hash(self) -> str:
        """Hash of the pixels. The hash seeds random crops and colours, so these do not depend on the collection."""
        return hashlib.blake2b(f"{self.image.size}".encode() + self.image.tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class _Scenes:
    """Function: row -> scene. The function checks the mask of the scene."""

    load: Loader
    mask: Loader
    ids: Sequence[str]
    classes: int

    def __call__(self, row: int) -> Scene:
        scene = Scene(self.load(row), self.mask(row), self.ids[row])
        check_mask(scene.mask, scene.image, self.classes, self.ids[row])
        return scene


def as_scenes(samples: Samples) -> Samples:
    """Return the same rows with scenes as items. Loading an item with an invalid mask raises FungiError."""
    assert samples.mask is not None
    load = _Scenes(samples.load, samples.mask, samples.ids, len(samples.class_names))
    return replace(samples, load=load, mask=None)


@dataclass(frozen=True, kw_only=True)
class SceneView:
    """View of an image and its mask, both resized to `size` x `size`. The aspect ratio changes.

    The image is resized bilinearly, the mask by nearest neighbour. statistics: mean and standard deviation per channel.
    seed, epoch: numbers that seed the random choices for a scene, together with the pixels of the scene.
    """

    size: int
    statistics: tuple[Triple, Triple]
    seed: int = 42
    epoch: int = 0

    deterministic = True
    n_views = 1

    @property
    def kind(self) -> str:
        """Name that seeds the random crops and colours of this epoch."""
        return f"scene of epoch {self.epoch}"

    @property
    def identity(self) -> str:
        """Text that is equal for generators of the same views."""
        return f"{type(self).__name__} {self!r}"

    def prepare(self, item: Scene) -> dict[str, Any]:
        """Return `image` `[c size size]`, `mask` `[size size]`, `id`, and `draw_seed`, the seed of random choices."""
        image = item.image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        mask = torch.from_numpy(item.mask)
        return {"image": as_pixels(image), "mask": self._resized_mask(mask), **self._seed_and_id(item)}

    def _resized_mask(self, mask: UInt8[Tensor, "h w"]) -> UInt8[Tensor, "size size"]:
        nearest = transforms.InterpolationMode.NEAREST
        return transforms.resize(mask.unsqueeze(0), [self.size, self.size], interpolation=nearest)[0]

    def _seed_and_id(self, item: Scene) -> dict[str, Any]:
        """Return the entries `draw_seed` and `id` of a prepared scene."""
        return {"draw_seed": derive_seed(self.seed, "dense", item.pixel_hash, self.epoch), "id": item.id}

    def collate(self, prepared: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Stack the images and masks of a batch. `draw_seed` and `id` remain lists."""
        tensors = {name: torch.stack([scene[name] for scene in prepared]) for name in ("image", "mask")}
        return tensors | {name: [scene[name] for scene in prepared] for name in ("draw_seed", "id")}

    def render(self, batch: Shaped[Tensor, "b c size size"]) -> Float[Tensor, "b c size size"]:
        """Normalise the images of a batch."""
        return normalize(batch, self.statistics)


@dataclass(frozen=True, kw_only=True)
class AugmentedSceneView(SceneView):
    """View with random changes of brightness, contrast, saturation and hue, and a random crop to `size` x `size`.

    Each of the four changes has a probability of one half. Random numbers come from torch's global stream, which the
    caller seeds for this sample and epoch.
    """

    deterministic = False

    def prepare(self, item: Scene) -> dict[str, Any]:
        """Return an image and its mask with the same crop. Pixels are from 0 to 1 and are not rounded."""
        image = as_pixels(_jittered(item.image)).float() / 255
        top, left, height, width = RandomResizedCrop.get_params(image, list(AREA), list(ASPECT))
        crop = (slice(top, top + height), slice(left, left + width))
        size = [self.size, self.size]
        return {
            "image": transforms.resize(image[:, *crop], size, antialias=True),
            "mask": self._resized_mask(torch.from_numpy(item.mask)[crop]),
            **self._seed_and_id(item),
        }


def _jittered(image: Image.Image) -> Image.Image:
    """Change brightness, contrast, saturation and hue, in this order, each with a probability of one half."""
    for adjust in (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation):
        if torch.rand(()) < 0.5:
            image = adjust(image, float(torch.empty(()).uniform_(1 - JITTER, 1 + JITTER)))
    if torch.rand(()) < 0.5:
        image = transforms.adjust_hue(image, float(torch.empty(()).uniform_(-JITTER, JITTER)))
    return image
