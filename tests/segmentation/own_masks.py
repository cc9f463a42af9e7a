"""A small dataset with masks: images of coloured squares on noise, and the class of every pixel."""

from pathlib import Path

import numpy as np
from PIL import Image

# Class -> colour of its pixels in the images.
COLOURS = np.array([[30, 30, 30], [220, 40, 40], [40, 220, 60]])
# Split -> number of images.
SIZES = {"train": 5, "test": 3}


def write_split(root: Path, split: str, count: int, *, size: tuple[int, int] = (32, 32), seed: int = 0) -> None:
    """Write images of `size` (width, height). Class 0 is the background, 1 and 2 are squares. One corner is void."""
    generator = np.random.default_rng([seed, len(split)])
    for kind in ("images", "masks"):
        (root / split / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        mask = np.zeros(size[::-1], dtype=np.uint8)
        for label in (1, 2):
            top, left = generator.integers(0, size[1] - 10), generator.integers(0, size[0] - 10)
            mask[top : top + 10, left : left + 10] = label
        image = COLOURS[mask] + generator.integers(0, 30, (*mask.shape, 3))
        mask[:3, :3] = 255
        Image.fromarray(image.astype(np.uint8)).save(root / split / "images" / f"{number:02d}.png")
        Image.fromarray(mask).save(root / split / "masks" / f"{number:02d}.png")


def write_dataset(root: Path, **options) -> str:
    """Write the dataset, and return its name for `--dataset`."""
    for split, count in SIZES.items():
        write_split(root, split, count, **options)
    (root / "classes.txt").write_text("ground\nred\ngreen\n")
    return f"squares=masks:{root}"
