"""Published recipes for training a classifier on a pretrained transformer (spec udi 7.3 to 7.5)."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What recipes differ in; `fungi fine-tune --help` says what each value is."""

    epochs: int
    batch_size: int
    lr: float
    lr_images: int
    warmup_epochs: int
    layer_decay: float
    erasing: float
    repeats: int
    averaging: float
    classifier_scale: float
    head_layer: bool


RECIPES = {
    "imagenet": Recipe(
        epochs=200,
        batch_size=256,
        lr=1e-3,
        lr_images=0,
        warmup_epochs=20,
        layer_decay=0.55,
        erasing=0.25,
        repeats=1,
        averaging=0.0,
        classifier_scale=0.001,
        head_layer=False,
    ),
    "transfer": Recipe(
        epochs=1000,
        batch_size=96,
        lr=7.5e-6,
        lr_images=512,
        warmup_epochs=5,
        layer_decay=1.0,
        erasing=0.1,
        repeats=3,
        averaging=0.99996,
        classifier_scale=1.0,
        head_layer=False,
    ),
    "low-shot": Recipe(
        epochs=1000,
        batch_size=128,
        lr=5e-6,
        lr_images=512,
        warmup_epochs=5,
        layer_decay=1.0,
        erasing=0.25,
        repeats=1,
        averaging=0.99996,
        classifier_scale=1.0,
        head_layer=True,
    ),
}
"""Batch sizes are those of one process out of 4, 8 and 4; the rate of `transfer` is that for CIFAR-100."""
