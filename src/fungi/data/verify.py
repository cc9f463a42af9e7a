"""Is a dataset on disk the one that was published? Counts, labels, and whether images can be read."""

from collections.abc import Iterator
from pathlib import Path

from fungi.data.base import DatasetSpec, Samples
from fungi.data.formats.mask_files import check_mask
from fungi.errors import FungiError
from fungi.runtime.log import progress


def verify_dataset(spec: DatasetSpec, data_dir: Path, *, every_item: bool = False) -> Iterator[str]:
    """Check each split and give one line about it.

    every_item: read all items instead of the first and the last.
    Raises FungiError for a split whose rows or classes are not as published, or with an item that can't be read.
    """
    for split, expected in spec.sizes.items():
        samples = spec.open(data_dir, split)
        if expected is not None and len(samples) != expected:
            raise FungiError(
                f"dataset {spec.name!r}: split {split} has {len(samples)} rows, published are {expected}. "
                "Files are missing or too many: unpack it again into an empty folder."
            )
        classes = _count_classes(spec, samples, split)
        for row in progress(range(len(samples)), label=split, unit="row") if every_item else (0, len(samples) - 1):
            check_item(samples, row)
        read = "every item" if every_item else "first and last item"
        rows = f"{len(samples)} rows{classes}, {read} readable, fingerprint {samples.fingerprint()[:12]}"
        yield f"{spec.name} {split}: {rows}"


def check_item(samples: Samples, row: int) -> None:
    """FungiError where an item, or the mask that belongs to it, can't be read."""
    item = samples.load(row)
    if samples.mask is not None:
        check_mask(samples.mask(row), item, len(samples.class_names), samples.ids[row])


def _count_classes(spec: DatasetSpec, samples: Samples, split: str) -> str:
    if spec.masks is not None:
        return f" with masks of {len(samples.class_names)} classes"
    if spec.classes is None:
        return ""
    found = len(set(samples.targets.tolist()))
    if found != spec.classes or int(samples.targets.max()) != spec.classes - 1:
        raise FungiError(
            f"dataset {spec.name!r}: split {split} has rows of {found} classes, published are {spec.classes}. "
            "Unpack it again into an empty folder."
        )
    return f" of {found} classes"
