"""Predict the classes of the pixels of test images, and count them in a confusion matrix (spec dense 3.4)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fungi.data.base import MaskRules
from fungi.errors import FungiError
from fungi.evaluators.segmentation import attention_vote, confusion, upsampled_classes
from fungi.runtime.files import written_atomically
from fungi.runtime.log import progress
from fungi.runtime.owner import remove_orphans
from fungi.search.backends import Search
from fungi.segmentation.image_blocks import ImageBlock, Reader
from fungi.segmentation.memory_bank import PatchFeatures
from fungi.store.banks import Bank
from fungi.store.tensors import load_tensors, save_tensors

PIXELS = "pixels"


@dataclass(frozen=True)
class Predictor:
    """Function that predicts the class of each pixel from the neighbours of its patch in a bank.

    search: search in the bank. neighbours: number of neighbours that vote. temperature: temperature of the votes.
    size: side of the image in pixels. cell: number of pixels per patch.
    excluded: classes that are never predicted.
    """

    bank: Bank
    search: Search
    neighbours: int
    temperature: float
    size: int
    cell: int
    excluded: tuple[int, ...] = ()

    def __call__(self, features: Float[Tensor, "b t f"]) -> Int64[np.ndarray, "b size size"]:
        """Return the class of each pixel. All images of the call share one pass over the bank."""
        scores, rows = self.search(features.flatten(0, 1), self.neighbours)
        image_scores, image_rows = scores.unflatten(0, features.shape[:2]), rows.unflatten(0, features.shape[:2])
        return np.stack([self._classes(*neighbours) for neighbours in zip(image_scores, image_rows, strict=True)])

    def _classes(self, scores: Float[Tensor, "t k"], rows: Int64[Tensor, "t k"]) -> Int64[np.ndarray, "size size"]:
        """Return the class of each pixel of an image from the neighbours of its patches. rows: rows of the bank."""
        counts = torch.from_numpy(self.bank.labels_of(rows.cpu().numpy()).astype(np.float32))
        votes = attention_vote(scores, counts.to(scores.device) / self.cell, self.temperature)
        return upsampled_classes(votes, self.size, self.excluded).cpu().numpy()


def confusion_matrix(
    folder: Path,
    reader: Reader,
    blocks: list[ImageBlock],
    features: PatchFeatures,
    predictor: Predictor,
    rules: MaskRules,
) -> Int64[np.ndarray, "c c"]:
    """Return the confusion matrix over the pixels of all blocks.

    `folder` stores the matrix of each block, so an interrupted run continues with the next block.
    """
    remove_orphans(folder)
    paths = {block.index: folder / f"{block.index:06d}.safetensors" for block in blocks}
    missing = [block for block in blocks if not paths[block.index].exists()]
    classes = predictor.bank.classes
    sizes = [len(block.rows) for block in missing]
    label = f"mIoU of {folder.parent.name.rpartition('-')[0]}"
    for block, batches in progress(reader.read(missing), sizes, label=label):
        pairs = [(features(batch), batch["mask"]) for batch in batches]
        predictions = predictor(torch.cat([batch_features for batch_features, _ in pairs]))
        masks = torch.cat([batch_masks for _, batch_masks in pairs]).numpy()
        matrix = sum(
            confusion(mask, prediction, classes, rules.ignored)
            for mask, prediction in zip(masks, predictions, strict=True)
        )
        with written_atomically(paths[block.index]) as temporary:
            save_tensors(temporary, {PIXELS: np.asarray(matrix)})
    return np.sum([_stored_matrix(path) for path in paths.values()], axis=0)


def _stored_matrix(path: Path) -> Int64[np.ndarray, "c c"]:
    """Return the confusion matrix of a block. Raises FungiError for a damaged file."""
    try:
        tensors, _ = load_tensors(path)
        return tensors[PIXELS]
    except (ValueError, KeyError) as error:
        raise FungiError(f"{path} is damaged ({error}). Remove it and run the same command again.") from None
