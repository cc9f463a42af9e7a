"""Features of patches for the library, computed by the extractor of `fungi segment` with a wrapper's model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image
from torch import Tensor

from fungi.data.base import Samples
from fungi.errors import RefusedJoinError
from fungi.gradients.engine import GradientEngine
from fungi.runtime.log import progress
from fungi.search.stored import BankSearch
from fungi.segmentation.dense import DenseExtractor, Support, record_of
from fungi.store.banks import PatchRows, open_bank
from fungi.views.image import ImageInput
from fungi.views.loading import row_batches
from fungi.views.scenes import Scene, SceneView


def dense_extractor(engine: GradientEngine, image_input: ImageInput, seed: int) -> DenseExtractor:
    """Return the extractor for a model and its first gradient source. Raises FungiError if it has no patch tokens."""
    target = engine.targets[0]
    views = SceneView(size=image_input.size, statistics=image_input.statistics, seed=seed)
    projector = engine.projectors[target.name]
    return DenseExtractor(engine.model, target, projector, views, device=engine.device, dtype=engine.dtype, seed=seed)


@dataclass(frozen=True)
class DenseFeatures:
    """Extract the features of the patches of images.

    support: the bank of patches from which the loss takes its negatives.
    """

    extractor: DenseExtractor
    support: Support

    def __call__(self, images: Sequence[Image.Image]) -> Float[Tensor, "b t f"]:
        """Return token and gradient of each patch, side by side; patches are in row-major order."""
        batch = _collated(self.extractor.views, images)
        device = self.extractor.engine.device
        return self.extractor.features(
            "embeddings+simclr", batch["image"].to(device), batch["draw"], self.support, batch["id"]
        )


def support_from_images(extractor: DenseExtractor, train: Samples, batch_size: int) -> Support:
    """Return a support with all patches of the training images, held in memory."""
    parts = []
    batches = row_batches(0, len(train), batch_size)
    for rows_of_batch in progress(batches, list(map(len, batches)), label="patches"):
        images = [train.load(row) for row in rows_of_batch]
        pixels = _collated(extractor.views, images)["image"].to(extractor.engine.device)
        parts.append(extractor.features("embeddings", pixels, []).flatten(0, 1).cpu().numpy())
    rows = PatchRows(np.concatenate(parts))
    return Support(rows, BankSearch(rows, extractor.engine.device))


def support_from_bank(extractor: DenseExtractor, folder: Path) -> Support:
    """Return a support with the bank of embeddings that `fungi segment` wrote to a folder.

    Raises RefusedJoinError if feature, profile, input size, statistics or weights differ from the wrapper's.
    """
    bank = open_bank(folder)
    expected = {"feature": "embeddings", **record_of(extractor, "clean")}
    for name, value in expected.items():
        if (bank_value := bank.manifest.provenance.get(name)) != value:
            raise RefusedJoinError(
                f"the bank {folder} does not fit: its {name.replace('_', ' ')} is {bank_value}, here it is {value}. "
                "Give a bank of embeddings that fungi segment wrote for this model and input size, or training images."
            )
    return Support(bank, BankSearch(bank, extractor.engine.device))


def _collated(views: SceneView, images: Sequence[Image.Image]) -> dict[str, Any]:
    def scene(place: int, image: Image.Image) -> Scene:
        empty_mask: Integer[np.ndarray, "h w"] = np.zeros((image.height, image.width), dtype=np.uint8)
        return Scene(image, empty_mask, f"image {place}")

    return views.collate([views.prepare(scene(place, image)) for place, image in enumerate(images)])
