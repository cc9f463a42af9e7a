"""Scale frames and masks of a video as the label propagation of DINO does (spec udi 7.6).

Axes: k labels (0 is the background), rows and columns of the grid of patches.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from fungi.views.image import IMAGENET, Triple
from fungi.views.pixels import as_pixels

MULTIPLE = 64
"""The longer side of a scaled frame is a multiple of this number of pixels."""
IMAGENET_OF_VIDEOS: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
"""Mean and standard deviation in the published code. The first standard deviation is 0.228, not the usual 0.229."""


def frame_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Return (width, height) of the scaled frame.

    shorter: the shorter side of the scaled frame. The longer side keeps the proportions, and is rounded down to a
    multiple of 64. The width of a square frame counts as its longer side.
    """
    width, height = size
    longer = max(shorter * max(size) // min(size) // MULTIPLE * MULTIPLE, MULTIPLE)
    return (shorter, longer) if height > width else (longer, shorter)


def scaled_frame(frame: Image.Image, size: tuple[int, int]) -> UInt8[Tensor, "1 3 h w"]:
    """Resize a frame to (width, height), bilinear without antialiasing, as OpenCV does."""
    pixels = as_pixels(frame)[None].float()
    return interpolate(pixels, size[::-1], mode="bilinear").round().to(torch.uint8)


def frame_statistics(statistics: tuple[Triple, Triple]) -> tuple[Triple, Triple]:
    """Return mean and standard deviation for frames.

    If the network expects the values of ImageNet, return the published values for videos instead.
    """
    return IMAGENET_OF_VIDEOS if statistics == IMAGENET else statistics


def patch_labels(mask: Image.Image, grid: tuple[int, int], count: int) -> Float[Tensor, "n k"]:
    """Return the one-hot label of each patch: the mask, resized to the grid (rows, columns) by nearest neighbour.

    count: number of labels.
    """
    patch_mask = np.array(mask.resize(grid[::-1], Image.Resampling.NEAREST))
    return one_hot(torch.from_numpy(patch_mask).long(), count).float().flatten(0, 1)


def mask_of(
    shares: Float[Tensor, "n k"], grid: tuple[int, int], patch: int, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """Return the mask of a frame of size (width, height) from shares of labels per patch.

    The shares are enlarged bilinearly by the side of a patch. Then the values of each label are scaled from their
    minimum and maximum to [0, 1]. Each pixel gets the label with the largest value. Finally, the mask is resized to the
    frame by nearest neighbour.
    """
    enlarged = interpolate(shares.T.unflatten(1, grid)[None], scale_factor=patch, mode="bilinear")[0]
    minimum, maximum = enlarged.amin((1, 2), keepdim=True), enlarged.amax((1, 2), keepdim=True)
    # The values of a label are not scaled if they are all equal.
    scaled = torch.where(maximum > minimum, (enlarged - minimum) / (maximum - minimum), enlarged)
    mask = Image.fromarray(scaled.argmax(0).to(torch.uint8).cpu().numpy())
    return np.array(mask.resize(size, Image.Resampling.NEAREST))
