"""Features of patches for the library, with the extractor of `fungi segment` and the model of a wrapper."""

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
from fungi.segmentation.dense import DenseExtractor, Support, token_settings
from fungi.store.banks import PatchRows, open_bank
from fungi.views.image import ImageInput
from fungi.views.loading import row_batches
from fungi.views.scenes import Scene, SceneView


def dense_extractor(engine: GradientEngine, image_input: ImageInput, seed: int) -> DenseExtractor:
    """Return the extractor for the model and the first target layer of an engine.

    Raises FungiError if the model has no patch tokens.
    """
    target = engine.targets[0]
    views = SceneView(size=image_input.size, statistics=image_input.statistics, seed=seed)
    projector = engine.projectors[target.name]
    return DenseExtractor(engine.model, target, projector, views, device=engine.device, dtype=engine.dtype, seed=seed)


@dataclass(frozen=True)
class DenseFeatures:
    """A function that returns the features of the patches of images.

    support: bank of patches, from which the loss takes its negatives.
    """

    extractor: DenseExtractor
    support: Support

    def __call__(self, images: Sequence[Image.Image]) -> Float[Tensor, "b t f"]:
        """Return the concatenated token and gradient of each patch. Patches are in row-major order."""
        batch = _collate(self.extractor.views, images)
        device = self.extractor.engine.device
        return self.extractor.features(
            "embeddings+simclr", batch["image"].to(device), batch["draw_seed"], self.support, batch["id"]
        )


def support_from_images(extractor: DenseExtractor, train: Samples, batch_size: int) -> Support:
    """Return a support with all patches of the training images, in memory."""
    parts = []
    batches = row_batches(0, len(train), batch_size)
    for rows in progress(batches, list(map(len, batches)), label="patches"):
        images = [train.load(row) for row in rows]
        pixels = _collate(extractor.views, images)["image"].to(extractor.engine.device)
        parts.append(extractor.features("embeddings", pixels, []).flatten(0, 1).cpu().numpy())
    patches = PatchRows(np.concatenate(parts))
    return Support(patches, BankSearch(patches, extractor.engine.device))


def support_from_bank(extractor: DenseExtractor, folder: Path) -> Support:
    """Return a support with the bank of embeddings that `fungi segment` wrote to a folder.

    Raises RefusedJoinError if the bank and the wrapper differ in feature, profile, input size, statistics or weights.
    """
    bank = open_bank(folder)
    expected = {"feature": "embeddings", **token_settings(extractor, "clean")}
    for name, value in expected.items():
        if (bank_value := bank.manifest.provenance.get(name)) != value:
            raise RefusedJoinError(
                f"the bank {folder} does not fit: its {name.replace('_', ' ')} is {bank_value}, not {value}. "
                "Pass a bank of embeddings that fungi segment wrote for this model and input size, or training images."
            )
    return Support(bank, BankSearch(bank, extractor.engine.device))


def _collate(views: SceneView, images: Sequence[Image.Image]) -> dict[str, Any]:
    """Return the batch of images that an extractor reads. The masks of the batch are empty and not used."""

    def scene(index: int, image: Image.Image) -> Scene:
        empty_mask: Integer[np.ndarray, "h w"] = np.zeros((image.height, image.width), dtype=np.uint8)
        return Scene(image, empty_mask, f"image {index}")

    return views.collate([views.prepare(scene(index, image)) for index, image in enumerate(images)])
