"""Compute the views of an image: two global crops, some local crops, their boxes and sampled tokens (spec udi 3).

Each image has its own random generator in each epoch. Views therefore do not depend on batch, worker or process.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from fungi.pretraining.udi.boxes import Crop, multi_crops
from fungi.pretraining.udi.choices import Deviations
from fungi.pretraining.udi.sampling import stratified_tokens

GREY_PROBABILITY, JITTER_PROBABILITY = 0.2, 0.8
SOLARISATION_THRESHOLD = 128


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """The options of the views. The defaults are for ImageNet.

    global_size, local_size, patch_size: sides of global crops, local crops and patches, in pixels.
    global_window, local_window: sides of the windows of tokens, in tokens; one token is sampled from each window.
    local_crops: number of local crops. global_scale, local_scale: smallest and largest share of the image in a crop.
    jitter: strengths of the random changes of brightness, contrast, saturation and hue.
    blur_radius: smallest and largest radius of the blur, in pixels.
    deviations: the switches of the deviations of the published code.
    """

    global_size: int = 224
    local_size: int = 96
    patch_size: int = 16
    global_window: int = 3
    local_window: int = 2
    local_crops: int = 6
    global_scale: tuple[float, float] = (0.25, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.25)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    blur_radius: tuple[float, float] = (0.1, 2.0)
    deviations: Deviations = field(default_factory=Deviations)

    @property
    def global_side(self) -> int:
        """The number of tokens along a side of a global crop."""
        return self.global_size // self.patch_size

    @property
    def local_side(self) -> int:
        """The number of tokens along a side of a local crop."""
        return self.local_size // self.patch_size


@dataclass(frozen=True)
class Views:
    """The views of a batch of b images with L local crops. Axes g and l are pixels.

    boxes: boxes of all crops, global crops first. global_tokens, local_tokens: sampled tokens of the global and of the
    local crops. Both global crops of an image share `global_tokens`, and all local crops of an image share
    `local_tokens`.
    """

    globals: UInt8[Tensor, "2 b 3 g g"]
    locals: UInt8[Tensor, "L b 3 l l"]
    boxes: Int64[Tensor, "v b 4"]
    global_tokens: Int64[Tensor, "b m"]
    local_tokens: Int64[Tensor, "b m2"]

    def __len__(self) -> int:
        return self.globals.shape[1]

    def pin_memory(self) -> "Views":
        """Return a copy in pinned memory. The data loaders of torch call this method."""
        return Views(**{name: values.pin_memory() for name, values in vars(self).items()})


def make_views(image: Image.Image, options: ViewOptions, random: np.random.Generator) -> dict[str, Any]:
    """Return the views of one image: the fields of `Views` without the batch axis. random: source of all draws."""
    crops = multi_crops(
        random,
        (image.height, image.width),
        local_crops=options.local_crops,
        global_scale=options.global_scale,
        local_scale=options.local_scale,
        deviations=options.deviations,
    )
    sizes = [options.global_size] * 2 + [options.local_size] * options.local_crops
    pixels = [_pixels(image, crop, size, options, random) for crop, size in zip(crops, sizes, strict=True)]
    small = options.local_size
    return {
        "globals": torch.stack(pixels[:2]),
        "locals": torch.stack(pixels[2:]) if pixels[2:] else torch.empty(0, 3, small, small, dtype=torch.uint8),
        "boxes": torch.tensor([crop.box for crop in crops]),
        "global_tokens": torch.from_numpy(stratified_tokens(random, options.global_side, options.global_window)),
        "local_tokens": torch.from_numpy(stratified_tokens(random, options.local_side, options.local_window)),
    }


def collate(images: Sequence[dict[str, Shaped[Tensor, "..."]]]) -> Views:
    """Return the views of several images as a batch. The first axis is the crop, the second axis is the image."""
    fields = {name: torch.stack([views[name] for views in images]) for name in images[0]}
    for name in ("globals", "locals", "boxes"):
        fields[name] = fields[name].transpose(0, 1).contiguous()
    return Views(**fields)


def _pixels(
    image: Image.Image, crop: Crop, size: int, options: ViewOptions, random: np.random.Generator
) -> UInt8[Tensor, "3 s s"]:
    """Return a resized crop with random changes of its colours, drawn in the same way for all crops (spec udi 3.2)."""
    view = image.crop((crop.left, crop.top, crop.columns[1], crop.rows[1]))
    view = view.resize((size, size), Image.Resampling.BICUBIC)
    if crop.flipped:
        view = ImageOps.mirror(view)
    view = _change_colours(view, options, random)
    return torch.from_numpy(np.array(view)).permute(2, 0, 1)


def _change_colours(view: Image.Image, options: ViewOptions, random: np.random.Generator) -> Image.Image:
    """Apply colour jitter and greyscale at random, then one of three mixtures of blur and solarisation."""
    if random.random() < JITTER_PROBABILITY:
        view = _jitter(view, options.jitter, random)
    if random.random() < GREY_PROBABILITY:
        view = view.convert("L").convert("RGB")
    mixture = random.random()
    blur_probability, solarisation_probability = 0.1, 0.2  # half of the views
    if mixture < 0.25:
        blur_probability, solarisation_probability = 0.5, 0.0
    elif mixture < 0.5:
        blur_probability, solarisation_probability = 1.0, 0.0
    if random.random() < blur_probability:
        view = view.filter(ImageFilter.GaussianBlur(random.uniform(*options.blur_radius)))
    if solarisation_probability and random.random() < solarisation_probability:  # no draw if it is 0
        view = ImageOps.solarize(view, SOLARISATION_THRESHOLD)
    return view


def _jitter(
    view: Image.Image, strengths: tuple[float, float, float, float], random: np.random.Generator
) -> Image.Image:
    """Change brightness, contrast, saturation and hue by random factors, in a random order."""
    from torchvision.transforms import functional

    changes = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for index in random.permutation(4):
        strength = strengths[index]
        if strength:
            neutral_factor = 0 if changes[index] is functional.adjust_hue else 1
            view = changes[index](view, random.uniform(-strength, strength) + neutral_factor)
    return view
