"""`patterns`: eight classes of generated textures, 32 x 32 pixels, for pretraining on a CPU (spec udi 9.1).

Every crop of an image shows its class. Colour, contrast and brightness do not depend on the class.
"""

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.image_files import ImageArray
from fungi.runtime.seeds import numpy_generator

SIDE, NOISE = 32, 0.08
ROWS = {"train": 2048, "test": 512}
CLASSES = ("rows", "columns", "checks", "diamonds", "rings", "dots", "blobs", "rays")


def pattern(kind: int, random: np.random.Generator) -> Float[np.ndarray, "32 32"]:
    """Return a texture of a class with a random angle, frequency and position; values are from -1 to 1."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, SIDE),) * 2, indexing="ij")
    angle, f = random.uniform(-0.2, 0.2), random.uniform(5, 14)
    p1, p2 = random.uniform(0, 2 * np.pi, 2)
    cx, cy = random.uniform(-0.6, 0.6, 2)
    u, v = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    r, phi = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx)
    s1, s2, w = np.sin(f * u + p1), np.sin(f * v + p2), f / np.sqrt(2)
    if kind == 6:
        return np.sign(_smooth_field(random))
    values: tuple[np.ndarray, ...] = (
        s2,
        s1,
        s1 * s2,
        np.sin(w * (u + v) + p1) * np.sin(w * (u - v) + p2),
        np.sin(1.1 * f * r + p1),
        np.where((s1 > 0.2) & (s2 > 0.2), 1.0, -1.0),
        s1,  # never used: kind 6 is the smooth field above
        np.sin(round(f / 2) * phi + p1),
    )
    return np.sign(values[kind])


def picture(kind: int, random: np.random.Generator) -> UInt8[np.ndarray, "32 32 3"]:
    """Return an image of a class: a texture with random contrast, brightness gradient and noise."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, SIDE),) * 2, indexing="ij")
    contrast = random.uniform(0.2, 0.35) * random.choice([-1, 1])
    slope = random.uniform(-0.1, 0.1, 2)
    grey = 0.5 + contrast * pattern(kind, random) + slope[0] * x + slope[1] * y
    noisy = grey[:, :, None] + random.normal(0, NOISE, (SIDE, SIDE, 3))
    return np.rint(255 * noisy.clip(0, 1)).astype(np.uint8)


def _smooth_field(random: np.random.Generator) -> Float[np.ndarray, "32 32"]:
    """Return Gaussian noise on a 6 x 6 grid, resized bicubically to the size of an image."""
    from PIL import Image

    field = Image.fromarray(random.normal(size=(6, 6)).astype(np.float32))
    return np.asarray(field.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


@cache
def _images(split: str) -> UInt8[np.ndarray, "n 32 32 3"]:
    return np.stack(
        [picture(row % len(CLASSES), numpy_generator(0, "patterns", split, row)) for row in range(ROWS[split])]
    )


def _open(data_dir: Path, split: str) -> Samples:
    return Samples(
        targets=(np.arange(ROWS[split]) % len(CLASSES)).astype(np.uint32),
        ids=[f"patterns/{split}/{row}" for row in range(ROWS[split])],
        load=ImageArray(_images(split)),
        class_names=CLASSES,
    )


register_dataset(
    name="patterns",
    title="Generated textures",
    classes=len(CLASSES),
    sizes=ROWS,
    open=_open,
    published=False,
    notes="generated: needs no download",
)
