"""Prepare the views of the rows of a dataset in batches. Worker processes decode and crop.

The views of a row depend only on the seed, the objective, the sample id and the epoch, if there are epochs. They do not
depend on the batch, the worker or the order.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from fungi.data.base import Samples
from fungi.errors import FungiError, UnreadableItemError
from fungi.runtime.device import default_torch_settings
from fungi.runtime.seeds import seeded
from fungi.views.base import HasStream, ViewGenerator
from fungi.views.workers import worker_batches

Batch = dict[str, Any]
"""Identity of a generator -> the views of one batch, prepared and collated."""


@dataclass(frozen=True)
class PreparedViews(Dataset):
    """Torch dataset of the prepared views of each row.

    generators, seed: view generators, and seed of the random views.
    by_content: seed random views with the pixels instead of the sample id. The library does this, so that the feature
        of an image does not depend on the collection.
    epoch: number of earlier passes over the rows. Generators with a stream draw different views in each pass.
    """

    samples: Samples
    generators: Sequence[ViewGenerator]
    seed: int
    by_content: bool = False
    epoch: int = 0

    def __getitem__(self, row: int) -> list[Any]:
        """Return the prepared views of a row, one entry per generator. Raises UnreadableItemError for a damaged row."""
        try:
            item = self.samples.load(row)
        except FungiError as error:
            raise UnreadableItemError(str(error)) from error
        sample_id = content_id(item, self.generators) if self.by_content else self.samples.ids[row]
        return [prepare(generator, item, self.seed, sample_id, self.epoch) for generator in self.generators]

    def __len__(self) -> int:
        return len(self.samples)


def content_id(image: Image.Image, generators: Sequence[ViewGenerator]) -> str:
    """Return a hash of the pixels of an image; empty if all generators are deterministic."""
    if all(is_deterministic(generator) for generator in generators):
        return ""
    mode_and_size = f"{image.mode} {image.size}"
    return hashlib.blake2b(mode_and_size.encode() + image.tobytes(), digest_size=16).hexdigest()


def is_deterministic(generator: ViewGenerator) -> bool:
    """Return whether a generator has no random views. Its views are then not seeded, because seeding takes time."""
    return getattr(generator, "deterministic", False)


@default_torch_settings()
def prepare(generator: ViewGenerator, item: Any, seed: int, sample_id: str, epoch: int = 0) -> Any:
    """Return the prepared views of an item.

    Random views depend only on the seed, the stream, the sample id and the epoch. Epoch 0 has the same random stream as
    a call without an epoch.
    """
    if is_deterministic(generator):
        return generator.prepare(item)
    stream = generator.stream if isinstance(generator, HasStream) else ""
    with seeded(seed, "views", stream or generator.kind, sample_id, *([epoch] if epoch else [])):
        return generator.prepare(item)


@default_torch_settings()
def batch_of_images(images: Sequence[Image.Image], generators: Sequence[ViewGenerator], *, seed: int) -> Batch:
    """Return the prepared views of images in memory as one batch. Random views are seeded with the pixels."""
    ids = [content_id(image, generators) for image in images]
    images_with_ids = list(zip(images, ids, strict=True))
    return {
        views.identity: views.collate([prepare(views, image, seed, sample_id) for image, sample_id in images_with_ids])
        for views in generators
    }


def row_batches(start: int, stop: int, size: int) -> list[range]:
    """Return the rows `start` to `stop` in batches of at most `size`."""
    return [range(first, min(first + size, stop)) for first in range(start, stop, size)]


def batches(
    samples: Samples,
    generators: Sequence[ViewGenerator],
    row_batches: Sequence[Sequence[int]],
    *,
    seed: int,
    num_workers: int,
    pin_memory: bool = False,
    by_content: bool = False,
    epoch: int = 0,
) -> Iterator[Batch]:
    """Yield one batch of prepared views per entry of `row_batches`, in the order of the entries.

    seed, by_content, epoch: as in `PreparedViews`. num_workers, pin_memory: as in torch's `DataLoader`.
    Raises FungiError for a row that can't be read, after all earlier batches have been yielded.
    """
    unique_generators = list({generator.identity: generator for generator in generators}.values())
    yield from worker_batches(
        PreparedViews(samples, unique_generators, seed, by_content, epoch),
        [list(rows) for rows in row_batches],
        _Collate(unique_generators),
        num_workers=num_workers,
        pin_memory=pin_memory,
    )


@dataclass(frozen=True)
class _Collate:
    """Function that stacks the prepared views of rows to a batch."""

    generators: Sequence[ViewGenerator]

    def __call__(self, views_by_row: list[list[Any]]) -> Batch:
        views_by_generator = zip(*views_by_row, strict=True)
        return {
            generator.identity: generator.collate(list(views))
            for generator, views in zip(self.generators, views_by_generator, strict=True)
        }
