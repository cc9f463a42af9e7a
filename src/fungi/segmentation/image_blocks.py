"""Split images and their views into blocks, and read the blocks in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.runtime.seeds import numpy_generator
from fungi.views.loading import batches
from fungi.views.scenes import SceneView


@dataclass(frozen=True)
class ImageBlock:
    """Images of a split in one view. After an interruption, a block is computed again from its start.

    index: position of the block. rows: indices of its images.
    """

    index: int
    rows: range
    view: SceneView


def image_blocks(images: int, views: Sequence[SceneView], size: int) -> list[ImageBlock]:
    """Return blocks of `size` images: first all images in the first view, then all images in the second view, ..."""
    spans = [(range(start, min(start + size, images)), view) for view in views for start in range(0, images, size)]
    return [ImageBlock(index, rows, view) for index, (rows, view) in enumerate(spans)]


@dataclass(frozen=True)
class Reader:
    """Reads blocks of scenes in batches.

    batch_size: number of images per batch. num_workers: number of worker processes; 0 reads in this process.
    pin_memory: whether batches are copied to pinned memory, for fast copies to a GPU.
    """

    scenes: Samples
    seed: int
    batch_size: int
    num_workers: int = 0
    pin_memory: bool = False

    def read(self, blocks: Sequence[ImageBlock]) -> Iterator[tuple[ImageBlock, Iterator[dict[str, Any]]]]:
        """Yield each block with an iterator over its batches.

        The caller must read all batches of a block before it takes the next block.
        """
        for view in dict.fromkeys(block.view for block in blocks):
            blocks_of_view = [block for block in blocks if block.view == view]
            size = self.batch_size
            batch_rows = {
                block.index: [block.rows[start : start + size] for start in range(0, len(block.rows), size)]
                for block in blocks_of_view
            }
            view_batches = batches(
                self.scenes,
                [view],
                [rows for rows_of_block in batch_rows.values() for rows in rows_of_block],
                seed=self.seed,
                num_workers=self.num_workers,
                pin_memory=self.pin_memory,
            )
            for block in blocks_of_view:
                yield block, (next(view_batches)[view.identity] for _ in batch_rows[block.index])


def subset_rows(dataset: str, available: int, count: int | None, seed: int) -> Int64[np.ndarray, " n"]:
    """Return the rows of the training images to use, ascending: all rows, or `count` rows drawn without replacement.

    available: number of training images. The support bank and the memory bank use the same rows (spec dense 6, H7).
    Raises FungiError if there are fewer images than `count`.
    """
    if count is None:
        return np.arange(available)
    if count > available:
        raise FungiError(f"--train-images {count} asks for more training images than there are: {available}.")
    return np.sort(numpy_generator(seed, "subset", dataset, count).choice(available, count, replace=False))
