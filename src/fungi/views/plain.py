"""The plain view: the evaluation transform of the backbone, without augmentation (spec vision 2.2).

Embeddings and KL share this view.
"""

from dataclasses import dataclass

from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from fungi.views.image import ImageInput
from fungi.views.pixels import FILTERS, PixelViews, as_pixels, normalize, resize_shorter_side


@dataclass(frozen=True, kw_only=True)
class PlainView(PixelViews):
    """View that resizes the shorter side, crops the centre and normalises.

    A backbone with squashed inputs gets the whole image, resized to a square, instead of a crop.
    """

    input: ImageInput

    kind = "plain"
    deterministic = True
    n_views = 1

    def prepare(self, item: Image.Image) -> UInt8[Tensor, "1 c h w"]:
        """Return the central square of an image, resized to the input size; for a squashed input, the whole image."""
        if self.input.squashed:
            size = (self.input.size, self.input.size)
            return as_pixels(item.resize(size, FILTERS[self.input.interpolation])).unsqueeze(0)
        resized = resize_shorter_side(item, self.input.resize, self.input.interpolation)
        return as_pixels(transforms.center_crop(resized, [self.input.size, self.input.size])).unsqueeze(0)

    def render(self, batch: UInt8[Tensor, "b 1 c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise with the statistics of the backbone."""
        return normalize(batch.flatten(0, 1), self.input.statistics)
