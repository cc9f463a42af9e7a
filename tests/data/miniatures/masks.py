"""Write masks as palette PNGs or as grey PNGs."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_palette_mask(path: Path, values: np.ndarray) -> None:
    """Write a palette PNG with colours that differ from the class numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8), "L").convert("P")
    image.putdata(values.astype(np.uint8).reshape(-1).tolist())
    image.putpalette([(37 * number + channel) % 256 for number in range(256) for channel in (11, 101, 191)])
    image.save(path)


def write_grey_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8), "L").save(path)
