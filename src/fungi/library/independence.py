"""A check that a loss does not mix the samples of a batch.

If it did, features would depend on the other images of the batch, and accuracies on the batch size.
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
from fungi.views.loading import batch_of

ALIKE = 1 - 1e-4
"""Cosine of two gradients that are equal up to rounding in float32 (about 1e-7; 1e-6 with TF32 products)."""


def check_independence(extractor: BaseGradientExtractor, images: Sequence[Image.Image]) -> None:
    """Raise FungiError if images have other gradients in a batch than alone. images: at least two that differ."""
    if len(images) < 2:
        raise FungiError("at least two images are needed to find out whether a loss mixes samples.")
    together = _gradients(extractor, images)
    alone = torch.cat([_gradients(extractor, [image]) for image in images])
    if not bool(together.any(dim=1).all()):
        raise FungiError(f"the loss of {type(extractor).__name__} has no gradient at all for some of the images.")
    cosine = float(cosine_similarity(together.double(), alone.double()).min())
    if cosine < ALIKE:
        raise FungiError(
            f"the loss of {type(extractor).__name__} mixes the samples of a batch: an image's gradient in a batch of "
            f"{len(images)} and alone have cosine {cosine:.4f}. Compute one loss per sample, and only then the mean."
        )


def _gradients(extractor: BaseGradientExtractor, images: Sequence[Image.Image]) -> Float[Tensor, "b g"]:
    """Return raw gradients in float32, whatever the precision of the extractor."""
    engine = copy(extractor.engine)
    engine.projectors, engine.dtype, engine.views_per_forward = {}, torch.float32, 2**20
    batch = batch_of(images, [extractor.views], seed=extractor.seed)
    gradients = compute(batch, [Feature("gradient", extractor.views, engine, extractor.loss)])["gradient"]
    return torch.cat(list(gradients.values()), dim=1)
