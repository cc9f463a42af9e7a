"""Add FUNGI features as a column to a dataset of the library `datasets`."""

import hashlib
from typing import Any

from fungi.errors import FungiError
from fungi.library.saving import fingerprint
from fungi.wrapper import FUNGIWrapper


def add_features(
    dataset: Any, wrapper: FUNGIWrapper, *, image_column: str = "image", column: str = "fungi", batch_size: int = 32
) -> Any:
    """Return the dataset with an additional column, the features of its images as float32 vectors.

    dataset: a dataset of the library `datasets` with a column of images. The result is cached under a hash of the data
    and the wrapper, so that the same features are computed only once. Raises FungiError if the image column does not
    exist, or if the new column already exists.
    """
    if image_column not in dataset.column_names:
        raise FungiError(
            f"the dataset has no column {image_column!r}. It has: {', '.join(dataset.column_names)}. "
            "Name the column of images with image_column."
        )
    if column in dataset.column_names:
        raise FungiError(f"the dataset already has a column {column!r}. Choose another name with column.")
    from datasets import Features, List, Value

    size = sum(wrapper.parts.values()) if wrapper.reduction is None else wrapper.reduction.dim
    identity = f"{dataset._fingerprint} {fingerprint(wrapper)} {image_column} {column}"
    return dataset.map(
        lambda batch: {column: wrapper(batch[image_column]).cpu().numpy()},
        batched=True,
        batch_size=batch_size,
        features=Features({**dataset.features, column: List(Value("float32"), length=size)}),
        new_fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
    )
