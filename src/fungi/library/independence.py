"""Check that a loss does not mix the samples of a batch.

If a loss mixes samples, features depend on the other images of the batch, and accuracies on the batch size.
"""

from collections.abc import Sequence
from copy import copy

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fungi.errors import FungiError
from fungi.gradients.base_extractor import BaseGradientExtractor
from fungi.gradients.core import Feature, compute
from fungi.views.loading import batch_of_images

LEAST_COSINE = 1 - 1e-4
"""Smallest cosine of equal gradients. Rounding changes it by about 1e-7 (float32) or 1e-6 (products in TF32)."""


def check_independence(extractor: BaseGradientExtractor, images: Sequence[Image.Image]) -> None:
    """Raise FungiError if the gradients of images in a batch differ from the gradients of each image alone.

    images: at least two different images.
    """
    if len(images) < 2:
        raise FungiError("the check whether a loss mixes samples needs at least two images.")
    batch_gradients = _gradients(extractor, images)
    single_gradients = torch.cat([_gradients(extractor, [image]) for image in images])
    if not bool(batch_gradients.any(dim=1).all()):
        raise FungiError(f"the gradient of the loss of {type(extractor).__name__} is zero for some of the images.")
    cosine = float(cosine_similarity(batch_gradients.double(), single_gradients.double()).min())
    if cosine < LEAST_COSINE:
        raise FungiError(
            f"the loss of {type(extractor).__name__} mixes the samples of a batch: the gradients of an image in a "
            f"batch of {len(images)} and without other images have cosine {cosine:.4f}. Compute one loss per sample, "
            "and then the mean."
        )


def _gradients(extractor: BaseGradientExtractor, images: Sequence[Image.Image]) -> Float[Tensor, "b g"]:
    """Return gradients without projection, computed in float32 even if the extractor uses half precision."""
    engine = copy(extractor.engine)
    engine.projectors, engine.dtype = {}, torch.float32
    engine.views_per_forward = 2**20  # more than there are views, so that all images share one forward pass
    batch = batch_of_images(images, [extractor.views], seed=extractor.seed)
    gradients = compute(batch, [Feature("gradient", extractor.views, engine, extractor.loss)])["gradient"]
    return torch.cat(list(gradients.values()), dim=1)
