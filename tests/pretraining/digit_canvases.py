"""Handwritten digits on dark canvases with their boxes and masks, in the format of COCO."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fungi.data.sets.digits import digit_images, split_rows
from fungi.runtime.seeds import numpy_generator

SIDE = 64  # pixels
CATEGORY_IDS = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89]
"""Ids of the classes, with gaps like those of COCO. Entry i is the id of digit i."""

DETECTOR_FLAGS = [
    *("--epochs", "1", "--lr", "1e-3", "--warmup-steps", "2", "--batch-size", "2", "--proposals", "16"),
    *("--short-sides", "64", "--longest-side", "64", "--crop", "48", "64", "--crop-short-sides", "64"),
]
"""Flags of a detector for these canvases that is small enough for a CPU."""


def write_canvases(root: Path, counts: dict[str, int]) -> Path:
    """Write `annotations/instances_SPLIT.json` and the images of each split. Return the root."""
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": number, "name": str(digit)} for digit, number in enumerate(CATEGORY_IDS)]
    for split, count in counts.items():
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(1, count + 1):
            name = f"{number:012d}.png"
            canvas, objects = compose("train" if split.startswith("train") else "test", number)
            Image.fromarray(canvas).save(root / split / name)
            images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
            annotations += [
                {"id": len(annotations) + position, "image_id": number, **item}
                for position, item in enumerate(objects, 1)
            ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def compose(split: str, number: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the pixels of a canvas and the annotations of its two digits, which lie in the left and the right half."""
    generator = numpy_generator(0, "canvases", split, number)
    canvas = generator.integers(0, 40, (SIDE, SIDE), dtype=np.uint8)
    digits, labels = digit_images()
    objects = []
    for left in (0, SIDE // 2):
        row, side = int(generator.choice(split_rows(split))), int(generator.integers(24, 32))
        digit = np.asarray(Image.fromarray(digits[row]).resize((side, side), Image.Resampling.BICUBIC))
        top, start = int(generator.integers(0, SIDE - side)), left + int(generator.integers(0, SIDE // 2 - side + 1))
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[top : top + side, start : start + side] = digit >= 96  # pixels of ink; the background is below 40
        region = (slice(top, top + side), slice(start, start + side))
        canvas[region] = np.maximum(canvas[region], digit)
        objects.append(_instance(mask, CATEGORY_IDS[int(labels[row])]))
    return np.stack([canvas] * 3, axis=-1), objects


def _instance(mask: np.ndarray, category: int) -> dict[str, Any]:
    """Return an annotation, with the mask in COCO's uncompressed run lengths, column by column."""
    # The first run is of zeros (its length may be 0). A different value after the last pixel ends the last run.
    values = np.concatenate([[0], mask.flatten(order="F"), [1 - mask[-1, -1]]])
    run_ends = np.flatnonzero(np.diff(values))
    counts = np.diff(np.concatenate([[0], run_ends])).tolist()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    box = [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
    return {
        "bbox": box,
        "area": int(mask.sum()),
        "iscrowd": 0,
        "category_id": category,
        "segmentation": {"size": list(mask.shape), "counts": counts},
    }
