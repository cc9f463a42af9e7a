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

SIDE = 32  # of an image, in pixels
NOISE = 0.08  # standard deviation of the noise, for grey values from 0 to 1
ROWS = {"train": 2048, "test": 512}
"""Split -> number of images."""
CLASSES = ("rows", "columns", "checks", "diamonds", "rings", "dots", "blobs", "rays")


def pattern(kind: int, random: np.random.Generator) -> Float[np.ndarray, "32 32"]:
    """Return a texture of class number `kind` with values -1 and 1. Angle, frequency and position are random."""
    y, x = _coordinates()
    angle, frequency = random.uniform(-0.2, 0.2), random.uniform(5, 14)
    phase_u, phase_v = random.uniform(0, 2 * np.pi, 2)
    centre_x, centre_y = random.uniform(-0.6, 0.6, 2)
    # The axes u and v are the axes x and y, rotated by the angle.
    u, v = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    radius, direction = np.hypot(x - centre_x, y - centre_y), np.arctan2(y - centre_y, x - centre_x)
    wave_u, wave_v = np.sin(frequency * u + phase_u), np.sin(frequency * v + phase_v)
    diagonal = frequency / np.sqrt(2)  # then waves along u + v and u - v have the given frequency
    if CLASSES[kind] == "blobs":
        return np.sign(_smooth_field(random))
    values: dict[str, np.ndarray] = {
        "rows": wave_v,
        "columns": wave_u,
        "checks": wave_u * wave_v,
        "diamonds": np.sin(diagonal * (u + v) + phase_u) * np.sin(diagonal * (u - v) + phase_v),
        "rings": np.sin(1.1 * frequency * radius + phase_u),
        "dots": np.where((wave_u > 0.2) & (wave_v > 0.2), 1.0, -1.0),
        "rays": np.sin(round(frequency / 2) * direction + phase_u),
    }
    return np.sign(values[CLASSES[kind]])


def _coordinates() -> tuple[Float[np.ndarray, "32 32"], Float[np.ndarray, "32 32"]]:
    """Return the coordinates (y, x) of the pixels, from -1 to 1."""
    positions = np.linspace(-1, 1, SIDE)
    y, x = np.meshgrid(positions, positions, indexing="ij")
    return y, x


def picture(kind: int, random: np.random.Generator) -> UInt8[np.ndarray, "32 32 3"]:
    """Return an image of class number `kind`: a texture with random contrast, brightness gradient and noise."""
    y, x = _coordinates()
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
    is_in_paper=False,
    notes="generated: needs no download",
)
